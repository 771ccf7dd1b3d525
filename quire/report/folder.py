"""A run folder, read for a report: everything that is there, and by name everything that is damaged.

A report must come out of a run that is still going on, was killed, or lost a file, so nothing here raises for what it finds: a file that is
absent reads as empty, one that is damaged reads as empty and is named in `problems`. Rows that a resumed run has written a second time
count once: a `resumed` event takes back what had been written after its step.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError

Row = dict[str, Any]
_FILES = ("recipe.toml", "status.json", "metrics.jsonl", "plan.json")  # any one of these makes a folder a run
_LONGEST_HEADER = 16 << 20


@dataclass
class Surprise:
    """Bits of every token of one held-out file, at each evaluation. bits[i][t] is None for a token that was not scored."""

    file: str = ""
    tokens: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    bits: list[list[float | None]] = field(default_factory=list)


@dataclass
class Run:
    path: Path
    recipe_text: str = ""
    recipe: Row = field(default_factory=dict)
    plan: Row = field(default_factory=dict)
    environment: Row = field(default_factory=dict)
    status: Row = field(default_factory=dict)
    evaluation: Row = field(default_factory=dict)
    tokenizer: Row = field(default_factory=dict)
    attention: Row = field(default_factory=dict)
    certificate: Row = field(default_factory=dict)
    binding: Row = field(default_factory=dict)
    config: Row = field(default_factory=dict)
    data: Row = field(default_factory=dict)  # what was found in the sources, and what was left out
    adapt: Row = field(default_factory=dict)  # of a supervised run: what of the model was trained
    train: Row = field(default_factory=dict)  # the sidecars of the token shards
    held_out: Row = field(default_factory=dict)
    steps: list[Row] = field(default_factory=list)
    evals: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    surprise: Surprise = field(default_factory=Surprise)
    answers: dict[str, list[Row]] = field(default_factory=dict)  # of a supervised run: "held_out" and "test" -> an answer a row
    parameters: int | None = None  # counted in model.safetensors
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def state(self) -> str:
        """running, finished, stopped, failed, interrupted (it says running, and its process is gone) or unknown."""
        return state_of(self.path, self.status)

    @property
    def metric(self) -> str:
        """The name of the figure that evaluations are judged by."""
        return metric_name(self.evals)

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.metric, self.evals)

    def best(self) -> tuple[str, float, int] | None:
        """(metric, value, step) of the best evaluation; of equal ones that with the lowest loss, as the run itself chooses."""
        name = self.metric
        sign = 1 if self.lower_is_better else -1
        scored = [
            (sign * value, math.inf if (loss := number(row.get("loss"))) is None else loss, int(row["step"]))
            for row in self.evals
            if (value := number(row.get(name))) is not None
        ]
        if not scored:
            return None
        value, _, step = min(scored)
        return name, sign * value, step


def number(value: Any) -> float | None:
    """A finite number, or None for anything else that a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's integers have no end
        return None
    return found if math.isfinite(found) else None


def metric_name(rows: Sequence[Row]) -> str:
    """What the latest evaluation names and holds; without a word, the first of the usual ones that any of them holds."""
    for row in reversed(rows):
        named = row.get("metric")
        if isinstance(named, str) and number(row.get(named)) is not None:
            return named
    usual = ("bits_per_byte", "accuracy", "loss")
    return next((name for name in usual if any(number(row.get(name)) is not None for row in rows)), "bits_per_byte")


def lower_is_better(name: str, rows: Iterable[Row] = ()) -> bool:
    """What the evaluation says of its metric; without a word, losses and bits fall and everything else climbs."""
    for row in rows:
        said = row.get("direction", row.get("lower_is_better"))
        if isinstance(said, bool):
            return said
        if said in ("min", "max", "lower", "higher"):
            return said in ("min", "lower")
    return any(word in name for word in ("loss", "bits", "perplexity", "error"))


def is_run(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in _FILES)


def read(folder: Path | str) -> Run:
    """Everything in a run folder. Raises DataError when the folder is not one."""
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; give a run folder, the one that `quire train` wrote")
    if not is_run(path):
        raise DataError(f"{path} is not a run folder: it has none of {', '.join(_FILES)}; give the folder that `quire train` wrote")
    run = Run(path)
    run.recipe_text = _text(path / "recipe.toml", run.problems)
    run.recipe = _toml(run.recipe_text, run.problems)
    for name, file in (
        ("plan", "plan.json"),
        ("environment", "environment.json"),
        ("status", "status.json"),
        ("evaluation", "evaluation.json"),
        ("tokenizer", "tokenizer_report.json"),
        ("attention", "attention.json"),
        ("certificate", "model/certificate.json"),
        ("binding", "model/binding.json"),
        ("config", "model/config.json"),
        ("data", "data.json"),
        ("adapt", "adapt.json"),
        ("train", "data/train.json"),
        ("held_out", "data/held_out.json"),
    ):
        setattr(run, name, _json(path / file, run.problems))
    _metrics(run)
    run.samples = [
        row for row in _lines(path / "samples.jsonl", run.problems) if _step(row) is not None and isinstance(row.get("text"), str)
    ]
    run.answers = {name: _lines(path / f"answers_{name}.jsonl", run.problems) for name in ("held_out", "test")}
    run.surprise = _surprise(path / "surprise.jsonl", run.problems)
    run.parameters = _count_parameters(path / "model" / "model.safetensors", run.problems)
    return run


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name in ("model", "data") else path.name


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{_short(path)} cannot be read ({type(error).__name__})")
        return ""


def _json(path: Path, problems: list[str]) -> Row:
    known = len(problems)
    text = _text(path, problems)
    if not text:
        if path.exists() and len(problems) == known:
            problems.append(f"{_short(path)} is empty")
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        problems.append(f"{_short(path)} is not JSON: it was damaged or half written")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{_short(path)} holds a {type(value).__name__} where an object belongs")
        return {}
    return value


def _toml(text: str, problems: list[str]) -> Row:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"recipe.toml is not TOML ({error})")
        return {}


def _lines(path: Path, problems: list[str]) -> list[Row]:
    """The objects of a .jsonl file. An unfinished last line is what a killed process leaves and no damage; others are counted."""
    text = _text(path, problems)
    lines, rows, broken = text.split("\n"), [], 0
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
            if index == len(lines) - 1:
                continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken += 1
    if broken:
        problems.append(f"{_short(path)}: {broken} of {len(lines)} lines are not JSON objects and were left out")
    return rows


def _step(row: Row) -> int | None:
    value = number(row.get("step"))
    return None if value is None or value < 0 else int(value)


def _metrics(run: Run) -> None:
    steps: dict[int, Row] = {}
    evals: dict[int, Row] = {}
    for row in _lines(run.path / "metrics.jsonl", run.problems):
        step = _step(row)
        if step is None:
            continue
        kind = row.get("kind")
        if kind == "event":
            run.events.append(row)
            if row.get("what") == "resumed":
                steps = {at: kept for at, kept in steps.items() if at <= step}
                evals = {at: kept for at, kept in evals.items() if at <= step}
        elif kind in ("step", "eval"):
            (steps if kind == "step" else evals)[step] = row
    run.steps = [steps[step] for step in sorted(steps)]
    run.evals = [evals[step] for step in sorted(evals)]


def _surprise(path: Path, problems: list[str]) -> Surprise:
    found = Surprise()
    by_step: dict[int, list[float | None]] = {}
    unequal = 0
    for row in _lines(path, problems):
        step, bits = _step(row), row.get("bits")
        if isinstance(row.get("tokens"), list) and not found.tokens:
            found.tokens = [str(token) for token in row["tokens"]]
            found.file = str(row.get("file", ""))
        if step is None or not isinstance(bits, list):
            continue
        if len(bits) != len(found.tokens):
            unequal += 1
            continue
        by_step[step] = [number(value) for value in bits]
    if unequal:
        problems.append(f"{path.name}: {unequal} lines have another number of bits than the file has tokens and were left out")
    found.steps = sorted(by_step)
    found.bits = [by_step[step] for step in found.steps]
    return found


def _count_parameters(path: Path, problems: list[str]) -> int | None:
    """Numbers in a safetensors file, from its header alone: 8 bytes of length, then JSON of names, shapes and offsets."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return int(sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        problems.append(f"{_short(path)} has no readable header ({type(error).__name__}): it was damaged or half written")
        return None


def state_of(path: Path, status: Row) -> str:
    state = status.get("state")
    if state == "running" and not _alive(path / "LOCK"):
        return "interrupted"
    return state if isinstance(state, str) and state else "unknown"


def _alive(lock: Path) -> bool:
    """Does a process hold the run's lock? Asked of the system, as a process id in the file may be another host's or used again."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
