"""What a supervised run was measured by: its figures with their intervals, its answers, what of the model learned, and the words for them.

`splits` gives what was measured at the end, the test rows first; `judged` is the one to quote. Nothing here is HTML but `sentence`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .folder import Row, Run, number
from .outcome import actual_minutes, part_of, state, what
from .page import compact, escape, grouped, minutes

# task -> (what it learns to do, the verb that does it)
TASKS = {
    "chat": ("to answer in conversations", "chat"),
    "classify": ("to classify texts", "classify"),
    "tag": ("to tag words", "tag"),
    "answer": ("to find answers in texts", "answer"),
    "rewrite": ("to write a text for a text", "text2text"),
    "embed": ("to place texts of like meaning near one another", "embed"),
    "rerank": ("to rank texts for a question", "classify"),
}
# figure -> (its name, is it a share that is read in per cent?)
FIGURES = {
    "accuracy": ("accuracy", True),
    "f1": ("F1", True),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "exact": ("exact match", True),
    "has_answer_exact": ("exact match where there is an answer", True),
    "has_answer_f1": ("F1 where there is an answer", True),
    "no_answer_exact": ("right where there is no answer", True),
    "exact_at_0": ("exact match, threshold 0", True),
    "f1_at_0": ("F1, threshold 0", True),
    "threshold": ("threshold of no answer, nats", False),
    "recall@1": ("recall@1", True),
    "recall@10": ("recall@10", True),
    "mrr@10": ("MRR@10", False),
    "ndcg@10": ("NDCG@10", False),
    "spearman": ("Spearman correlation", False),
    "pearson": ("Pearson correlation", False),
    "mae": ("mean absolute error", False),
    "rmse": ("root mean squared error", False),
    "rouge1": ("ROUGE-1", True),
    "rouge2": ("ROUGE-2", True),
    "rougeL": ("ROUGE-L", True),
    "rouge_l": ("ROUGE-L", True),
    "bleu": ("BLEU", False),
    "ended": ("ended by themselves", True),
    "within_2x": ("length within 2x of wanted", True),
    "length_ratio": ("length to the wanted one, median", False),
    "perplexity": ("perplexity", False),
    "loss": ("loss", False),
}
SPLITS = {"test": "test", "held_out": "held-out"}
_NOT_FIGURES = {"rows", "pool", "intervals", "tables", "no_answer_f1"}  # the last is the same as no_answer_exact


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Split:
    """What was measured on one set of rows. answers: a row each, as `answers_NAME.jsonl` has them."""

    name: str
    figures: dict[str, float]
    intervals: dict[str, Interval]
    tables: Row
    rows: int
    answers: Sequence[Row] = field(repr=False)

    @property
    def called(self) -> str:
        return SPLITS[self.name]


def task(run: Run) -> str:
    """The supervised task of a run, "" for one that has none."""
    named = part_of(run, "task", "name")
    return named if isinstance(named, str) and named in TASKS else ""


def verb(run: Run) -> str:
    """The verb that uses what was trained."""
    name = task(run)
    kind = part_of(run, "task", "verb")
    return {"translation": "translate", "summarization": "summarize"}.get(str(kind), "text2text") if name == "rewrite" else TASKS[name][1]


def splits(run: Run) -> list[Split]:
    found = []
    for name in SPLITS:
        part = run.evaluation.get(name)
        if not isinstance(part, dict):
            continue
        figures = {str(key): value for key, raw in part.items() if key not in _NOT_FIGURES and (value := number(raw)) is not None}
        tables, answers = part.get("tables"), run.answers.get(name, [])
        rows = number(part.get("rows"))
        found.append(Split(name, figures, _intervals(part), tables if isinstance(tables, dict) else {}, int(rows or len(answers)), answers))
    return found


def _intervals(part: Row) -> dict[str, Interval]:
    found = {}
    listed = part.get("intervals")
    for name, given in listed.items() if isinstance(listed, dict) else ():
        low, high = (number(given.get(key)) for key in ("low", "high")) if isinstance(given, dict) else (None, None)
        if low is not None and high is not None:
            found[str(name)] = Interval(low, high, number(given.get("level")) or 0.95)
    return found


def judged(run: Run) -> Split | None:
    """The rows whose figures are quoted: the test rows, else those that were held out."""
    return next(iter(splits(run)), None)


def metric(run: Run) -> str:
    """The figure that the run is judged by: what the evaluation at the end says, else those before it."""
    named = run.evaluation.get("metric")
    return named if isinstance(named, str) else run.metric


def headline(run: Run) -> tuple[Split, str, float, Interval | None] | None:
    """(rows, metric, value, interval) of the figure to quote."""
    split, name = judged(run), metric(run)
    if split is None or name not in split.figures:
        return None
    return split, name, split.figures[name], split.intervals.get(name)


def base(run: Run, name: str) -> float | None:
    """The same figure of the model before its first step, on the held-out rows; None where nobody looked."""
    return number(run.evals[0].get(name)) if run.evals and number(run.evals[0].get("step")) == 0 else None


def commonest(split: Split) -> tuple[str, float] | None:
    """(label, share of the rows) of the label that most rows have: what always saying it would get. Single labels only."""
    wanted = [row["wanted"][0] for row in split.answers if "label" in row and isinstance(row.get("wanted"), list) and row["wanted"]]
    if not wanted or "accuracy" not in split.figures:
        return None
    label, count = Counter(map(str, wanted)).most_common(1)[0]
    return label, count / len(wanted)


def called(name: str, of: str = "") -> str:
    """A figure's name for a person. of: the task, which tells one F1 from another."""
    if name == "f1" and of == "tag":
        return "F1 of whole stretches"
    if name == "f1" and of == "classify":
        return "F1, every label alike"
    if name == "loss":
        return "loss"
    return FIGURES.get(name, (name.replace("_", " "), False))[0]


def say(name: str, value: float) -> str:
    """'80.1 %' for a share, '31.2' for BLEU, '0.734' for the rest."""
    if FIGURES.get(name, ("", False))[1]:
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name == "bleu" else f"{value:.3f}" if abs(value) < 100 else grouped(round(value))


def between(name: str, found: Interval) -> str:
    """'78.3 to 81.9'."""
    return f"{say(name, found.low).removesuffix(' %')} to {say(name, found.high).removesuffix(' %')}"


def trained(run: Run) -> tuple[float, float] | None:
    """(numbers that learned, all numbers) of the model; None where the run did not write it down."""
    ours, every = (number(run.adapt.get(key)) for key in ("trainable", "parameters"))
    return (ours, every) if ours is not None and every else None


def method(run: Run) -> str:
    """'LoRA of rank 8', 'full fine-tuning'."""
    part = run.recipe.get("adapt")
    part = part if isinstance(part, dict) else {}
    name = str(part.get("method", "full"))
    if name in ("lora", "qlora"):
        how = ["DoRA" if part.get("dora") else "LoRA" if name == "lora" else "QLoRA (base in NF4)"]
        return f"{how[0]} of rank {part.get('rank', 8)}" + (", rank-stabilised" if part.get("stabilised") else "")
    if name in ("prompt", "prefix", "p-tuning"):
        return (
            f"{ {'prompt': 'prompt tuning', 'prefix': 'prefix tuning', 'p-tuning': 'P-tuning'}[name] } with {part.get('tokens', 20)} tokens"
        )
    return "parts of it frozen" if part.get("frozen") else "all of it trained"


def sources(run: Run) -> dict[str, list[str]]:
    """The files of the rows by what they were for."""
    found = {}
    for key, said in (("sources", "train"), ("eval", "held out"), ("test", "test")):
        named = part_of(run, "data", key)
        if isinstance(named, list) and named:
            found[said] = [str(name) for name in named]
    return found


def sentence(run: Run) -> str:
    """What was trained on what, how, and what came of it: HTML."""
    start = part_of(run, "model", "start")
    said = [f"{what(run)}, {'tuned' if start else 'trained from nothing'} {TASKS[task(run)][0]}"]
    said.append(f" from <code>{escape(Path(str(start)).name)}</code>" if start else "")
    named = sources(run).get("train", [])
    rows = number(run.data.get("train"))
    if rows:
        said.append(f" on {grouped(rows)} rows")
    if named:
        said.append(
            f" of {', '.join(f'<code>{escape(Path(name).name)}</code>' for name in named[:3])}{' and more' if len(named) > 3 else ''}"
        )
    counted = trained(run)
    share = f" ({_share(counted[0] / counted[1])} of its numbers)" if counted and counted[0] < counted[1] else ""
    said.append(f", {escape(method(run))}{share}" if start else "")
    spent = actual_minutes(run)
    if spent:
        said.append(f", in {minutes(60 * spent)}")
    return f"{''.join(said)}.{_result(run)}{state(run)}"


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"


def _result(run: Run) -> str:
    found = headline(run)
    if found is None:
        return ""
    split, name, value, interval = found
    text = f" <strong>{_figure(name, value)} {escape(called(name, task(run)))}</strong> on {grouped(split.rows)} {split.called} rows"
    if interval:
        text += f" ({100 * interval.level:.0f} % interval: {between(name, interval)})"
    text += "".join(f", {_figure(other, split.figures[other])} {escape(called(other))}" for other in _beside(split, name))
    before, guess = base(run, name), commonest(split) if name == "accuracy" else None
    if before is not None:
        text += f"; before the first step the held-out rows had {_figure(name, before)}"
    if guess:
        text += f"; always saying <code>{escape(guess[0])}</code> would get {_figure(name, guess[1])}"
    return text + "."


def _figure(name: str, value: float) -> str:
    """As HTML, its sign on the same line."""
    return escape(say(name, value)).replace(" ", "&nbsp;")


def _beside(split: Split, name: str) -> list[str]:
    """What a loss is quoted with: how like the wanted texts the written ones are, and whether they end."""
    likeness = [other for other in ("bleu", "rougeL", "rouge_l") if other in split.figures][:1]
    return [*likeness, *(["ended"] if "ended" in split.figures else [])] if name == "loss" else []


def facts(run: Run) -> list[tuple[str, str, str]]:
    """The large figures below the sentence."""
    found: list[tuple[str, str, str]] = []
    top = headline(run)
    if top:
        split, name, _, _ = top
        for other in (name, *_beside(split, name)[:1]):
            figure, _, unit = say(other, split.figures[other]).partition(" ")
            found.append((figure, unit, f"{split.called} {called(other)}"))
    counted = trained(run)
    for value, said in ((number(run.data.get("train")), "rows to learn from"), (counted[0] if counted else None, "numbers trained")):
        if value:
            figure, _, unit = compact(value).partition(" ")
            found.append((figure, unit, said))
    spent = actual_minutes(run)
    if spent:
        figure, _, unit = minutes(60 * spent).partition(" ")
        found.append((figure, unit, "of training"))
    return found


def answered(row: Row) -> Any:
    """What the model said of a row, whatever the task calls it; None where the file has nothing."""
    return next((row[key] for key in ("label", "labels", "answer", "text", "number", "tags") if key in row), None)
