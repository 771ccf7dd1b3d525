"""Groups, schedule, and the state of the optimizer."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from quire.adapt import LoRA, attach
from quire.errors import CheckpointError
from quire.families import FAMILIES, ModelFolder, heads
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer
from quire.train.optimizer import Optimizer, groups, kinds, schedule
from quire.train.recipe import OptimPart
from tests.small import write_model


def model_of(family: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(FAMILIES[family].build(FAMILIES[family].tiny))


def step(model: Transformer, optimizer: Optimizer, seed: int) -> None:
    tokens = torch.randint(0, 60, (2, 8), generator=torch.Generator().manual_seed(seed))
    source = Batch(tokens) if model.config.kind == "seq2seq" else None
    model(Batch(tokens, source=source)).square().mean().backward()
    for name, parameter in model.named_parameters():  # heads take no part in this loss
        if parameter.grad is None:
            parameter.grad = torch.full_like(parameter, 0.01 * (1 + len(name) % 3))
    optimizer.step()
    optimizer.zero()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(family: str, name: str) -> None:
    model = model_of(family)
    found = groups(model, OptimPart(name=name))
    named = [parameter for group in found for parameter in group.names]
    assert sorted(named) == sorted(parameter for parameter, _ in model.named_parameters())
    parameters, of_kind = dict(model.named_parameters()), kinds(model)
    for group in found:
        for parameter in group.names:
            assert (group.weight_decay > 0) == (of_kind[parameter] in ("hidden", "head")), parameter
            assert group.rule == ("muon" if name == "muon" and of_kind[parameter] == "hidden" else "adamw")
            if group.rule == "muon":
                assert parameters[parameter].ndim == 2
    assert of_kind["embed.weight"] == "table"
    if family == "t5":
        assert of_kind["encoder.relative.weight"] == "table"
    if family == "bert":
        assert of_kind["encoder.positions.weight"] == "table" and of_kind["head.dense.weight"] == "head"


def test_one_weight_decay_means_one_strength() -> None:
    part = OptimPart(name="muon", lr=1e-3, muon_lr=0.02, weight_decay=0.1)
    strengths = {group.lr * group.weight_decay for group in groups(model_of("llama"), part) if group.weight_decay}
    assert all(math.isclose(strength, 1e-4) for strength in strengths)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "constant"])
def test_schedule(name: str) -> None:
    part = OptimPart(schedule=name, warmup=0.1, decay=0.4, final=0.1)
    rates = [schedule(part, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) <= 1.0 and rates[9] == 1.0
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(1.0 if name == "constant" else 0.1)
    if name == "wsd":
        assert rates[59] == 1.0 and rates[60] < 1.0 and rates[79] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.5)))
    if name == "cosine":
        assert rates[54] == pytest.approx(0.55)


def test_schedule_without_warm_up_and_of_one_step() -> None:
    assert schedule(OptimPart(warmup=0.0, final=0.2), 0, 1) == pytest.approx(0.2)
    assert schedule(OptimPart(warmup=0.0, schedule="constant"), 0, 1) == 1.0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_on_with_the_same_bits(name: str) -> None:
    straight, stopped = model_of("llama"), model_of("llama")
    part = OptimPart(name=name)
    a, b = Optimizer(straight, part), Optimizer(stopped, part)
    for seed in range(3):
        step(straight, a, seed)
        step(stopped, b, seed)
    again = Optimizer(stopped, part)
    again.load({name: tensor.clone() for name, tensor in b.tensors().items()})
    for seed in range(3, 6):
        step(straight, a, seed)
        step(stopped, again, seed)
    for (name, left), (_, right) in zip(straight.named_parameters(), stopped.named_parameters(), strict=True):
        assert torch.equal(left, right), name
    assert all(torch.equal(left, right) for left, right in zip(a.tensors().values(), again.tensors().values(), strict=True))


def test_a_rate_of_zero_leaves_the_weights_alone() -> None:
    for name in ("adamw", "muon"):
        model = model_of("gpt2")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = Optimizer(model, OptimPart(name=name))
        optimizer.rate(0.0)
        step(model, optimizer, 0)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        optimizer.forget()
        assert optimizer.tensors() == {}


def test_a_state_of_another_model_is_refused() -> None:
    small, other = model_of("llama"), model_of("gpt2")
    optimizer = Optimizer(other, OptimPart())
    step(other, optimizer, 0)
    with pytest.raises(CheckpointError, match=r"'exp_avg/.*' fits no parameter of this model: the checkpoint is of another model"):
        Optimizer(small, OptimPart()).load(optimizer.tensors())


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_each_layer_down_learns_slower_and_a_head_faster(family: str) -> None:
    model = model_of(family)
    found = {name: group.lr for group in groups(model, OptimPart(lr=1e-3, layer_decay=0.5, head_rate=10.0)) for name in group.names}
    stack = "encoder" if family == "bert" else "decoder"
    matrix = next(name for name in found if name.startswith(f"{stack}.layers.0."))
    assert found[matrix.replace(".0.", ".1.", 1)] == pytest.approx(0.5e-3) and found[matrix] == pytest.approx(0.25e-3)
    assert found["embed.weight"] == pytest.approx(0.125e-3)
    assert all(rate == pytest.approx(1e-3) for name, rate in found.items() if name.startswith(("encoder.norm.", "decoder.norm.")))
    assert all(rate == pytest.approx(1e-2) for name, rate in found.items() if name.startswith("head."))
    assert {group.lr for group in groups(model, OptimPart(lr=1e-3))} == {1e-3}


def test_adapters_have_the_rate_of_what_they_adapt_and_never_muon(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "bert"))
    opened = opened.with_head(heads.fields(opened, "row", ("no", "yes")))
    model = opened.build()
    attach(model, LoRA(2, targets=("attn.q", "embed"), dora=True), opened)
    found = {name: group for group in groups(model, OptimPart("muon", lr=1e-3, layer_decay=0.5, head_rate=4.0)) for name in group.names}
    assert {group.rule for group in found.values()} == {"adamw"}
    q = "encoder.layers.{}.attn.q.adapters.default.{}"
    assert found[q.format(1, "a")].lr == pytest.approx(5e-4) and found[q.format(0, "b")].lr == pytest.approx(2.5e-4)
    assert found[q.format(1, "b")].weight_decay == 0.1 and found[q.format(1, "magnitude")].weight_decay == 0.0
    assert found["embed.adapters.default.b"].lr == pytest.approx(1.25e-4)
    assert found["head.classifier.adapters.default.weight"].lr == pytest.approx(4e-3)
