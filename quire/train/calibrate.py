"""What only this machine can tell: seconds a step, how many steps fit into some minutes, and whether compiling pays for itself.

The timed steps are real ones, on the run's own batches and at a learning rate of zero, so the weights stay as they are; the place in the
data, the optimizer and the counters are put back. What was found is frozen into the recipe: a resumed run does not measure again.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import torch

from ..errors import RecipeError
from .parallel import can_compile, compile_layers, plain_layers
from .plan import Calibration
from .recipe import TrainPart
from .trainer import Trainer

_TRY_SHARE = 0.05  # of the run's time that trying to compile may cost
_TRY_SECONDS = 60.0  # what a compilation costs, before anything is known
_LOOK_SHARE = 0.1  # of the minutes that evaluations take at most
_WORTH = 0.97  # a compiled step must take less than this share of an eager one


def calibrate(trainer: Trainer, part: TrainPart, deadline: float) -> Calibration:
    """Settles steps and compilation for a recipe whose `train.steps` is known or whose `train.minutes` end at `deadline` (perf_counter).

    Raises RecipeError when not even one step fits into the minutes.
    """
    if part.compile == "on":
        compile_layers(trainer.model)
    if not part.minutes and (part.compile != "auto" or not _thinkable(trainer, part.steps)):
        return Calibration(0.0, part.compile == "on", part.steps)
    devices = [trainer.compute.device] if trainer.compute.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        spend = 0.02 * max(deadline - time.perf_counter(), 0.0) if part.minutes else 0.0
        seconds = time_steps(trainer, 1, 3, spend)
        if not part.threads:
            seconds = _choose_threads(trainer, seconds, spend)
        compiled, note = part.compile == "on", ""
        if part.compile == "auto":
            left = deadline - time.perf_counter() if part.minutes else seconds * part.steps
            seconds, compiled, note = _try_compiling(trainer, seconds, left)
        if not part.minutes:
            return Calibration(seconds, compiled, part.steps, note)
        evaluation, samples = _pauses(trainer)
    left = deadline - time.perf_counter()
    steps, every = fit_in(part, left, seconds, evaluation, samples)
    if steps < 1:
        raise RecipeError(
            f"train.minutes = {part.minutes:g} is too short: a step takes {seconds:.2f} s on this machine, and an evaluation with its "
            f"samples {evaluation + samples:.1f} s. Give more minutes, a smaller train.batch or a smaller model."
        )
    return Calibration(seconds, compiled, steps, note, every)


def fit_in(part: TrainPart, left: float, step: float, evaluation: float, samples: float) -> tuple[int, int]:
    """(steps, eval_every) that fit into `left` seconds with what the recipe wants to look at on the way.

    Where the recipe leaves `eval_every` open there are about ten evaluations, or fewer, so that looking takes at most a tenth of the time.
    """
    if part.sample_every:
        step += samples / part.sample_every
    else:
        evaluation += samples
    if part.eval_every:
        return int(left / (step + evaluation / part.eval_every)), part.eval_every
    looks = min(10, max(1, int(_LOOK_SHARE * left / evaluation))) if evaluation else 10
    steps = int((left - looks * evaluation) / step)
    return steps, -(-steps // looks)


def _choose_threads(trainer: Trainer, seconds: float, spend: float) -> float:
    """Half of the threads, where that is faster: two threads of one core, or neighbours that are busy, can make all of them slower."""
    every = trainer.compute.threads
    if every == 1 or trainer.compute.device.type != "cpu":
        return seconds
    torch.set_num_threads(every // 2)
    halved = time_steps(trainer, 1, 3, spend)
    if halved < seconds:
        trainer.compute = dataclasses.replace(trainer.compute, threads=every // 2)
        return halved
    torch.set_num_threads(every)
    return seconds


def time_steps(trainer: Trainer, warm: int, least: int, budget: float) -> float:
    """The median seconds of a step, after `warm` untimed ones: at least `least` steps, more while `budget` seconds last."""
    place, counters = trainer.loader.state(), (trainer.step, trainer.tokens)
    scale, health = trainer.scale.state(), trainer.health.state()
    times: list[float] = []
    try:
        while len(times) < warm + least or sum(times[warm:]) < budget:
            start = time.perf_counter()
            trainer.learn(trainer.loader.next(), share=0.0)
            times.append(time.perf_counter() - start)
    finally:
        trainer.loader.load_state(place)
        trainer.step, trainer.tokens = counters
        trainer.scale.load_state(scale)
        trainer.health.load_state(health)
        trainer.optimizer.forget()
    return statistics.median(times[warm:])


def _thinkable(trainer: Trainer, steps: int) -> bool:
    """Is there a compiler, and a run long enough that it could pay? Fewer than 200 steps are not even timed."""
    return steps >= 200 and can_compile(trainer.compute.device)


def _try_compiling(trainer: Trainer, eager: float, left: float) -> tuple[float, bool, str]:
    """(seconds a step, compiled?, what happened): keeps whichever is faster, and does not try when trying costs too much of the run."""
    if not can_compile(trainer.compute.device):
        return eager, False, "compile: off, there is no C++ compiler here"
    if left * _TRY_SHARE < _TRY_SECONDS:
        return eager, False, "compile: off, the run is too short to pay for trying"
    start = time.perf_counter()
    compile_layers(trainer.model)
    try:
        compiled = time_steps(trainer, warm=2, least=3, budget=0.0)
    except (RuntimeError, OSError) as error:  # a compiler that is there and does not work
        plain_layers(trainer.model)
        return eager, False, f"compile: off, it failed ({str(error).splitlines()[0][:120]})"
    cost = time.perf_counter() - start - 5 * compiled
    said = f"{eager:.3f} s a step as it is, {compiled:.3f} s compiled, {cost:.0f} s to compile"
    if compiled < _WORTH * eager:
        return compiled, True, f"compile: on, {said}"
    plain_layers(trainer.model)
    return eager, False, f"compile: off, {said}"


def _pauses(trainer: Trainer) -> tuple[float, float]:
    """Seconds that one evaluation takes, and one round of samples."""
    if trainer.watch is None:
        return 0.0, 0.0
    start = time.perf_counter()
    with trainer.compute.autocast():
        trainer.watch.evaluate(trainer.model)
    between = time.perf_counter()
    trainer.watch.sample(trainer.model)
    return between - start, time.perf_counter() - between
