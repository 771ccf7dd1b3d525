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
from quire.types import Sampling
from tests.adapt.oracle import batch_for, case_of, saved_base, with_peft
from tests.families.reference import our_outputs, their_outputs
from tests.small import write_model

CASES = {"llama": case_of("llama"), "gpt2": case_of("gpt2")}


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
    attach_prefix(model, 5, hidden=16, generator=torch.Generator().manual_seed(1))
    save_prefix(tmp_path / "prefix", model, opened)
    close(CASES[name], with_peft(tmp_path / "base", tmp_path / "prefix", CASES[name]), model)
    again = opened.build()
    assert "on trust" in open_prefix(tmp_path / "prefix", again, opened) and is_prefix(tmp_path / "prefix")
    close(CASES[name], with_peft(tmp_path / "base", tmp_path / "prefix", CASES[name]), again)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_we_open_what_peft_saves(name: str, projected: bool, tmp_path: Path) -> None:
    import peft

    theirs, opened = saved_base(CASES[name], tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        more = {"prefix_projection": True, "encoder_hidden_size": 16} if projected else {}
        tuned = peft.get_peft_model(theirs, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, **more)).eval()
        tuned.save_pretrained(str(tmp_path / "prefix"))
    model = opened.build()
    open_prefix(tmp_path / "prefix", model, opened)
    close(CASES[name], tuned, model)


def test_the_cache_begins_with_it(tmp_path: Path) -> None:
    model = ModelFolder.open(write_model(tmp_path / "base", "llama")).build()
    tokens, whole = torch.tensor([[11, 12, 13, 14]]), model.config.context
    with torch.no_grad():
        plain = model.decode(tokens)
        attach_prefix(model, 3)
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
    attach_prefix(model, 4, hidden=8, generator=torch.Generator().manual_seed(3))
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


def test_refused(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "llama"))
    for family in ("t5", "bert"):
        with pytest.raises(ModelError, match="decoders that write text"):
            attach_prefix(ModelFolder.open(write_model(tmp_path / family, family)).build(), 3)
    model = opened.build()
    with pytest.raises(RecipeError, match="allowed is 1 to 63"):
        attach_prefix(model, 64)
    attach_prefix(model, 3)
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
