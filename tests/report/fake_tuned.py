"""A supervised run folder as tuning writes it, made by code with noise: for tests, and to look at a report with.

    python -m tests.report.fake_tuned FOLDER TASK [--labels 77] [--hostile]

TASK: classify, several, number, tag, answer, rewrite, chat, embed or rerank. Every row has a text, a wanted answer and a found one that is
right as often as a real model of that size is; tables are those that the tasks write.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from quire import recipe as recipes
from quire.metrics.interval import mean_interval
from quire.metrics.labels import accuracy, f1
from quire.report.run import write
from quire.train.recipe import AdaptPart, DataPart, ModelPart, TaskPart, TrainPart, TrainRecipe
from tests.report.fake_run import HOSTILE, _lines, _write, safetensors

_WORDS = "the card has not come yet and my transfer is late so where can I see it or who will say why a fee was taken".split()
_METRICS = {"classify": "accuracy", "several": "f1", "number": "spearman", "tag": "f1", "answer": "f1", "rewrite": "bleu", "chat": "loss",
            "embed": "mrr@10", "rerank": "mrr@10"}  # fmt: skip
Answers = list[dict[str, Any]]


def _text(draw: random.Random, words: int = 12) -> str:
    return " ".join(draw.choices(_WORDS, k=words))


def _classify(draw: random.Random, rows: int, labels: int, skill: float) -> tuple[dict[str, Any], Answers]:
    given = random.Random(rows)
    names = [f"label_{number}" for number in range(labels)] if labels > 3 else ["negative", "neutral", "positive"][:labels]
    answers: Answers = []
    for _ in range(rows):
        wanted = given.randrange(labels)
        found = wanted if draw.random() < skill else (wanted + draw.choice((1, 1, 1, 2, 5))) % labels
        answers.append({"wanted": [names[wanted]], "label": names[found], "score": round(0.4 + 0.6 * draw.random(), 4)})
    counts = [[sum(a["wanted"] == [w] and a["label"] == f for a in answers) for f in names] for w in names]
    found_, wanted_ = [a["label"] for a in answers], [a["wanted"][0] for a in answers]
    right = [float(a == b) for a, b in zip(found_, wanted_)]
    figures = {"accuracy": accuracy(found_, wanted_), "f1": f1(found_, wanted_), "loss": 0.48}
    return _part(figures, {"accuracy": right}, {"confusion": {"labels": names, "counts": counts}}, rows), answers


def _several(draw: random.Random, rows: int, skill: float) -> tuple[dict[str, Any], Answers]:
    given = random.Random(rows)
    names = ["fee", "late", "card", "other"]
    answers: Answers = []
    for _ in range(rows):
        wanted = given.sample(names, given.randint(1, 2))
        answers.append({"wanted": wanted, "labels": wanted if draw.random() < skill else draw.sample(names, 2)})
    right = [float(set(a["wanted"]) == set(a["labels"])) for a in answers]
    return _part({"f1": 0.81, "exact": sum(right) / rows, "loss": 0.2}, {"exact": right}, {}, rows), answers


def _number(draw: random.Random, rows: int, skill: float) -> tuple[dict[str, Any], Answers]:
    given = random.Random(rows)
    wanted = [given.uniform(0, 5) for _ in range(rows)]
    answers: Answers = [{"wanted": [repr(a)], "number": round(a * skill + draw.gauss(0.4, 0.7), 4)} for a in wanted]
    return _part({"spearman": 0.83, "pearson": 0.84, "loss": 0.41}, {}, {}, rows), answers


def _tag(draw: random.Random, rows: int, skill: float) -> tuple[dict[str, Any], Answers]:
    answers: Answers = []
    for _ in range(rows):
        wanted = ["O", "B-person", "I-person", "O", "B-place", "O"]
        answers.append({"wanted": wanted, "tags": [tag if draw.random() < skill else "O" for tag in wanted]})
    labels = [
        {"label": name, "precision": 0.6, "recall": 0.5, "f1": 0.545, "found": 3 * rows // 4, "wanted": rows}
        for name in ("person", "place")
    ]
    case = {
        "where": "wnut.conll:18",
        "wanted": ["person: Ada Lovelace"],
        "found": ["place: Ada"],
        "text": "Then Ada Lovelace went to Turin .",
    }
    kinds = {"missed": 41, "wrong type": 12, "wrong boundary": 9, "wrong type and boundary": 3, "invented": 17}
    errors = {"counts": kinds, "examples": {kind: [case, case] for kind in kinds}}
    tables = {"labels": labels, "span_errors": errors, "served": {"rows": 50, "same": 49, "unlike": []}}
    return _part(
        {"f1": 0.545, "precision": 0.6, "recall": 0.5, "accuracy": 0.9, "loss": 0.3}, {"f1": [0.5, 0.6] * 20}, tables, rows
    ), answers


def _answer(draw: random.Random, rows: int, skill: float) -> tuple[dict[str, Any], Answers]:
    answers: Answers = []
    for number in range(rows):
        wanted = [] if number % 3 == 0 else ["in the late spring"]
        found = "".join(wanted) if draw.random() < skill else draw.choice(["", "late", "a fee"])
        answers.append({"wanted": wanted, "answer": found, "score": round(draw.random(), 4)})
    case = {"where": "squad.json:7", "question": "When did she write it?", "wanted": ["in the late spring"], "found": "late"}
    kinds = {"found where there is none": 22, "none found": 9, "too long": 3, "too short": 7, "partly": 2, "elsewhere": 14}
    figures = {"exact": 0.61, "f1": 0.66, "has_answer_f1": 0.6, "no_answer_exact": 0.8, "no_answer_f1": 0.8, "loss": 1.9}
    errors = {"counts": kinds, "examples": {kind: [case] for kind in kinds}}
    return _part(figures, {"f1": [0.0, 1.0, 1.0] * 20}, {"errors": errors}, rows), answers


def _written(draw: random.Random, rows: int, skill: float, chat: bool) -> tuple[dict[str, Any], Answers]:
    given = random.Random(rows)
    answers: Answers = []
    for _ in range(rows):
        wanted = _text(given, 9)
        found = " ".join(word if draw.random() < skill else draw.choice(_WORDS) for word in wanted.split())
        answers.append({"wanted": [wanted], **({"answer": found, "ended": True, "loss": 1.2} if chat else {"text": found})})
    if chat:
        figures = {"loss": 1.21, "perplexity": 3.35, "accuracy": 0.7, "rouge_l": 0.52, "exact": 0.11, "ended": 0.98, "length_ratio": 1.02}
        return _part(figures, {"rouge_l": [0.4, 0.6] * 25, "ended": [1.0] * 49 + [0.0]}, {}, rows), answers
    figures = {"loss": 1.4, "bleu": 31.2, "rouge1": 0.61, "rouge2": 0.4, "rougeL": 0.58, "ended": 1.0}
    return _part(figures, {"rougeL": [0.5, 0.66] * 20}, {}, rows), answers


def _near(draw: random.Random, rows: int, skill: float, first: bool) -> tuple[dict[str, Any], Answers]:
    answers: Answers = []
    for _ in range(rows):
        place = 1 if draw.random() < skill else draw.randint(2, 90)
        answers.append({"wanted": [], "places": [place], **({"first": _text(draw)} if first else {})})
    right = [1 / a["places"][0] for a in answers]
    figures = (
        {"mrr@10": sum(right) / rows, "recall@1": 0.7, "recall@10": 0.9, "pool": 300.0}
        if first
        else {"mrr@10": sum(right) / rows, "ndcg@10": 0.8}
    )
    return _part(figures, {"mrr@10": right}, {}, rows), answers


def _part(figures: dict[str, float], each: dict[str, list[float]], tables: dict[str, Any], rows: int) -> dict[str, Any]:
    intervals = {}
    for name, values in each.items():
        found = mean_interval(values, draws=200)
        intervals[name] = {"value": found.value, "low": found.low, "high": found.high, "level": 0.95, "n": len(values)}
    return {**figures, "intervals": intervals, "tables": tables, "rows": rows}


def _measured(task: str, draw: random.Random, rows: int, labels: int, skill: float) -> tuple[dict[str, Any], Answers]:
    makers = {
        "classify": lambda: _classify(draw, rows, labels, skill),
        "several": lambda: _several(draw, rows, skill),
        "number": lambda: _number(draw, rows, skill),
        "tag": lambda: _tag(draw, rows, skill),
        "answer": lambda: _answer(draw, rows, skill),
        "rewrite": lambda: _written(draw, rows, skill, False),
        "chat": lambda: _written(draw, rows, skill, True),
        "embed": lambda: _near(draw, rows, skill, True),
        "rerank": lambda: _near(draw, rows, skill, False),
    }
    return makers[task]()


def make(
    folder: Path,
    task: str = "classify",
    *,
    seed: int = 0,
    labels: int = 2,
    rows: int = 120,
    skill: float = 0.8,
    hostile: bool = False,
    **changes: Any,
) -> Path:
    """A finished run in `folder`. seed: of the answers, not of the rows. `changes` are dotted recipe keys with dots as double underscores."""
    texts, draw = random.Random(7), random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    name = {"several": "classify", "number": "classify"}.get(task, task)
    recipe = TrainRecipe(
        out=f"runs/{folder.name}",
        model=ModelPart(start="minilm"),
        data=DataPart(sources=("data/train.jsonl",), test=("data/test.jsonl",)),
        task=TaskPart(name=name),
        train=TrainPart(steps=60, batch=32),
        adapt=AdaptPart(method="lora", rank=4),
    )
    for key, value in changes.items():
        recipe = recipes.replace(recipe, key.replace("__", "."), value)
    recipes.save(recipe, folder / "recipe.toml")
    metric, evaluation = _METRICS[task], {}
    for split, count in (("held_out", max(12, rows // 5)), ("test", rows)):
        part, answers = _measured(task, random.Random(f"{task}{split}{seed}"), count, labels, skill)
        evaluation[split] = part
        found = []
        for line, answer in enumerate(answers, 1):
            text = HOSTILE + _text(texts) if hostile else _text(texts)
            found.append({"where": f"data/{split}.jsonl:{line}", "reads": [text], **answer})
        _lines(folder / f"answers_{split}.jsonl", found)
    _write(folder / "evaluation.json", {"metric": metric, **evaluation, metric: evaluation["test"][metric]})
    _history(folder, task, metric, evaluation["held_out"][metric], draw)
    if task in ("rewrite", "chat"):
        _lines(folder / "samples.jsonl", _samples(texts, hostile))
    _sidecars(folder, hostile)
    return folder


def _history(folder: Path, task: str, metric: str, end: float, draw: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    better = "lower" if metric == "loss" else "higher"
    if task in ("embed", "chat"):  # tasks that the model can do, badly, before it learns
        rows.append({"kind": "eval", "step": 0, "metric": metric, "direction": better, metric: end * (2 if metric == "loss" else 0.5)})
    for step in range(1, 61):
        loss = 0.7 * (0.4 + 0.6 / (1 + step / 12)) + draw.gauss(0, 0.02)
        row = {"step": step, "tokens": 900 * step, "loss": loss, "lr": 1e-3 * (1 - step / 60), "grad_norm": 1 + draw.random()}
        rows.append({"kind": "step", **row, "tokens_per_s": 1400 + 100 * draw.random(), "memory_mb": 900 + step, "seconds": 0.7 * step})
        if step % 10 == 0:
            share = 1 + 0.4 * (60 - step) / 60 * (1 if metric == "loss" else -1)
            figures = {metric: end * share} | ({} if metric == "loss" else {"loss": loss + 0.03})
            rows.append({"kind": "eval", "step": step, "metric": metric, "direction": better, **figures})
    rows.append({"kind": "event", "step": 60, "what": "saved", "detail": ""})
    _lines(folder / "metrics.jsonl", rows)


def _samples(texts: random.Random, hostile: bool) -> list[dict[str, Any]]:
    rows = []
    for _ in range(3):
        prompt, wanted = _text(texts) + (HOSTILE if hostile else "?"), _text(texts, 9)
        for step, text in ((0, _text(texts, 20)), (30, _text(texts, 9)), (60, wanted if not rows else wanted[:-7])):
            rows.append({"step": step, "prompt": prompt, "text": text, "wanted": wanted})
    return rows


def _sidecars(folder: Path, hostile: bool) -> None:
    checks = [{"check": name, "outcome": "ok", "seconds": 0.01} for name in ("empty-answers", "test-rows-leak", "end-never-trained")]
    told = {"check": "contradictions", "outcome": "told", "seconds": 0.02, "says": "2 texts have two answers", "count": 7,
            "rows": [HOSTILE if hostile else "data/train.jsonl:4: the card ..."], "fix": "Decide which answer is right."}  # fmt: skip
    found = {"train": 844, "held_out": 28, "test": 1821, "repeated": {"training": 3}, "overlapping": 0, "checks": [*checks, told]}
    _write(folder / "data.json", found | {"examples": 844, "cut": {"examples": 12, "tokens": 340}, "notes": []})
    _write(folder / "adapt.json", {"method": "lora", "trainable": 150_000, "parameters": 22_860_000, "fresh": ["head.classifier.weight"]})
    memory = {"weights": 87, "gradients": 2, "optimizer": 4, "activations": 157, "total": 600}
    plan = {"parameters": 22_860_000, "memory_mb": memory, "steps": 60, "tokens": 54_000, "minutes": 0.7, "tokens_per_s": 1400}
    _write(folder / "plan.json", plan | {"compile": False, "dtype": "bf16"})
    best = {"metric": "accuracy", "value": 0.8, "step": 40}
    status = {"state": "finished", "step": 60, "steps": 60, "best": best, "started": "2026-11-22T09:30:00+00:00", "seconds": 42.0}
    _write(folder / "status.json", status)
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "hidden_size": 384,
        "id2label": {"0": "negative", "1": "positive"},
    }
    _write(folder / "model" / "config.json", config)
    lineage = {"run": folder.name, "task": "classify", "step": 60, "corpus": "7e" * 32, "base": "b9" * 32}
    binding = {"schema": 1, "id": "b1" * 32, "contract": {"id": "c2" * 32}, "weights": {"id": "d3" * 32}, "recorded": {"lineage": lineage}}
    _write(folder / "model" / "binding.json", binding)
    safetensors(folder / "model" / "model.safetensors", {"embed.weight": [64, 8]})
    base = {"id": "b9" * 32, "contract": "c2" * 32, "weights": "d4" * 32}
    _write(folder / "adapter" / "quire_adapter.json", {"schema": 1, "base": base, "weights": "aa" * 32})
    _write(
        folder / "adapter" / "adapter_config.json",
        {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "minilm", "r": 4},
    )


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("task", choices=sorted(_METRICS))
    words.add_argument("--labels", type=int, default=2)
    words.add_argument("--rows", type=int, default=600)
    words.add_argument("--hostile", action="store_true")
    given = words.parse_args()
    print(write(make(given.folder, given.task, labels=given.labels, rows=given.rows, hostile=given.hostile)).absolute())
