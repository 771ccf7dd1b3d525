"""Is what Quire tunes worth as much? The same split, start model, settings and rows as the peers', compared row by row.

    python -m benchmarks.tuning.peers sst2 --out PEERS/sst2-full                the peers, once for each task and way
    python -m benchmarks.tuning.quality --peers PEERS --out FOLDER [sst2 ...]   Quire beside every result that is there

Settings are read from the peer's own `result.json`: rate, batch, epochs, length, stride, rank, seed, and the last weights count on both
sides. Each difference comes with a 95 % interval in which the same test rows are drawn for both (Koehn 2004): below 0 Quire is worse. One
run says nothing of what another seed would give: PEERS may hold several runs of a task (sst2-lora, sst2-lora-1, ...), figures are then
means over runs, and each draw of the interval also draws the runs of each side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuning import splits
from quire.metrics.interval import Interval, drawn_interval
from quire.metrics.spans import answer_f1, from_tags, span_f1

Row = dict[str, Any]
TASKS = {"sst2": "classify", "agnews": "classify", "banking77": "classify", "wnut17": "tag", "squad": "answer"}


def recipe(task: str, folder: Path, settings: Row, threads: int) -> list[str]:
    """The command that trains as the peer did."""
    data = splits.write(task, folder / "data")
    keys: dict[str, Any] = {
        "model.start": "minilm",
        "data.sources": data["train"],
        "data.eval": data["eval"],
        "data.test": data["test"],
        "data.longest": settings["length"],
        "data.duplicates": "keep",
        "task.name": TASKS[task],
        "optim.name": "adamw",
        "optim.lr": settings["lr"],
        "optim.betas": (0.9, 0.999),
        "optim.weight-decay": settings["weight_decay"],
        "optim.schedule": "linear",
        "optim.warmup": 0.0,
        "optim.final": 0.0,
        "train.epochs": settings["epochs"],
        "train.batch": settings["batch"],
        "train.keep": "last",
        "train.threads": threads,
        "seed": settings["seed"],
        "out": folder / "run",
    }
    if settings["stride"]:
        keys["task.stride"] = settings["stride"]
    if settings["rank"]:
        keys |= {"adapt.method": "lora", "adapt.rank": settings["rank"], "adapt.alpha": settings["alpha"]}
        keys |= {"adapt.dropout": settings["dropout"], "adapt.targets": ("attn.q", "attn.v")}
    words = [sys.executable, "-m", "quire", "train"]
    for key, value in keys.items():
        words += [f"--{key}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def found_by_quire(task: str, run: Path) -> list[Any]:
    rows = [json.loads(line) for line in (run / "answers_test.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row[{"classify": "label", "tag": "tags", "answer": "answer"}[TASKS[task]]] for row in rows]


def score(task: str) -> Callable[[Sequence[Any], Sequence[Any]], Callable[[Any], float]]:
    """(found, gold) -> the figure of a draw of rows."""
    if TASKS[task] == "tag":

        def spans(found: Sequence[Any], gold: Sequence[Any]) -> Callable[[Any], float]:
            mine, theirs = [from_tags(tags) for tags in found], [from_tags(tags) for tags in gold]
            return lambda drawn: span_f1([mine[place] for place in drawn], [theirs[place] for place in drawn])

        return spans

    def mean(found: Sequence[Any], gold: Sequence[Any]) -> Callable[[Any], float]:
        points = np.array([answer_f1([a], [b]) if TASKS[task] == "answer" else float(a == b) for a, b in zip(found, gold, strict=True)])
        return lambda drawn: float(points[drawn].mean())

    return mean


def compare(task: str, pairs: Sequence[tuple[Path, Path]]) -> tuple[list[float], list[float], Interval]:
    """(Quire's figures, the peer's, the difference of their means) of (the peer's folder, Quire's run)."""
    ours, theirs = [], []
    for peer, run in pairs:
        rows = [json.loads(line) for line in (peer / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        gold = [row["gold"] for row in rows]
        ours.append(score(task)(found_by_quire(task, run), gold))
        theirs.append(score(task)([row["found"] for row in rows], gold))
    every, draw = np.arange(len(rows)), np.random.default_rng(0)

    def some(runs: Sequence[Callable[[Any], float]], drawn: Any) -> float:
        """Of k runs k - 1 are drawn: k would take their mean for surer than it is (Rao and Wu 1988)."""
        return float(np.mean([runs[place](drawn) for place in draw.integers(len(runs), size=max(1, len(runs) - 1))]))

    apart = drawn_interval(lambda drawn: some(ours, drawn) - some(theirs, drawn), len(rows), draws=1000)
    mine, other = [run(every) for run in ours], [run(every) for run in theirs]
    return mine, other, replace(apart, value=float(np.mean(mine) - np.mean(other)))


def beside(task: str, way: str, peers: Path, out: Path, threads: int) -> str | None:
    """A line of the table: Quire trained like each of the peer's runs; None where there is none."""
    results = [folder for folder in sorted(peers.glob(f"{task}-{way}*")) if (folder / "result.json").is_file()]
    pairs, seconds, peer_seconds = [], 0.0, 0.0
    for peer in results:
        result, run = json.loads((peer / "result.json").read_text(encoding="utf-8")), out / peer.name / "run"
        if not (run / "evaluation.json").is_file():
            subprocess.run(recipe(task, out / peer.name, result["settings"], threads), check=True, stdout=subprocess.DEVNULL)
        pairs.append((peer, run))
        seconds += json.loads((run / "status.json").read_text(encoding="utf-8"))["seconds"]
        peer_seconds += result["train_seconds"]
    if not pairs:
        return None
    ours, theirs, apart = compare(task, pairs)
    between = f"{100 * apart.value:+.1f} points [{100 * apart.low:+.1f}, {100 * apart.high:+.1f}]"
    figures = "".join(
        f"{f'{np.mean(side):.3f}' + (f' ({min(side):.3f} to {max(side):.3f})' if len(side) > 1 else ''):>24}" for side in (ours, theirs)
    )
    return f"{task + ' ' + way:<16}{len(pairs):>5}{figures}   {between:<28}{seconds:9.0f}{peer_seconds:9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=list(TASKS))
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    print(f"{'':<16}{'runs':>5}{'Quire':>24}{'peer':>24}   {'difference, 95 % interval':<28}{'seconds':>9}{'peer':>9}")
    for task in chosen.tasks:
        for way in ("full", "lora"):
            if line := beside(task, way, chosen.peers, chosen.out, chosen.threads):
                print(line, flush=True)


if __name__ == "__main__":
    main()
