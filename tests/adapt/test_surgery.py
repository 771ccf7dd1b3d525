"""Adapters on a built model: what is targeted, several at once, merged and taken off again, for all three kinds of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import quire
from quire.adapt import LoRA, activate, adapters, attach, detach, merge, quantize_model, save_adapter, trainable, unmerge
from quire.adapt.lora import AdaptedLinear, LowRank
from quire.adapt.surgery import trained
from quire.binding import bound
from quire.errors import ModelError, RecipeError
from quire.families import ModelFolder
from quire.native.step import unfit
from quire.nn.batch import Batch
from quire.nn.heads import token_loss
from tests.adapt.oracle import case_of, disturb, saved_base
from tests.small import write_model

KINDS = ["llama", "gpt2", "bert", "t5"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {kind: write_model(place / kind, kind) for kind in KINDS}


def batch() -> Batch:
    tokens = torch.randint(6, 200, (2, 9), generator=torch.Generator().manual_seed(5))
    return Batch(tokens, source=Batch(tokens.flip(1)))


def logits(model) -> torch.Tensor:
    rows = batch()
    if model.config.kind != "seq2seq":
        rows.source = None
    with torch.no_grad():
        return model.head(model(rows))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attach_merge_unmerge_detach(kind: str, dora: bool, bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases[kind])
    model = opened.build()
    before, state = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attach(model, LoRA(4, dora=dora), opened)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)  # a new adapter changes no answer
    disturb(model)
    adapted = logits(model)
    assert not torch.allclose(adapted, before, atol=1e-2)
    wrapped = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taken = merge(model)
    assert not adapters(model) and model.state_dict().keys() == state.keys()
    torch.testing.assert_close(logits(model), adapted, atol=2e-5, rtol=1e-5)
    unmerge(model, taken)
    assert all(torch.equal(tensor, wrapped[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), adapted)
    detach(model, "default")
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_learns(kind: str, packed: bool, bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases[kind])
    model = opened.build().train()
    if packed:
        quantize_model(model)
    attach(model, LoRA(4, dropout=0.1, dora=True), opened)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".adapters." not in name}
    disturb(model)
    rows = batch()
    if kind != "t5":
        rows.source = None
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    total, count = token_loss(model.head, model(rows), rows.tokens)
    (total / count).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained(model).values())
    assert all(".adapters." in name for name in trained(model))
    optimizer.step()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.state_dict().items() if name in frozen)


def test_the_base_stays_in_its_file(bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases["llama"])
    model = opened.build()
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    attach(model, LoRA(4), opened)
    assert {parameter.data_ptr() for parameter in model.parameters()} >= set(before.values())


def test_several_adapters_and_a_choice(bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases["llama"])
    model = opened.build()
    base = logits(model)
    attach(model, LoRA(4, targets=("attn.q",)), opened, name="one")
    attach(model, LoRA(2, targets=("attn.q", "ffn.up")), opened, name="two")
    disturb(model)
    two = logits(model)
    activate(model, "one")
    one = logits(model)
    assert adapters(model) == ["one", "two"] and not torch.allclose(one, two)
    assert {name.split(".adapters.")[1].split(".")[0] for name in trained(model)} == {"one"}
    activate(model, None)
    assert torch.equal(logits(model), base) and not trained(model)
    detach(model, "one")
    activate(model, "two")
    assert torch.equal(logits(model), two)
    with pytest.raises(RecipeError, match="there is no adapter 'tow'; there are: two. Did you mean 'two'"):
        activate(model, "tow")
    with pytest.raises(RecipeError, match="already"):
        attach(model, LoRA(4), opened, name="two")
    with pytest.raises(RecipeError, match="letters, digits"):
        attach(model, LoRA(4), opened, name="a.b")


def test_targets(bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases["llama"])
    every = attach(opened.build(), LoRA(4), opened)
    assert len(every) == 2 * 7 and not any(name.startswith("head") for name in every)
    assert attach(opened.build(), LoRA(4, targets=("q_proj",)), opened) == attach(opened.build(), LoRA(4, targets=("attn.q",)), opened)
    assert attach(opened.build(), LoRA(4, targets=("decoder.layers.1.*",)), opened) == every[7:]
    assert attach(opened.build(), LoRA(4, targets=("embed", "attn.o")), opened)[0] == "embed"
    with pytest.raises(ModelError, match=r"the target 'q_porj' matches no layer. Did you mean 'q_proj'.* Allowed: all-linear, .*attn.q"):
        attach(opened.build(), LoRA(4, targets=("attn.v", "q_porj")), opened)
    bert = ModelFolder.open(bases["bert"])  # its own words for it are far from those of another family
    with pytest.raises(ModelError, match=r"the target 'qproj' matches no layer. Did you mean 'attn.q'\? Allowed"):
        attach(bert.build(), LoRA(4, targets=("qproj",)), bert)
    for wrong in ({"rank": 0}, {"alpha": float("nan")}, {"dropout": 1.0}, {"targets": "attn.q"}, {"targets": ()}):
        with pytest.raises(RecipeError):
            LoRA(**wrong)


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    _, opened = saved_base(case_of("mixtral"), tmp_path / "base")
    assert all(".attn." in name for name in attach(opened.build(), LoRA(2), opened))
    with pytest.raises(ModelError, match="experts"):
        attach(opened.build(), LoRA(2, targets=("ffn.experts.0.up",)), opened)


def test_fused_parts_share_their_a(bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases["gpt2"])
    model = opened.build()
    attach(model, LoRA(4), opened)
    attn = model.decoder.layers[0].attn
    assert attn.q.adapters["default"].a is attn.k.adapters["default"].a is attn.v.adapters["default"].a
    assert attn.q.adapters["default"].a is not attn.o.adapters["default"].a
    assert trainable(model).startswith("trainable params: ")


def test_dora_is_the_papers_formula(bases: dict[str, Path]) -> None:
    opened = ModelFolder.open(bases["gpt2"])
    model = opened.build()
    attach(model, LoRA(3, 5.0, targets=("attn.o",), dora=True), opened)
    disturb(model)
    wrapper = model.decoder.layers[0].attn.o
    assert isinstance(wrapper, AdaptedLinear)
    part, base = wrapper.adapters["default"], wrapper.base
    assert isinstance(part, LowRank)
    whole = base.weight + 5.0 / 3 * part.b @ part.a
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    wanted = F.linear(x, part.magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True), base.bias)
    torch.testing.assert_close(wrapper(x), wanted, atol=1e-5, rtol=1e-5)


def test_lean_steps_stand_back(bases: dict[str, Path]) -> None:
    """A fused step reads weights past the wrappers: it must see that something is there, and take a merged model again."""
    from quire.decode import rows, step

    opened = ModelFolder.open(bases["llama"])
    model = opened.build()
    plain = unfit(model)
    attach(model, LoRA(4, targets=("attn.q",)), opened)
    assert not step.understands(model) and "wrapped or swapped (LowRank)" in (unfit(model) if not plain else "wrapped or swapped (LowRank)")
    merge(model)
    assert step.understands(model) and unfit(model) == plain
    opened = ModelFolder.open(bases["t5"])
    model = opened.build()
    attach(model, LoRA(4, targets=("decoder.layers.0.cross.q",)), opened)
    assert not rows.understands(model)
    merge(model)
    assert rows.understands(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_engine_answers_as_the_plain_loop(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Merged by `load`, and left attached: the same tokens as the plain loop over the wrapped model."""
    opened = ModelFolder.open(bases[kind])
    model = opened.build()
    attach(model, LoRA(4), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened, bound(bases[kind]))
    loaded, base = quire.load(bases[kind], adapter=tmp_path / "adapter"), quire.load(bases[kind])
    assert loaded.identity.startswith(base.identity + "+") and loaded.identity != base.identity
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=2e-5, rtol=1e-5)
    merged = loaded.generate("def parse", max_tokens=8, temperature=0.0).text
    assert merged != base.generate("def parse", max_tokens=8, temperature=0.0).text
    attached = quire.load(bases[kind])
    attached.model = model  # no step of the kernels knows it
    assert attached.generate("def parse", max_tokens=8, temperature=0.0).text == merged
    for each in (loaded, attached):
        engine = quire.Engine(each)
        sampling = quire.Sampling(max_tokens=8, temperature=0.0)
        assert engine.generate(["def parse"], sampling)[0].text == merged
    activate(model, None)  # under the same engine, which must not go on from what it computed with the adapter
    plain = quire.load(bases[kind]).generate("def parse", max_tokens=8, temperature=0.0).text
    assert engine.generate(["def parse"], sampling)[0].text == plain


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_opens_in_the_reference(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    import transformers

    from quire.model import merge as merge_folder

    opened = ModelFolder.open(bases[kind])
    model = opened.build()
    attach(model, LoRA(4), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened, bound(bases[kind]))
    folder = merge_folder(bases[kind], tmp_path / "adapter", tmp_path / "merged")
    name = opened.config["architectures"][0]
    theirs = getattr(transformers, name).from_pretrained(folder).eval()
    rows = batch()
    if kind == "t5":
        arguments = {"input_ids": rows.source.tokens, "decoder_input_ids": rows.tokens}
    else:
        arguments = {"input_ids": rows.tokens}
    with torch.no_grad():
        out = theirs(**arguments)
    found = out["prediction_logits"] if "prediction_logits" in out else out["logits"]
    torch.testing.assert_close(found, logits(model), atol=5e-5, rtol=1e-4)
    assert bound(folder).recorded["lineage"]["parent"].startswith(bound(bases[kind]).id + "+")


def test_a_tied_table_is_not_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    opened = ModelFolder.open(bases["gpt2"])
    model = opened.build()
    attach(model, LoRA(4, targets=("embed", "attn.q")), opened)
    disturb(model)
    wanted = logits(model)
    assert "embed" not in merge(model) and adapters(model) == ["default"]
    torch.testing.assert_close(logits(model), wanted, atol=2e-5, rtol=1e-5)
    save_to = quire.load(bases["gpt2"])
    save_to.model = model
    with pytest.raises(ModelError, match="tied"):
        save_to.save(tmp_path / "merged")


def test_recomputed_layers_draw_the_dropout_of_an_adapter_again(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "llama", "llama"))  # without a dropout of its own
    found = []
    for checkpointing in (False, True):
        model = opened.build()
        attach(model, LoRA(4, dropout=0.5), opened)
        model.train()
        model.checkpointing = checkpointing
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(".b"):
                    weight.normal_(generator=torch.Generator().manual_seed(1))
        torch.manual_seed(0)
        model(Batch(torch.arange(1, 33)[None])).square().sum().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert found[0] and all(torch.equal(grad, found[1][name]) for name, grad in found[0].items())
