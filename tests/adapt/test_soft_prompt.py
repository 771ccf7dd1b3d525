"""Soft prompts: trained in front of a text, equal to PEFT's, both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from quire.adapt import activate, adapters, attach, attach_prompt, detach, merge, open_prompt, prompt_ids, save_prompt
from quire.adapt.lora import LoRA
from quire.adapt.soft_prompt import PromptVectors
from quire.adapt.surgery import trained
from quire.decode import step
from quire.errors import BindingError, ContextError, ModelError, QuireError, RecipeError
from quire.families import ModelFolder
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.cache import Cache
from tests.adapt.oracle import batch_for, case_of, saved_base, with_peft
from tests.families.reference import our_outputs, their_outputs
from tests.small import write_model

CASES = {
    "llama": case_of("llama"),
    "gpt2": case_of("gpt2"),
    "t5": case_of("t5"),
}
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


def close(case, theirs, model) -> None:
    batch = batch_for(case, padded=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = their_outputs(case, theirs, batch)
        found = our_outputs(model, batch, wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name][:, -found[name].shape[1] :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_peft_opens_what_we_save(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach_prompt(model, 5, opened, hidden=16, generator=torch.Generator().manual_seed(1))
    save_prompt(tmp_path / "prompt", model, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "prompt", case), model)
    again = opened.build()
    assert "on trust" in open_prompt(tmp_path / "prompt", again, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "prompt", case), again)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig"])
@pytest.mark.parametrize("name", list(CASES))
def test_we_open_what_peft_saves(name: str, kind: str, tmp_path: Path) -> None:
    import peft

    case = CASES[name]
    theirs, opened = saved_base(case, tmp_path / "base")
    more = {"encoder_hidden_size": 16} if kind == "PromptEncoderConfig" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        tuned = peft.get_peft_model(theirs, getattr(peft, kind)(task_type=TASKS[name], num_virtual_tokens=5, **more)).eval()
        tuned.save_pretrained(str(tmp_path / "prompt"))
    model = opened.build()
    open_prompt(tmp_path / "prompt", model, opened)
    close(case, tuned, model)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "llama", "llama")


def test_it_begins_as_a_text(base: Path) -> None:
    opened = ModelFolder.open(base)
    model = opened.build()
    attach_prompt(model, 5, opened, text=(7, 8, 9))
    vectors = model.embed.adapters["default"]
    assert isinstance(vectors, PromptVectors)
    assert torch.equal(vectors(), model.embed.weight[[7, 8, 9, 7, 8]])
    tokens = torch.tensor([[11, 12]])
    with torch.no_grad():
        activate(model, None)
        as_text = model(Batch(torch.tensor([[7, 8, 9, 7, 8, 11, 12]])))[:, 5:]
        activate(model, "default")
        assert torch.equal(model(Batch(tokens)), as_text)
    assert prompt_ids(model) == [model.config.vocab + i for i in range(5)]


@pytest.mark.parametrize("hidden", [0, 8])
def test_only_the_prompt_learns(hidden: int, base: Path) -> None:
    opened = ModelFolder.open(base)
    model = opened.build().train()
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attach_prompt(model, 3, opened, hidden=hidden)
    model.head(model(Batch(torch.tensor([[11, 12, 13]])))).square().mean().backward()
    assert len(trained(model)) == (7 if hidden else 1)
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained(model).values())
    detach(model, "default")
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.state_dict().items())


def test_the_cache_holds_it_as_any_text(base: Path) -> None:
    opened = ModelFolder.open(base)
    model = opened.build()
    attach_prompt(model, 4, opened)
    tokens, whole = torch.tensor([[11, 12, 13]]), model.config.context
    with torch.no_grad():
        cache = Cache(model.config, 1, 3)
        parts = [model.decode(tokens[:, :2], AttnContext(cache=cache)), model.decode(tokens[:, 2:], AttnContext(cache=cache))]
        assert cache.length == 7
        torch.testing.assert_close(torch.cat(parts, 1), model.decode(tokens), atol=1e-5, rtol=1e-5)
        keep, places = torch.tensor([[True, True, True, False]]), torch.tensor([[0, 1, 2, 3]])
        padded = model(Batch(torch.tensor([[11, 12, 13, 0]]), keep=keep, positions=places))
        torch.testing.assert_close(padded[:, :3], model.decode(tokens), atol=1e-5, rtol=1e-5)
    assert not step.understands(model)
    assert not merge(model) and adapters(model) == ["default"]
    activate(model, None)
    assert prompt_ids(model) == [] and model.config.context == whole + 4


def test_refused(base: Path, tmp_path: Path) -> None:
    from quire.binding import bound

    opened = ModelFolder.open(base)
    model = opened.build()
    for length, more in ((0, {}), (64, {}), (3, {"text": (10**6,)}), (3, {"hidden": -1}), (3, {"name": "a b"})):
        with pytest.raises(RecipeError):
            attach_prompt(model, length, opened, **more)
    attach_prompt(model, 3, opened)
    with pytest.raises(ContextError, match="share a row"):
        model(Batch(torch.tensor([[11]]), segments=torch.tensor([[0]])))
    with pytest.raises(ModelError, match="in another way"):
        attach(model, LoRA(2, targets=("embed",)), opened, name="two")
    folder = save_prompt(tmp_path / "prompt", model, opened, bound(base))
    with pytest.raises(BindingError, match="no binding to compare"):
        open_prompt(folder, opened.build(), opened)
    assert open_prompt(folder, opened.build(), opened, bound(base)) == ""
    (folder / "quire_adapter.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (
        ({"peft_type": "LORA"}, "peft_type is 'LORA'; allowed is PROMPT_TUNING or P_TUNING"),
        ({"num_virtual_tokens": 10**9}, "num_virtual_tokens is '1000000000'"),
        ({"num_virtual_tokens": 4}, "a prompt of this base is prompt_embeddings of shape"),
        ({"token_dim": 8}, "token_dim is '8'"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules is '2'; this base has 1"),
        ({"virtual": ["head"]}, "virtual"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(QuireError, match=message):
            open_prompt(folder, opened.build(), opened)


def test_scaled_embeddings_take_none(tmp_path: Path) -> None:
    _, opened = saved_base(case_of("gemma"), tmp_path / "base")
    with pytest.raises(ModelError, match="scales or widens"):
        attach_prompt(opened.build(), 3, opened)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_opened_model_answers_with_it(family: str, tmp_path: Path) -> None:
    """The engine, the plain loop and a forward see the same prompt."""
    import quire
    from quire.binding import bound
    from quire.decode.loop import complete, decode
    from quire.types import Sampling

    folder = write_model(tmp_path / "base", family)
    opened = ModelFolder.open(folder)
    model = opened.build()
    attach_prompt(model, 4, opened, generator=torch.Generator().manual_seed(3))
    save_prompt(tmp_path / "prompt", model, opened, bound(folder))
    plain, tuned = quire.load(folder), quire.load(folder, adapter=tmp_path / "prompt")
    assert tuned.identity != plain.identity and tuned.config.context == plain.config.context - 4
    greedy = Sampling(temperature=0.0, max_tokens=8)
    found = tuned.generate(["def parse", "return"], greedy)
    start, source = tuned._start("def parse")
    by_hand = complete(decode(model, start, greedy, tuned.contract.tokenizer.target, source=source), 1)
    assert found[0].ids == by_hand.ids and len(found) == 2
    assert complete(tuned.stream("def parse", greedy), 1).ids == by_hand.ids
    assert found[0].ids != plain.generate("def parse", greedy).ids
    assert tuned.score([("def", " parse")])[0].logprob != plain.score([("def", " parse")])[0].logprob
