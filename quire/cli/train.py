"""Train a model from a recipe: quire train RECIPE.toml --train.minutes 10 --out runs/mine

Every key of the recipe is an option too, and the recipe file may be left out. --dry-run prints the plan and trains nothing; --json writes
the result to standard output as JSON. Ctrl-C or SIGTERM let the step end, save, and say how to go on.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import durable
from ..progress import Progress, count, many
from ..report.supervised import called, say
from ..train import defaults
from ..train.recipe import TrainRecipe

if TYPE_CHECKING:
    from ..train.plan import Plan
    from ..train.run import Result

USAGE = """usage: quire train [RECIPE.toml] [--key value ...] [--dry-run] [--json]

  RECIPE.toml   keys as below, in tables; whatever it leaves out has its default
                (with a task on rows: what is usual for task, way and size)
  --dry-run     print the plan (parameters, memory, tokens, time), no training
  --json        the result, or the plan, as JSON on standard output
"""


def run(argv: list[str]) -> int:
    if any(word in ("-h", "--help") for word in argv):
        print(USAGE)
    flags = {word for word in argv if word in ("--dry-run", "--json")}
    words = [word for word in argv if word not in flags]
    file = words.pop(0) if words and not words[0].startswith("-") else None
    recipe = defaults.load(file, words, prog="quire train")
    if "--dry-run" in flags:
        return show_plan(recipe, as_json="--json" in flags)
    from ..train.run import train

    live = Live(recipe.log.prompts)
    return end(train(recipe, observers=[live], say=live.say, on_plan=live.plan), live, as_json="--json" in flags)


def show_plan(recipe: TrainRecipe, as_json: bool) -> int:
    from ..train.dry import dry_plan

    def shown(plan: Plan) -> None:
        print(json.dumps(plan.json()) if as_json else "\n".join(plan.lines()), flush=True)

    dry_plan(recipe, lambda line: print(line, file=sys.stderr), shown)
    return 0


def end(result: Result, live: Live, as_json: bool) -> int:
    """Writes the report, says what came of the run, and returns the exit code: 0, or 128 + the signal that stopped it."""
    live.close()
    outcome = result.outcome
    if outcome.state == "finished":
        document(result)
    if as_json:
        print(json.dumps(result.json()))
    elif outcome.state == "stopped":
        print(f"stopped at step {outcome.step:,} of {outcome.steps:,}; everything is saved. Go on with:\n  {resume_line(result.folder)}")
    else:
        print("\n".join(summary(result)))
    return 128 + outcome.signal if outcome.signal and outcome.state == "stopped" else 0


def resume_line(folder: Path) -> str:
    return f"quire resume {shlex.quote(str(folder))}"


def summary(result: Result) -> list[str]:
    """For a person: what came of a finished run, where its parts are, and for a tuned model what to do with it next."""
    outcome, evaluation = result.outcome, result.evaluation
    lines = [f"finished at step {outcome.step:,}" + (f": {outcome.why}" if outcome.why else "")]
    if (result.folder / "adapt.json").is_file():
        return lines + tuned(result)
    figures = evaluation.get("bits_per_byte")
    if isinstance(figures, dict):
        rows = {"this model": figures, **evaluation.get("compressors", {})}
        best = sorted(rows.items(), key=lambda pair: float(pair[1]["per_file"]))
        lines.append("held-out bits per byte, file by file: " + ", ".join(f"{name} {row['per_file']:.3f}" for name, row in best))
    elif "metric" in evaluation:
        lines.append(f"held-out {evaluation['metric']}: {evaluation[evaluation['metric']]:.4f}")
    else:
        lines.append("nothing was held out, so there is no held-out figure")
    if result.model is None:  # a soft prompt, which stands beside its base
        return [*lines, f"adapter {result.folder / 'adapter'}"]
    return [*lines, f"model   {result.model}", f"report  {result.folder / 'report.html'}"]


def tuned(result: Result) -> list[str]:
    """The figures of a supervised run with their intervals, its folders, and the verb that uses the model."""
    from ..report import folder
    from ..report import supervised as words
    from ..report.card_tuned import command

    run = folder.read(result.folder)
    lines = []
    for split in words.splits(run):
        first = words.metric(run)
        names = [first, *(name for name in split.figures if name != first)]
        said = [f"{words.called(name, words.task(run))} {words.say(name, split.figures[name])}" for name in names if name in split.figures]
        if said and first in split.intervals:
            said[0] += f" (95 % interval {words.between(first, split.intervals[first])})"
        lines.append(f"{split.called}, {many(split.rows, 'row')}: {', '.join(said)}")
    if not lines:
        lines.append("nothing was held out, so there is no held-out figure")
    adapter = result.folder / "adapter"
    lines += [f"adapter {adapter}"] if adapter.is_dir() else []
    lines += [f"model   {result.model}"] if result.model is not None else []  # a soft prompt alone is no model
    lines.append(f"report  {result.folder / 'report.html'}")
    place = str(result.model) if result.model is not None else str(run.recipe["model"]["start"])
    with_it = "" if result.model is not None else f" --adapter {shlex.quote(str(adapter))}"
    return [*lines, "use it:", f"  {command(run, shlex.quote(place))}{with_it}"]


def document(result: Result) -> None:
    """The run's page and the model's card, with the attention over the start of the file that is coloured by surprise."""
    from ..report import card
    from ..report import run as page

    maps = attention(result)
    if maps:
        durable.write_json(result.folder / "attention.json", maps)
    page.write(result.folder)
    card.write(result.folder)


def attention(result: Result) -> dict[str, Any]:
    """What `attention.json` holds: {} for a model that does not read from left to right, or a run without held-out text."""
    from ..data.shards import Shard
    from ..families import ModelFolder
    from ..report.attention import MOST_TOKENS, pack
    from ..text.tokenizer import Tokenizer
    from ..train.watch import attention as look
    from ..train.watch import pick_file

    if result.model is None:
        return {}
    folder = ModelFolder.open(result.model)
    if folder.model_config.kind != "decoder" or not (result.folder / "data" / "held_out.json").is_file():
        return {}
    shard, tokenizer = Shard.open(result.folder / "data", "held_out"), Tokenizer.open(result.folder / "tokenizer")
    number = pick_file(shard)
    if number is None:
        return {}
    ids = [shard.separator, *shard.document(number).tolist()][: min(MOST_TOKENS, folder.model_config.context)]
    return pack(look(folder.build(), ids), [tokenizer.decode([token], special=True) for token in ids])


class Live:
    """An observer that keeps one line up to date: step, loss, held-out figure, speed, memory, time left; a sample below it."""

    def __init__(self, prompts: tuple[str, ...] = (), margin: str = "") -> None:
        self.progress: Progress | None = None
        self.steps = 0
        self.held_out = self.parse = ""
        self.metric = "held-out"
        self.prompts, self.margin = prompts, margin
        self.shares: deque[float] = deque(maxlen=6)  # of samples that parse: one sampling alone jumps up and down

    def say(self, line: str) -> None:
        print(self.margin + line, file=sys.stderr, flush=True)

    def plan(self, plan: Plan) -> None:
        for line in plan.lines():
            self.say(line)
        self.expect(plan)

    def expect(self, plan: Plan) -> None:
        self.steps, self.progress = plan.steps, Progress(plan.steps, self.margin + "training")

    def on_step(self, row: dict[str, Any]) -> None:
        if self.progress is None:
            return
        if "skipped" in row:
            self.progress.note(f"step {row['step']:,} was skipped: {row['skipped']}")
        fields = {"step": f"{row['step']:,}/{self.steps:,}", "loss": f"{row['loss']:.3f}"}
        if self.held_out:
            fields[self.metric] = self.held_out
        if self.parse:
            fields["parses"] = self.parse
        fields["tokens/s"] = count(row["tokens_per_s"])
        fields["MB"] = f"{row['memory_mb']:,}"
        self.progress.update(row["step"], **fields)

    def on_eval(self, row: dict[str, Any]) -> None:
        metric, value = row["metric"], row[row["metric"]]
        if metric == "bits_per_byte":
            self.held_out = f"{value:.3f} bits/byte"
        else:
            self.metric, self.held_out = f"held-out {called(metric)}", say(metric, value)

    def on_pause(self, doing: str) -> None:
        if self.progress is not None:
            self.progress.pause(doing)

    def note(self, line: str) -> None:
        """A line that stays, above the live one."""
        if self.progress is None:
            self.say(line)
        else:
            self.progress.note(self.margin + line)

    def on_sample(self, row: dict[str, Any]) -> None:
        self.prompts = self.prompts or (row["prompt"],)
        if self.progress is not None and row["prompt"] == self.prompts[0]:
            if row.get("parses") is not None:
                self.shares.append(row["parses"])
                self.parse = f"{sum(self.shares) / len(self.shares):.0%}"
            self.progress.block(row["prompt"] + row["text"])

    def close(self) -> None:
        if self.progress is not None:
            self.progress.close()
