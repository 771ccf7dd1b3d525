"""Prefixes: keys and values in front of every layer, equal to PEFT's, both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import quire
from quire.adapt import activate, attach_prefix, is_prefix, open_prefix, save_prefix
from quire.adapt.surgery import trained
from quire.binding import bound
from quire.decode.loop import complete, decode
from quire.errors import ContextError, ModelError, QuireError, RecipeError
from quire.families import ModelFolder
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.cache import Cache
from quire.types import Beam, Sampling
from tests.adapt.oracle import batch_for, case_of, saved_base, with_peft
from tests.families.reference import our_outputs, their_outputs
from tests.small import write_model

CASES = {
    "llama": case_of("llama"),
    "gpt2": case_of("gpt2"),
    "t5": case_of("t5", d_kv=8),  # PEFT's own default takes heads for as wide as the model has room for
    "t5-wide": case_of("t5"),
    "bart": case_of("bart"),
    "marian": case_of("marian", decoder_layers=1),
}
THEIRS = [name for name in CASES if name != "t5-wide"]


def close(case: Any, theirs: Any, model: Any) -> None:
    batch = batch_for(case, padded=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = their_outputs(case, theirs, batch)
        found = our_outputs(model, batch, wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_peft_opens_what_we_save(name: str, tmp_path: Path) -> None:
    _, opened = saved_base(CASES[name], tmp_path / "base")
    model = opened.build()
    attach_prefix(model, 5, opened, hidden=16, generator=torch.Generator().manual_seed(1))
    save_prefix(tmp_path / "prefix", model, opened)
    close(CASES[name], with_peft(tmp_path / "base", tmp_path / "prefix", CASES[name]), model)
    again = opened.build()
    assert "on trust" in open_prefix(tmp_path / "prefix", again, opened) and is_prefix(tmp_path / "prefix")
    close(CASES[name], with_peft(tmp_path / "base", tmp_path / "prefix", CASES[name]), again)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", THEIRS)
def test_we_open_what_peft_saves(name: str, projected: bool, tmp_path: Path) -> None:
    import peft

    theirs, opened = saved_base(CASES[name], tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        more = {"prefix_projection": True, "encoder_hidden_size": 16} if projected else {}
        task = "SEQ_2_SEQ_LM" if CASES[name].model.kind == "seq2seq" else "CAUSAL_LM"
        tuned = peft.get_peft_model(theirs, peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=5, **more)).eval()
        tuned.save_pretrained(str(tmp_path / "prefix"))
    model = opened.build()
    open_prefix(tmp_path / "prefix", model, opened)
    close(CASES[name], tuned, model)
    if projected:
        return
    batch = batch_for(CASES[name], padded=False)
    their_outputs(CASES[name], tuned, batch)["logits"].square().mean().backward()
    model.head(model(batch)).square().mean().backward()
    [learned] = trained(model).values()
    torch.testing.assert_close(learned.grad, tuned.prompt_encoder["default"].embedding.weight.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("layers", "pairs"), [(2, 3), (3, 3)])
def test_every_layer_of_an_encoder_decoder_has_its_own(layers: int, pairs: int, tmp_path: Path) -> None:
    """PEFT gives decoder layer i the pair 2 i mod num_layers; we choose a number with which no two layers share one."""
    _, opened = saved_base(case_of("t5", num_layers=2, num_decoder_layers=layers), tmp_path / "base")
    model = opened.build()
    attach_prefix(model, 4, opened)
    model.head(model(batch_for(CASES["t5"], padded=False))).square().mean().backward()
    [learned] = trained(model).values()
    moved = learned.grad.unflatten(1, (pairs, -1)).abs().sum((0, 2)) > 0
    assert int(moved.sum()) == layers
    written = json.loads((save_prefix(tmp_path / "prefix", model, opened) / "adapter_config.json").read_text())
    assert (written["num_layers"], written["num_transformer_submodules"]) == (pairs, 2)


def test_the_cache_begins_with_it(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "llama"))
    model = opened.build()
    tokens, whole = torch.tensor([[11, 12, 13, 14]]), model.config.context
    with torch.no_grad():
        plain = model.decode(tokens)
        attach_prefix(model, 3, opened)
        assert len(trained(model)) == 1 and model.config.context == whole - 3
        cache = Cache(model.config, 1, 4)
        parts = [model.decode(tokens[:, :2], AttnContext(cache=cache)), model.decode(tokens[:, 2:], AttnContext(cache=cache))]
        found = model.decode(tokens)
        torch.testing.assert_close(torch.cat(parts, 1), found, atol=1e-5, rtol=1e-5)
        assert cache.length == 7 and not torch.allclose(found, plain)
        activate(model, None)
        assert torch.equal(model.decode(tokens), plain) and model.config.context == whole
    activate(model, "default")
    model.head(model(Batch(tokens))).square().mean().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained(model).values())


def test_an_opened_model_answers_with_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base", "llama", template=True)
    opened = ModelFolder.open(folder)
    model = opened.build()
    attach_prefix(model, 4, opened, hidden=8, generator=torch.Generator().manual_seed(3))
    save_prefix(tmp_path / "prefix", model, opened, bound(folder))
    plain, tuned = quire.load(folder), quire.load(folder, adapter=tmp_path / "prefix")
    greedy = Sampling(temperature=0.0, max_tokens=8)
    found = tuned.generate("def parse", greedy)
    ids = tuned.contract.prompt("def parse")
    stops = tuple(tuned.contract.stop_ids or ())
    assert found.ids == complete(decode(tuned.model, ids, greedy, tuned.contract.tokenizer.target, stop_ids=stops), 1).ids
    assert found.ids != plain.generate("def parse", greedy).ids and tuned.identity != plain.identity
    assert tuned.chat([{"role": "user", "content": "hi"}], greedy).ids
    assert "".join(chunk.text for chunk in tuned.stream("def parse", greedy)) == found.text
    with pytest.raises(ModelError, match="prefix"):
        tuned.generate("def parse", greedy, regex="a+")


def test_an_opened_encoder_decoder_writes_with_it(tmp_path: Path) -> None:
    """The plain loop, many rows at once with and without beams, and PEFT's own `generate`."""
    folder = write_model(tmp_path / "base", "t5")
    opened = ModelFolder.open(folder)
    model = opened.build()
    attach_prefix(model, 4, opened, generator=torch.Generator().manual_seed(3))
    save_prefix(tmp_path / "prefix", model, opened, bound(folder))
    plain, tuned = quire.load(folder), quire.load(folder, adapter=tmp_path / "prefix")
    greedy = Sampling(temperature=0.0, max_tokens=8)
    assert tuned.config.context == plain.config.context - 4 and tuned.identity != plain.identity
    start, source = tuned._start("def parse")
    with torch.no_grad():  # step by step without a cache
        ids = list(start)
        for _ in range(8):
            batch = Batch(torch.tensor([ids]), source=Batch(torch.tensor([source])))
            ids.append(int(tuned.model.head(tuned.model(batch))[0, -1].argmax()))
    assert list(tuned.generate("def parse", greedy).ids) == ids[1:]
    assert [list(one.ids) for one in tuned.generate(["return", "def parse"], greedy)][1] == ids[1:]
    assert complete(tuned.stream("def parse", greedy), 1).ids == tuned.generate("def parse", greedy).ids
    assert plain.generate("def parse", greedy).ids != tuned.generate("def parse", greedy).ids
    theirs = with_peft(folder, tmp_path / "prefix", CASES["t5"])
    written = theirs.generate(input_ids=torch.tensor([source]), max_new_tokens=8, do_sample=False, eos_token_id=-1)
    assert written[0].tolist() == ids
    assert tuned.text2text(["def parse"], how=Beam(2))[0].ids


def test_refused(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "llama"))
    model = opened.build()
    with pytest.raises(RecipeError, match="allowed is 1 to 63"):
        attach_prefix(model, 64, opened)
    attach_prefix(model, 3, opened)
    with pytest.raises(ContextError, match="share a row"):
        model(Batch(torch.tensor([[11]]), segments=torch.tensor([[0]])))
    folder = save_prefix(tmp_path / "prefix", model, opened)
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (
        ({"peft_type": "LORA"}, "allowed is PREFIX_TUNING"),
        ({"num_layers": 3}, "num_layers is '3'; this base has 2"),
        ({"num_virtual_tokens": 4}, "of shape"),
        ({"num_virtual_tokens": 400}, "allowed is 1 to 63"),
        ({"strange": 1}, "strange"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(QuireError, match=message):
            open_prefix(folder, opened.build(), opened)
    both = ModelFolder.open(write_model(tmp_path / "t5", "t5"))
    model = both.build()
    attach_prefix(model, 3, both)
    folder = save_prefix(tmp_path / "both", model, both)
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (
        ({"num_layers": 1}, "num_layers is '1'; allowed for this base: 2 and more"),
        ({"num_layers": 4}, "of shape"),
        ({"num_transformer_submodules": 1}, "num_transformer_submodules is '1'; this base has 2"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(QuireError, match=message):
            open_prefix(folder, both.build(), both)
