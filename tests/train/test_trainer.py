"""The loop: the same gradient however a batch is cut, steps that are skipped, stopping, and the same command giving the same weights."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quire import recipe as recipes
from quire.data import shards, sources
from quire.data.batches import Loader
from quire.durable import read_lines
from quire.errors import RecipeError, TrainingError
from quire.nn.batch import IGNORE, Batch
from quire.tasks.task import make
from quire.text import training
from quire.train import state
from quire.train.check import Health, Patience
from quire.train.folder import RunFolder
from quire.train.meters import Meters
from quire.train.parallel import Compute, LossScale, global_norm, scale_all
from quire.train.prepare import build_model
from quire.train.recipe import TrainPart, TrainRecipe
from quire.train.trainer import Trainer

Tiny = Callable[..., TrainRecipe]


def trainer(recipe: TrainRecipe, folder: Path, dtype: str = "fp32") -> Trainer:
    """A trainer on the recipe's own data, without a watch."""
    documents = list(sources.read(recipe.data.sources))
    tokenizer = training.train("bpe", (document.text for document in documents), recipe.tokenizer.vocab, special=recipe.task.name)
    task = make(recipe.task, tokenizer, recipe.model.context)
    shard = shards.write(folder / "data", "train", documents, tokenizer, task.separator)
    loader = Loader([shard], None, task, recipe.train.batch, recipe.model.context, recipe.seed)
    _, model = build_model(recipe, tokenizer)
    compute = Compute(torch.device("cpu"), dtype, 1)
    return Trainer(RunFolder(folder), recipe, model, task, loader, compute, Meters(folder))


def gradients(made: Trainer, batch: Batch) -> dict[str, Tensor]:
    made._gradients(batch, made.task.counts(batch))
    found = {name: parameter.grad.clone() for name, parameter in made.model.named_parameters() if parameter.grad is not None}
    made.optimizer.zero()
    return found


TASKS = [
    {},
    {"data.boundaries": "mask"},
    {"task.name": "masked", "model.family": "bert", "task.next_sentence": True},
    {"task.name": "denoise", "model.family": "t5", "tokenizer.vocab": 420},
]


@pytest.mark.parametrize("changes", TASKS, ids=["causal", "causal, masked boundaries", "masked", "denoise"])
def test_one_row_eight_times_is_eight_rows_once(tiny: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Rows differ in how many labels they have, so a mean of means would fail here."""
    whole = trainer(tiny(**{"train.batch": 8, **changes}), tmp_path / "whole")
    batch = whole.loader.next()
    if whole.task.name == "causal":
        batch.labels["lm"] = batch.labels["lm"].clone()  # labels and tokens are views of the same rows
        for row in range(8):
            batch.labels["lm"][row, : 3 * row] = IGNORE
    expected = gradients(whole, batch)
    for micro in (1, 3):
        whole.micro = micro
        found = gradients(whole, batch)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_a_chunked_loss_gives_the_same_step(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(), tmp_path)
    batch = made.loader.next()
    expected = gradients(made, batch)
    made.chunk = 17
    for name, gradient in gradients(made, batch).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_checkpointing_gives_the_same_step_with_dropout(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(**{"model.dropout": 0.2}), tmp_path)
    batch = made.loader.next()
    found = []
    for checkpointing in (False, True):
        made.model.checkpointing = checkpointing
        torch.manual_seed(1)
        found.append(gradients(made, batch))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_it_learns(tiny: Tiny, tmp_path: Path, name: str) -> None:
    made = trainer(tiny(**{"train.steps": 60, "optim.name": name, "optim.lr": 3e-3, "train.save_every": 60}), tmp_path)
    losses = []
    made.on_step = lambda row: losses.append(row["loss"])  # type: ignore[method-assign]
    made.fit()
    assert losses[0] == pytest.approx(math.log(300), abs=0.3)
    assert np.mean(losses[-5:]) < 0.75 * losses[0]


def test_a_scaled_loss_in_fp16_comes_to_the_same_weights(tiny: Tiny, tmp_path: Path) -> None:
    """On a CPU fp16 is slow and not offered, but it computes."""
    found = {}
    for dtype in ("fp32", "fp16"):
        made = trainer(tiny(**{"train.steps": 4}), tmp_path / dtype, dtype)
        made.fit()
        found[dtype] = state.weights_of(made.model), made
    assert found["fp16"][1].scale.value == 65536.0 and found["fp16"][1].health.skipped == 0
    for name, value in found["fp32"][0].items():
        torch.testing.assert_close(found["fp16"][0][name], value, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_same_command_gives_the_same_weights(tiny: Tiny, tmp_path: Path, dtype: str) -> None:
    found = []
    for run in ("a", "b"):
        made = trainer(tiny(**{"model.dropout": 0.1, "train.steps": 3}), tmp_path / run, dtype)
        torch.manual_seed(len(found))  # what others do with torch's generator must not matter
        made.fit()
        found.append(state.weights_of(made.model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_users_generator_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(**{"train.steps": 1}), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made.fit()
    assert torch.equal(torch.rand(3), expected)


def poison(made: Trainer, steps: set[int], value: float = math.nan) -> None:
    """Multiplies the loss of some steps by `value`."""
    terms = made.task.terms

    def poisoned(model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, tuple[Tensor, int]]:
        found = terms(model, batch, chunk)
        return {name: (total * value, weight) for name, (total, weight) in found.items()} if made.step + 1 in steps else found

    made.task.terms = poisoned  # type: ignore[method-assign]


def test_a_step_that_is_no_number_is_skipped_and_counted(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(), tmp_path)
    poison(made, {3, 4})
    seen: dict[int, dict[str, Tensor]] = {}
    on_step = made.on_step

    def record(row: dict[str, Any]) -> None:
        seen[row["step"]] = {name: value.clone() for name, value in state.weights_of(made.model).items()}
        on_step(row)

    made.on_step = record  # type: ignore[method-assign]
    assert made.fit().state == "finished"
    assert made.health.skipped == 2 and made.step == 8
    assert all(torch.equal(seen[2][name], seen[4][name]) for name in seen[2])
    assert not all(torch.equal(seen[4][name], seen[5][name]) for name in seen[4])
    rows = read_lines(tmp_path / "metrics.jsonl")
    skipped = [(row["step"], row["detail"]) for row in rows if row.get("what") == "skipped"]
    assert skipped == [(3, "the loss is nan"), (4, "the loss is nan")]
    assert next(row for row in rows if row["kind"] == "step" and row["step"] == 3)["loss"] is None


def test_a_gradient_far_out_of_the_usual_is_skipped(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(**{"train.steps": 25, "train.save_every": 25}), tmp_path)
    poison(made, {24}, 100.0)
    made.fit()
    events = [row for row in read_lines(tmp_path / "metrics.jsonl") if row.get("what") == "skipped"]
    assert len(events) == 1 and events[0]["step"] == 24 and "over 20 times its running mean" in events[0]["detail"]


def test_a_diverged_run_stops_with_its_weights_whole(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(**{"train.max_bad": 2}), tmp_path)
    poison(made, set(range(4, 99)))
    with pytest.raises(TrainingError, match=r"diverged at step 6: the loss is nan, and so on for 3 steps in a row.*Lower optim\.lr"):
        made.fit()
    saved, damaged = state.newest(tmp_path / "checkpoints")
    assert saved is not None and not damaged
    assert all(torch.isfinite(tensor).all() for tensor in saved.weights().values())


def test_a_step_without_a_trained_token_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(), tmp_path)
    batch = made.loader.next()
    batch.labels["lm"] = torch.full_like(batch.labels["lm"], IGNORE)
    with pytest.raises(TrainingError, match=r"step 1 has no trained token \(lm: 0\): every label is masked"):
        made.learn(batch)


def test_a_norm_is_remembered_over_twenty_steps_before_it_judges() -> None:
    health, scale = Health(TrainPart()), LossScale("fp32")
    assert health.judge(1, 1.0, 1.0, scale) == "" and health.judge(2, 1.0, 1e6, scale) == ""
    again = Health(TrainPart())
    again.load_state(health.state())
    assert again.state() == health.state()


def test_fp16_overflow_halves_the_scale_and_is_no_fault() -> None:
    health, scale = Health(TrainPart(max_bad=0)), LossScale("fp16", patience=2)
    assert "fp16 overflow" in health.judge(1, 1.0, math.inf, scale)
    assert scale.value == 32768.0 and health.in_a_row == 0 and health.skipped == 1
    scale.went_well()
    scale.went_well()
    assert scale.value == 65536.0
    other = LossScale("fp16")
    other.load_state(scale.state())
    assert other.state() == scale.state()
    assert not LossScale("bf16").overflowed()


def test_norm_and_scaling_are_those_of_torch() -> None:
    parameters = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(7))]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    mine = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    norm = float(global_norm(mine))
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(parameters, 0.5)))
    scale_all(mine, 0.5 / norm)
    for gradient, parameter in zip(mine, parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-7)


def test_a_signal_ends_the_step_and_saves(tiny: Tiny, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / str(number)
        made = trainer(tiny(**{"train.save_every": 8}), folder)
        on_step = made.on_step

        def interrupt(row: dict[str, Any], on_step: Any = on_step, number: int = number) -> None:
            on_step(row)
            if row["step"] == 3:
                os.kill(os.getpid(), number)

        made.on_step = interrupt  # type: ignore[method-assign]
        before = signal.getsignal(number)
        outcome = made.fit()
        assert (outcome.state, outcome.step, outcome.signal) == ("stopped", 3, number)
        assert state.steps_saved(folder / "checkpoints") == [3]
        assert signal.getsignal(number) is before


def test_a_signal_during_an_evaluation_is_answered_at_once(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Slow:
        before, measures, writes, said = False, True, True, ""

        def evaluate(self, model: Any) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGTERM)
            self.said = capfd.readouterr().err
            return {}

        def surprise(self, model: Any) -> None:
            return None

        def sample(self, model: Any) -> list[dict[str, Any]]:
            return []

        def told(self) -> None:
            pass

    class Told:
        def __init__(self) -> None:
            self.pauses: list[str] = []

        def on_step(self, row: dict[str, Any]) -> None:
            pass

        on_eval = on_sample = on_step

        def on_pause(self, doing: str) -> None:
            self.pauses.append(doing)

    made, watch, told = trainer(tiny(**{"train.eval_every": 2}), tmp_path), Slow(), Told()
    made.watch = watch
    made.meters.observers.append(told)
    assert made.fit().step == 2 and "stopping: what is under way" in watch.said
    assert told.pauses == ["evaluating", "", "writing samples", ""] and made.owed == ["sample"]  # whoever goes on writes them


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing_half_done(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(**{"train.save_every": 2}), tmp_path)
    terms = made.task.terms

    def twice(*args: Any, **kwargs: Any) -> Any:
        if made.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return terms(*args, **kwargs)

    made.task.terms = twice  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    assert state.steps_saved(tmp_path / "checkpoints") == [2]


def test_a_loss_that_cannot_be_split_refuses_micro_batches(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(), tmp_path)
    recipe = recipes.replace(made.recipe, "train.micro_batch", 2)
    made.task.splittable = False  # type: ignore[misc]
    with pytest.raises(RecipeError, match="micro_batch = 2: the loss of task 'causal' cannot be split"):
        Trainer(made.run, recipe, made.model, made.task, made.loader, made.compute, made.meters)


def test_hooks_come_when_they_are_due(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tiny(**{"train.steps": 25, "train.eval_every": 0, "train.save_every": 0}), tmp_path)
    assert dataclasses.astuple(made.every) == (3, 3, 3)
    made.every = dataclasses.replace(made.every, save=10)
    made.fit()
    assert [row["step"] for row in read_lines(tmp_path / "metrics.jsonl") if row.get("what") == "saved"] == [10, 20, 25]
    assert state.steps_saved(tmp_path / "checkpoints") == [20, 25]


def test_of_equal_figures_the_lower_loss_is_the_best_and_patience_waits_on() -> None:
    patience = Patience("f1", "higher", 3)
    seen = [patience.see(step, {"f1": 0.0, "loss": loss}) for step, loss in ((2, 2.0), (4, 1.0), (6, 1.5))]
    assert seen == [True, True, False] and patience.best == {"metric": "f1", "value": 0.0, "step": 4, "loss": 1.0}
    assert patience.since == 2 and not patience.over
    again = Patience("f1", "higher", 3)
    again.load_state(patience.state())
    assert not again.see(8, {"f1": 0.0, "loss": math.nan}) and again.over
    assert again.see(10, {"f1": 0.1, "loss": 9.0}) and not again.over
