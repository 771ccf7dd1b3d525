"""The plan: what it says, that it does nothing, and that its memory is the memory that a run takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quire.errors import DataError, RecipeError
from quire.families import FAMILIES, family_for
from quire.nn.transformer import Transformer
from quire.train.dry import dry_plan
from quire.train.parallel import Compute
from quire.train.plan import Plan, Setting, estimate_memory, loss_chunk, parameters_by_part
from quire.train.prepare import build_model, first_weights, new_config
from quire.train.recipe import TrainRecipe

Tiny = Callable[..., TrainRecipe]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory of a fork")
def test_the_planned_memory_is_within_a_quarter_of_the_real() -> None:
    program = Path(__file__).with_name("measured.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parent.parent.parent)}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True)
    pairs = json.loads(done.stdout)
    assert len(pairs) == 3
    for planned, real in pairs:
        assert 0.75 < planned / real < 1.25, pairs


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_parameters_by_part_are_all_of_them(family: str) -> None:
    model = Transformer(FAMILIES[family].build(FAMILIES[family].tiny))
    parts = parameters_by_part(model)
    assert sum(parts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert {"embedding", "attention", "feed forward", "norms"} <= set(parts)


def test_a_dry_plan_writes_nothing_and_leaves_the_generator_alone(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    torch.manual_seed(3)
    plan = dry_plan(tiny(**{"train.steps": 0, "train.epochs": 2.0}), said.append)
    assert not list(tmp_path.iterdir())
    assert plan.epochs == pytest.approx(2.0, abs=0.01) and plan.steps > 0 and (plan.tokens_per_s or 0) > 0 and (plan.minutes or 0) > 0
    text = "\n".join(plan.lines())
    assert f"parameters  {plan.parameters:,} (embedding 9,600" in text and "tokens/s" in text and "cpu, fp32, 1 thread" in text
    assert any("40 documents" in line for line in said) and any("bytes a token are assumed" in line for line in said)
    assert json.loads(json.dumps(plan.json())) == plan.json()


def test_a_dry_plan_of_minutes_and_of_other_kinds(tiny: Tiny) -> None:
    minutes = dry_plan(tiny(**{"train.steps": 0, "train.minutes": 0.5}), lambda line: None)
    assert minutes.minutes == 0.5 and minutes.steps > 10
    for changes in ({"task.name": "masked", "model.family": "bert"}, {"task.name": "denoise", "model.family": "t5"}):
        assert dry_plan(tiny(**changes), lambda line: None).steps == 8
    with pytest.raises(RecipeError, match="exactly one of"):
        dry_plan(tiny(**{"train.tokens": 4}), lambda line: None)


def test_a_dry_plan_of_too_little_text_is_told_and_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("a few words")
    told: list[Plan] = []
    with pytest.raises(DataError, match="smaller than one batch"):
        dry_plan(tiny(**{"data.sources": (str(tmp_path / "small.txt"),)}), lambda line: None, told.append)
    assert len(told) == 1 and told[0].steps > 0


def test_a_dry_plan_counts_with_the_tokenizer_that_is_there(tiny: Tiny, tmp_path: Path) -> None:
    from quire.train.run import train

    run = train(tiny(), stop_at=1).folder
    said: list[str] = []
    plan = dry_plan(tiny(**{"tokenizer.path": str(run / "tokenizer"), "out": str(tmp_path / "other")}), said.append)
    assert not any("assumed" in line for line in said)
    real = json.loads((run / "plan.json").read_text())
    assert plan.parameters == real["parameters"] and plan.epochs == pytest.approx(real["epochs"], rel=0.1)


def test_checkpointing_and_bf16_need_less_and_a_batch_in_parts_too(tiny: Tiny) -> None:
    def activations(dtype: str = "fp32", **changes: object) -> int:
        recipe = tiny(**{"model.width": 128, "model.context": 128, "model.layers": 6, "train.batch": 32, **changes})
        stock = new_config(recipe, 300)
        setting = Setting(Compute(torch.device("cpu"), dtype, 1), 0, 0, recipe.model.context)  # type: ignore[arg-type]
        return estimate_memory(Transformer(family_for(stock).build(stock)), recipe, setting)["activations"]

    whole = activations()
    assert activations("bf16") < 0.8 * whole
    assert activations(**{"train.checkpointing": True}) < 0.5 * whole
    assert activations(**{"train.micro_batch": 8}) == pytest.approx(whole / 4, rel=0.1)


def test_the_loss_is_made_in_chunks_when_the_logits_are_large(tiny: Tiny) -> None:
    assert loss_chunk(tiny(), 300, 32) == 0
    assert loss_chunk(tiny(**{"train.batch": 64, "model.context": 512}), 50257, 512) == 333
    assert loss_chunk(tiny(**{"train.loss_chunk": 77}), 300, 32) == 77


def test_a_model_is_built_with_the_tokenizers_ids(tiny: Tiny) -> None:
    from quire.text import training

    tokenizer = training.train("bpe", ["some text to train on, not much of it"], 300)
    config, model = build_model(tiny(), tokenizer)
    assert config["eos_token_id"] == tokenizer.eos and model.config.vocab == tokenizer.vocab_size


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_first_weights_are_the_seeds_alone(family: str) -> None:
    config = FAMILIES[family].build(FAMILIES[family].tiny)
    torch.manual_seed(1)
    first = first_weights(config, 5)
    torch.empty(1 << 20).fill_(float("nan"))  # what an uninitialised weight might find in its memory
    torch.manual_seed(2)
    again, other = first_weights(config, 5), first_weights(config, 6)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and a.isfinite().all(), name
        assert a.ndim < 2 or not torch.equal(a, c), name
    before = torch.random.get_rng_state()
    first_weights(config, 5)
    assert torch.equal(before, torch.random.get_rng_state())
