"""The way through: a recipe becomes a run folder with a trained, measured, bound and certified model in it.

    prepare -> calibrate (frozen into the recipe) -> fit -> evaluate -> model/ with its contract, binding and certificate

`train` begins a run, `resume` goes on with one; both end in the same place, with the same bits.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import certify, machine
from ..errors import CheckpointError, QuireError, TrainingError
from ..tasks.tuning.distil import Distil
from . import meters, state
from .calibrate import calibrate
from .folder import RunFolder, differences
from .meters import Meters, Observer, rewind
from .parallel import compile_layers, compute
from .parts import Parts
from .plan import Plan, Setting, draw_up, loss_chunk, program_memory, weights_bytes
from .prepare import Say, prepare, settle
from .recipe import TrainRecipe
from .trainer import Interrupted, Outcome, Trainer

__all__ = ["CheckpointWarning", "Result", "RunFolder", "resume", "train"]


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged and the one before it is used."""


@dataclass(frozen=True)
class Result:
    """What a run left: its folder, how it ended, the held-out evaluation and the model folder (both only of a finished run)."""

    folder: Path
    outcome: Outcome
    plan: Plan
    evaluation: dict[str, Any]
    model: Path | None

    def json(self) -> dict[str, Any]:
        outcome = dataclasses.asdict(self.outcome)
        return {
            "run": str(self.folder),
            **outcome,
            "plan": self.plan.json(),
            "evaluation": self.evaluation,
            "model": None if self.model is None else str(self.model),
        }


OnPlan = Callable[[Plan], None]


def _silent(text: str) -> None:
    pass


def train(
    recipe: TrainRecipe,
    *,
    observers: Sequence[Observer] = (),
    stop_at: int = 0,
    say: Say = _silent,
    on_plan: OnPlan | None = None,
) -> Result:
    """Trains a model in a new run folder, `recipe.out`.

    observers see every step, evaluation and sample; `stop_at` ends the sitting at that step (the schedule is still that of the whole run);
    `say` gets lines for a person; `on_plan` gets the plan before the first step. Raises the errors of the parts, all of them QuireErrors.
    """
    recipe = settle(recipe)
    hooks = meters.trackers(recipe.log.hooks)
    made = not Path(recipe.out).exists()
    run = RunFolder.fresh(recipe.out)
    with run.lock():
        RunFolder.fresh(recipe.out)  # nobody came first while we waited for the lock
        try:
            run.write_recipe(recipe)
            return _sitting(run, recipe, Meters(run.path, observers, hooks), None, stop_at, say, on_plan)
        except QuireError:
            run.forget_unbegun()
            run.leave(made)
            raise


def resume(
    folder: Path | str,
    *,
    inexact: bool = False,
    observers: Sequence[Observer] = (),
    stop_at: int = 0,
    say: Say = _silent,
    on_plan: OnPlan | None = None,
) -> Result:
    """Goes on with a stopped or killed run as if nothing had happened; a finished one is left as it is.

    Raises CheckpointError when torch, the processor or the threads are not those of the run (`inexact` allows it), when the data changed,
    or when no checkpoint is whole.
    """
    run = RunFolder.open(folder)
    with run.lock():
        run.sweep()
        recipe = run.read_recipe()
        found, damaged = state.newest(run.checkpoints)
        at = found.step if found else 0
        for line in damaged:
            warnings.warn(f"{line}. Going on from step {at} instead.", CheckpointWarning, stacklevel=2)
        if (finished := _finished(run)) is not None:
            return finished
        unlike = _unlike(run, recipe, found, inexact)
        lines = Meters(run.path, observers, meters.trackers(recipe.log.hooks))
        rewind(run.path, at, found.facts.get("owed", ()) if found else ())
        for line in damaged:
            lines.event(at, "damaged", line)
        if unlike:
            lines.event(at, "inexact", "; ".join(unlike))
        return _sitting(run, recipe, lines, found, stop_at, say, on_plan)


def _finished(run: RunFolder) -> Result | None:
    """What a run that came to its end left; None for any other."""
    status = run.read("status.json")
    model, adapter = run.model if (run.model / "config.json").is_file() else None, run.adapter / "adapter_config.json"
    if status.get("state") != "finished" or (model is None and not adapter.is_file()):
        return None
    outcome = Outcome("finished", status["step"], status["steps"], best=status["best"])
    return Result(run.path, outcome, Plan(**run.read("plan.json")), run.read("evaluation.json"), model)


def _unlike(run: RunFolder, recipe: TrainRecipe, found: state.Checkpoint | None, inexact: bool) -> list[str]:
    """What is not as it was when the checkpoint was made. Raises CheckpointError unless that was asked for."""
    if found is None:
        return []
    compute(recipe.train)  # sets the threads that are compared
    unlike = differences(found.facts["environment"])
    if unlike and not inexact:
        raise CheckpointError(
            f"{run.path} cannot go on with the same bits here: {'; '.join(unlike)}. "
            f"Resume where it was started, or accept other roundings: quire resume {run.path} --inexact"
        )
    return unlike


def _sitting(
    run: RunFolder, recipe: TrainRecipe, lines: Meters, checkpoint: state.Checkpoint | None, stop_at: int, say: Say, on_plan: OnPlan | None
) -> Result:
    """One sitting of a run, from preparing to its end or its next stop. The lock is held."""
    settings, least = compute(recipe.train), machine.used_memory()
    parts = prepare(run, recipe, settings, say)
    machine.return_memory()
    program = program_memory(settings, weights_bytes(parts.model), least)
    setting = Setting(settings, loss_chunk(recipe, parts.model.config.vocab, parts.row_tokens), program, parts.row_tokens)
    watch = parts.watch(recipe)
    trainer = Trainer(run, recipe, parts.model, parts.objective, parts.loader, settings, lines, watch, setting.chunk, parts.base)
    if run.read("plan.json"):
        plan = Plan(**run.read("plan.json"))
        if plan.compile:
            compile_layers(parts.model)
    else:
        recipe, plan = _freeze(run, recipe, parts, trainer, setting)
    run.write("environment.json", machine.environment())
    if on_plan:
        on_plan(plan)
    if checkpoint is not None:
        trainer.restore(checkpoint)
        lines.event(checkpoint.step, "resumed")
        if checkpoint.step - ("eval" in trainer.owed) >= trainer.every.eval:  # one that is owed was not told
            watch.told()
    lines.start(dataclasses.asdict(recipe), trainer.step)
    try:
        outcome = _fit(run, trainer, stop_at)
    finally:
        lines.finish()
    if outcome.state != "finished":
        return Result(run.path, outcome, plan, {}, None)
    try:
        evaluation, model = _finish(run, recipe, parts, trainer, outcome, say)
    except Interrupted:  # the state of the last step is saved; whoever goes on evaluates anew
        run.status("stopped", outcome.step, outcome.steps, outcome.best, trainer.elapsed())
        return Result(run.path, dataclasses.replace(outcome, state="stopped", signal=trainer.stop.signal), plan, {}, None)
    return Result(run.path, outcome, plan, evaluation, model)


def _fit(run: RunFolder, trainer: Trainer, stop_at: int) -> Outcome:
    """Trains, and writes into status.json how it ended."""
    run.status("running", trainer.step, trainer.steps, trainer.patience.best, trainer.seconds)
    ended = "failed"
    try:
        outcome = trainer.fit(stop_at)
        ended = "running" if outcome.state == "finished" else "stopped"  # finished only once its model is written
        return outcome
    except KeyboardInterrupt:
        ended = "stopped"
        raise
    except TrainingError as error:
        trainer.meters.event(trainer.step, "stopped", str(error))
        raise
    finally:
        run.status(ended, trainer.step, trainer.steps, trainer.patience.best, trainer.elapsed())


def _freeze(run: RunFolder, recipe: TrainRecipe, parts: Parts, trainer: Trainer, setting: Setting) -> tuple[TrainRecipe, Plan]:
    """Measures what must be measured and writes recipe and plan with nothing left open."""
    part = recipe.train
    deadline = time.perf_counter() + 60 * part.minutes
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(part, steps=part.steps or parts.steps(part)))
    a_step, epoch = parts.loader.tokens_per_step, parts.loader.tokens_per_epoch  # before a step: later it is the last batch's
    measured = calibrate(trainer, recipe.train, deadline)
    setting = dataclasses.replace(setting, compute=trainer.compute)  # with the threads that were found best
    settled = dataclasses.replace(
        recipe.train,
        steps=measured.steps,
        tokens=0,
        epochs=0.0,
        minutes=0.0,
        micro_batch=part.micro_batch or part.batch,
        micro_tokens=trainer.micro_tokens,
        dtype=setting.compute.dtype,
        threads=setting.compute.threads,
        compile="on" if measured.compile else "off",
        loss_chunk=setting.chunk,
        eval_every=part.eval_every or measured.eval_every,
    )
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, micro_tokens=trainer.micro_tokens))
    plan = draw_up(recipe, parts.model, measured, setting, a_step, epoch)
    recipe = dataclasses.replace(recipe, train=settled)
    trainer.settle(recipe)
    run.write_recipe(recipe)
    run.write("plan.json", plan.json())
    return recipe, plan


def _finish(
    run: RunFolder, recipe: TrainRecipe, parts: Parts, trainer: Trainer, outcome: Outcome, say: Say
) -> tuple[dict[str, Any], Path | None]:
    """Evaluates the weights that are kept, and writes the model folder with its binding and certificate, or an adapter alone.

    Raises Interrupted where a signal breaks off the evaluation.
    """
    best, kept = outcome.best.get("step", outcome.step), outcome.step
    if outcome.best.get("value") == 0 and parts.task.better == "higher":
        what = f"{outcome.best['metric']} was 0 at every evaluation: this model has learned too little to be used"
        say(f"{what}. Train longer, or at a higher rate.")
    if recipe.train.keep == "best" and best != outcome.step:
        try:
            state.load_weights(trainer.model, state.open_at(run.checkpoints, best).weights())
            kept = best
            say(f"kept: the weights of step {best}, the best by {outcome.best['metric']}")
        except CheckpointError as error:
            warnings.warn(f"{error}. The last weights are kept instead of the best.", CheckpointWarning, stacklevel=2)
    if isinstance(parts.objective, Distil):
        parts.objective.detach(trainer.model)
    with trainer.meters.pause("evaluating what is kept"), trainer.stop.listening(), trainer.stop.breaking(trainer.model):
        evaluation = parts.evaluate(trainer.model, run)
    run.write("evaluation.json", evaluation)
    lineage = {"run": run.path.name, "task": parts.task.name, "step": kept, "corpus": parts.corpus}
    model = parts.write(run.model, trainer.model, lineage)
    if model is not None:
        certify.write(certify.certify(model), model)
    else:
        say(f"what was learned stands beside its base: {recipe.model.start}, with --adapter {run.adapter}")
    run.status("finished", outcome.step, outcome.steps, outcome.best, trainer.elapsed())
    return evaluation, model
