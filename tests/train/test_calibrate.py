"""What is measured before a run: threads, compilation, and that measuring leaves nothing behind. Clocks are scripted, the rest is real."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from quire.families import family_for
from quire.train import calibrate as subject
from quire.train import state
from quire.train.calibrate import calibrate, time_steps
from quire.train.dry import timed_trainer
from quire.train.parallel import Compute, blocks, compile_layers, plain_layers
from quire.train.plan import Setting
from quire.train.prepare import new_config
from quire.train.recipe import TrainRecipe
from quire.train.trainer import Trainer

Tiny = Callable[..., TrainRecipe]


def made(recipe: TrainRecipe, threads: int = 1) -> Trainer:
    stock = new_config(recipe, 300)
    return timed_trainer(recipe, family_for(stock).build(stock), Setting(Compute(torch.device("cpu"), "fp32", threads), 0, 0, 64))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """clock(0.5, 0.2): the first timing says 0.5 s a step, the second 0.2."""

    def script(*seconds: float) -> None:
        answers: Iterator[float] = iter(seconds)
        monkeypatch.setattr(subject, "time_steps", lambda *_, **__: next(answers))
        monkeypatch.setattr(subject, "can_compile", lambda device: True)

    return script


def compiled(trainer: Trainer) -> bool:
    return all(block._compiled_call_impl is not None for block in blocks(trainer.model))


@pytest.mark.parametrize(
    ("steps", "seconds", "on", "note"),
    [
        (100, (), False, ""),  # too few to be worth a timing
        (2000, (0.5,), False, "too short to pay for trying"),
        (3000, (0.5, 0.3), True, "0.500 s a step as it is, 0.300 s compiled"),
        (3000, (0.5, 0.6), False, "0.500 s a step as it is, 0.600 s compiled"),
        (3000, (0.5, 0.49), False, "compile: off, 0.500"),
    ],
)
def test_compiling_pays_for_itself_or_stays_off(
    tiny: Tiny, clock: Callable[..., None], steps: int, seconds: tuple[float, ...], on: bool, note: str
) -> None:
    recipe = tiny(**{"train.steps": steps, "train.compile": "auto"})
    trainer = made(recipe)
    clock(*seconds)
    found = calibrate(trainer, recipe.train, 0.0)
    assert (found.compile, found.steps) == (on, steps) and note in found.note
    assert compiled(trainer) == on
    assert found.seconds == (min(seconds) if on else seconds[0] if seconds else 0.0)


def test_a_compiler_that_fails_is_named_and_left(tiny: Tiny, clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(**{"train.steps": 3000, "train.compile": "auto"})
    trainer = made(recipe)
    clock(0.5)
    first = subject.time_steps

    def fails(*words: object, **more: object) -> float:
        if compiled(trainer):
            raise RuntimeError("g++ does not know -std=c++20\nlong output")
        return first(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(subject, "time_steps", fails)
    found = calibrate(trainer, recipe.train, 0.0)
    assert not found.compile and found.note == "compile: off, it failed (g++ does not know -std=c++20)" and not compiled(trainer)


def test_half_of_the_threads_where_that_is_faster(tiny: Tiny, clock: Callable[..., None]) -> None:
    recipe = tiny(**{"train.steps": 3000, "train.compile": "auto", "train.threads": 0})
    for seconds, threads in (((0.01, 0.005), 2), ((0.01, 0.02), 4)):
        torch.set_num_threads(4)
        trainer = made(recipe, threads=4)
        clock(*seconds)
        assert calibrate(trainer, recipe.train, 0.0).seconds == min(seconds)
        assert trainer.compute.threads == threads == torch.get_num_threads()


def test_timing_leaves_weights_counters_and_state_as_they_were(tiny: Tiny, tmp_path: Path) -> None:
    trainer = made(tiny(**{"optim.name": "muon"}))
    before = {name: value.clone() for name, value in state.weights_of(trainer.model).items()}
    assert time_steps(trainer, 1, 3, 0.0) > 0
    assert all(torch.equal(before[name], value) for name, value in state.weights_of(trainer.model).items())
    assert (trainer.step, trainer.tokens, trainer.health.applied) == (0, 0, 0) and trainer.optimizer.tensors() == {}
    start = time.perf_counter()
    time_steps(trainer, 0, 1, 0.05)
    assert time.perf_counter() - start > 0.05


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_layers_compute_the_same(tiny: Tiny) -> None:
    trainer = made(tiny())
    batch = trainer.loader.next()
    plain = trainer.learn(batch, share=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compile_layers(trainer.model)
        fast = trainer.learn(batch, share=0.0)
    plain_layers(trainer.model)
    again = trainer.learn(batch, share=0.0)
    assert fast["loss"] == pytest.approx(plain["loss"], rel=1e-5) and fast["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    assert again["loss"] == plain["loss"] and not compiled(trainer)
