"""The runs below a folder, a line each: quick, from the small files alone, and never stopped by a run that is damaged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .folder import Row, is_run, number, state_of

_DEEPEST = 3  # folders below the one asked for


@dataclass(frozen=True)
class Entry:
    """One run. `damaged` says what could not be read; figures that are not known are None."""

    name: str
    path: str
    state: str
    step: int | None = None
    steps: int | None = None
    parameters: int | None = None
    metric: str | None = None
    value: float | None = None
    minutes: float | None = None
    started: str | None = None
    damaged: str | None = None

    def json(self) -> dict[str, Any]:
        return asdict(self)


def find(folder: Path | str) -> list[Entry]:
    """Every run in `folder`, itself included, the latest first. Raises DataError when there is no such folder."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; runs are in `runs` unless --out said otherwise. Start one: quire quickstart")
    return sorted((entry(path, root) for path in _runs(root, _DEEPEST)), key=lambda found: found.started or "", reverse=True)


def _runs(folder: Path, depth: int) -> list[Path]:
    if is_run(folder):
        return [folder]
    if depth == 0:
        return []
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and not path.name.startswith("."))
    except OSError:
        return []
    return [run for path in inside for run in _runs(path, depth - 1)]


def entry(path: Path, root: Path) -> Entry:
    name = str(path.relative_to(root)) if path != root else path.resolve().name
    wrong: list[str] = []
    status, plan = (_small(path / file, wrong) for file in ("status.json", "plan.json"))
    best = status.get("best")
    best = best if isinstance(best, dict) else {}
    metric = best.get("metric") if isinstance(best.get("metric"), str) else None
    seconds = number(status.get("seconds"))
    if not status and not wrong:
        wrong.append("status.json is absent: the run never began, or lost it")
    return Entry(
        name=name,
        path=str(path),
        state="damaged" if wrong else state_of(path, status),
        step=_whole(status.get("step")),
        steps=_whole(status.get("steps")),
        parameters=_whole(plan.get("parameters")),
        metric=metric,
        value=number(best.get("value")) if metric else None,
        minutes=None if seconds is None else round(seconds / 60, 2),
        started=str(status["started"]) if status.get("started") else None,
        damaged="; ".join(wrong) or None,
    )


def _small(path: Path, wrong: list[str]) -> Row:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        wrong.append(f"{path.name} holds no object")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        wrong.append(f"{path.name} cannot be read ({type(error).__name__})")
    return {}


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)
