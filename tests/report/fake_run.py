"""A run folder as training writes it, made by code with noise: for tests, and to look at a report with.

    python -m tests.report.fake_run FOLDER

The curves fall as real ones do (a power of the step, with noise), one step is skipped, the run is resumed half-way, samples are drawn from
character chains of growing order over a module of the standard library, and attention is a few head shapes that real models show.
"""

from __future__ import annotations

import inspect
import json
import math
import random
import struct
import sys
import textwrap
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from quire import recipe as recipes
from quire.metrics.parses import share_that_parses
from quire.report import attention
from quire.train.recipe import DataPart, LogPart, TrainPart, TrainRecipe

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00\ud800]]>"
FILE = "calendar.py"


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _metrics(steps: int, evaluations: int, generator: random.Random, floor: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    every = max(1, steps // evaluations)
    bad, resumed = steps // 5, steps // 2
    for step in range(1, steps + 1):
        falls = (step / steps) ** -0.28
        loss = floor * 2.1 * falls * math.exp(generator.gauss(0, 0.035))
        warm, left = min(1.0, step / (0.03 * steps)), step / steps
        speed = 33_500 * (1 + generator.gauss(0, 0.02)) * (0.55 if generator.random() < 0.01 else 1)
        rows.append(
            {
                "kind": "step", "step": step, "tokens": step * 4096, "loss": min(loss, 7.7), "tokens_per_s": speed,
                "seconds": step * 4096 / 33_000, "lr": 0.004 * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * left))),
                "memory_mb": 612 + 90 * (1 - math.exp(-step / 30)) + generator.random(),
                "grad_norm": 0.35 + 3 * (step / 5) ** -0.6 * math.exp(generator.gauss(0, 0.3)) + (14 if step == bad else 0),
            }
        )  # fmt: skip
        if step == bad:
            rows.append({"kind": "event", "step": step, "what": "skipped", "detail": "the gradient norm was inf; 1 of at most 5 in a row"})
        if step % every == 0:
            bits = floor * (step / steps) ** -0.22 * (1 + generator.gauss(0, 0.002))
            rows.append({"kind": "eval", "step": step, "bits_per_byte": bits, "loss": bits * 2.2, "tokens": step * 4096})
            rows.append({"kind": "event", "step": step, "what": "saved", "detail": f"checkpoints/step-{step:08d}"})
        if step == resumed:
            rows.append({"kind": "event", "step": step, "what": "resumed", "detail": f"from checkpoints/step-{step:08d}"})
    return rows


def _samples(steps: int, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """Text from character chains of growing order, and more and more often a real function: what samples look like while a model learns."""
    source = inspect.getsource(textwrap)
    real = [part[part.index("(") :] for part in source.split("\n\ndef ") if part[:1].isalpha()]
    rows = []
    for index in range(count):
        order, share = 1 + round(5 * index / max(1, count - 1)), 0.75 * (index / count) ** 0.7
        after: dict[str, Counter[str]] = defaultdict(Counter)
        for size in range(1, order + 1):
            for i in range(len(source) - size):
                after[source[i : i + size]][source[i + size]] += 1
        texts = []
        for _ in range(8):
            text = "def parse_"
            while len(text) < 260:
                options = next(after[text[-size:]] for size in range(order, 0, -1) if text[-size:] in after)
                text += generator.choices(list(options), weights=list(options.values()))[0]
            texts.append("line" + generator.choice(real)[:400] if generator.random() < share else text[len("def parse_") :])
        accepted = share_that_parses(texts, "def parse_")
        rows.append({"step": round(steps * (index + 1) / count), "prompt": "def parse_", "text": texts[0], "parses": accepted})
    return rows


def _surprise(steps: int, evaluations: int, generator: random.Random) -> list[dict[str, Any]]:
    import calendar
    import re

    text = inspect.getsource(calendar)[1100:2900]
    tokens = re.findall(r" ?[A-Za-z]+| ?\d+|\n+ *|[^\w\s]| +", text)
    seen: Counter[str] = Counter()
    final = []
    for token in tokens:
        final.append(max(0.02, (7.5 if token.strip().isalpha() else 2.6) / (1 + 0.9 * seen[token]) * math.exp(generator.gauss(-0.4, 0.7))))
        seen[token] += 1
    rows = []
    for index in range(evaluations):
        share = ((index + 1) / evaluations) ** 0.5
        bits = [min(12.0, 10.5 * (1 - share) + b * share + abs(generator.gauss(0, 0.3))) for b in final]
        rows.append({"step": round(steps * (index + 1) / evaluations), "bits": [None, *(round(b, 3) for b in bits[1:])]})
    rows[0] |= {"file": FILE, "tokens": tokens}
    return rows


def _attention(layers: int, heads: int, generator: np.random.Generator) -> dict[str, Any]:
    tokens = ["def", " parse", "_", "line", "(", "self", ",", " text", ")", ":", "\n   ", " parts", " =", " text", ".", "split", "(",
              "'", ",", "'", ")", "\n   ", " return", " [", "part", ".", "strip", "()",
              " for", " part", " in", " parts", "]", "\n"]  # fmt: skip
    size = len(tokens)
    row, col = np.indices((size, size))
    same = np.array([[a.strip() == b.strip() for b in tokens] for a in tokens])
    shapes = [np.exp(-np.abs(row - col - 1) * 2.0), np.exp(-(row - col) / 6.0), 0.02 + 4.0 * (col == 0), 0.03 + 3.0 * same * (row != col)]
    weights = []
    for layer in range(layers):
        maps = np.stack([shapes[(layer + head) % 4] ** (0.6 + 0.3 * layer) for head in range(heads)]) * generator.uniform(
            0.7, 1.3, (heads, size, size)
        )
        maps = np.where(row >= col, maps + 1e-6, 0)
        weights.append(maps / maps.sum(-1, keepdims=True))
    return attention.pack(weights, tokens)


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A file with a right header and zeros behind it."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset := offset + 4 * math.prod(shape)]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def make(
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 2400,
    evaluations: int = 24,
    samples: int = 40,
    floor: float = 1.62,
    hostile: bool = False,
    **changes: Any,
) -> Path:
    """A finished run in `folder`. `changes` are dotted recipe keys with dots as double underscores: optim__lr=0.01."""
    generator = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = TrainRecipe(
        out=f"runs/{folder.name}",
        seed=seed,
        data=DataPart(sources=("stdlib",)),
        train=TrainPart(minutes=5.0, steps=steps, batch=16),
        log=LogPart(prompts=("def parse_",)),
    )
    for key, value in changes.items():
        recipe = recipes.replace(recipe, key.replace("__", "."), value)
    recipes.save(recipe, folder / "recipe.toml")
    metrics = _metrics(steps, evaluations, generator, floor)
    _lines(folder / "metrics.jsonl", metrics)
    rows = _samples(steps, samples, generator)
    surprise = _surprise(steps, evaluations, generator)
    packed = _attention(4, 4, np.random.default_rng(seed))
    if hostile:
        rows[-1] |= {"text": HOSTILE + rows[-1]["text"], "prompt": HOSTILE}
        surprise[0]["file"] = HOSTILE
        surprise[0]["tokens"][3] = packed["tokens"][2] = HOSTILE
    _lines(folder / "samples.jsonl", rows)
    _lines(folder / "surprise.jsonl", surprise)
    _write(folder / "attention.json", packed)
    parts = {"embedding": 262_144, "attention": 262_144, "feed-forward": 528_384, "norms": 1_152}
    total = sum(parts.values())
    memory = {"weights": 4.2, "gradients": 4.2, "optimizer": 8.4, "activations": 310.0, "total": 690.0}
    plan = {"parameters": total, "parameters_by_part": parts, "memory_mb": memory, "steps": steps, "tokens": steps * 4096, "minutes": 4.6}
    _write(folder / "plan.json", plan | {"tokens_per_s": 35_500, "compile": False, "dtype": "bf16"})
    environment = {
        "python": "3.11.7", "torch": "2.13.0+cpu", "packages": {"quire": "0.1.0", "numpy": "2.4.6", "tokenizers": "0.23.3"}, "threads": 2,
        "system": HOSTILE if hostile else "Linux-6.6-x86_64", "processor": "Intel(R) Xeon(R) Processor", "memory_mb": 23_500, "gpu": None,
        "instruction_sets": ["avx2", "avx512f", "avx512_bf16", "amx_bf16"], "torch_instruction_set": "AMX",
    }  # fmt: skip
    _write(folder / "environment.json", environment)
    best = [row for row in metrics if row["kind"] == "eval"][-1]
    status = {"state": "finished", "step": steps, "steps": steps, "started": "2026-11-22T09:30:00+00:00", "seconds": steps * 4096 / 33_000}
    _write(folder / "status.json", status | {"best": {"metric": "bits_per_byte", "value": best["bits_per_byte"], "step": best["step"]}})
    compressors = {"gzip": (2.447, 2.212), "bzip2": (2.398, 1.731), "xz": (2.352, 1.658)}
    measured = {"per_file": best["bits_per_byte"], "one_stream": best["bits_per_byte"] * 0.985}
    found = {name: {"per_file": a, "one_stream": b} for name, (a, b) in compressors.items()}
    _write(
        folder / "evaluation.json", {"bits_per_byte": measured, "compressors": found, "corpus_hash": "7f" * 32, "held_out_bytes": 412_345}
    )
    for name, documents, size in (("train", 640, 11_480_000), ("held_out", 14, 412_345)):
        _write(folder / "data" / f"{name}.json", {"documents": documents, "text_bytes": size, "tokens": size // 3, "corpus": "7f" * 32})
    left_out = [("duplicates of a document before them", 19, ["spam.py"]), ("not UTF-8", 4, [HOSTILE if hostile else "koi8_r.py"])]
    first, *rest = [{"reason": reason, "count": count, "examples": examples} for reason, count, examples in left_out]
    _write(folder / "data.json", {"documents": 654, "duplicates": first, "skipped": rest})
    counts = {"documents": 14, "characters": 400_000, "bytes": 412_345, "words": 57_000, "tokens": 132_000, "unknown": 0, "used": 1_904}
    row = counts | {"bytes_per_token": 3.12, "tokens_per_word": 2.32}
    _write(folder / "tokenizer_report.json", {"vocabulary": 2045, "total": row | {"group": "all"}, "groups": [row | {"group": ".py"}]})
    safetensors(folder / "model" / "model.safetensors", {"embed.weight": [2048, 128], "layers.weight": [6180, 128], "norm.weight": [640]})
    _write(
        folder / "model" / "config.json",
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "vocab_size": 2048},
    )
    names = (("plain attention", "fp32", 2.4e-6, 1e-4), ("cached", "fp32", 3.1e-6, 1e-4), ("saved, reloaded", "fp32", 0.0, 0.0))
    checks = [
        {"name": name, "dtype": dtype, "difference": found, "limit": limit, "ok": found <= limit} for name, dtype, found, limit in names
    ]
    _write(folder / "model" / "certificate.json", {"schema": 1, "ok": True, "binding": "b1" * 32, "date": "2026-11-22", "checks": checks})
    _write(
        folder / "model" / "binding.json",
        {"schema": 1, "id": "b1" * 32, "contract": {"id": "c2" * 32}, "weights": {"id": "d3" * 32, "tensors": {}}},
    )
    return folder


if __name__ == "__main__":
    from quire.report.run import write

    print(write(make(Path(sys.argv[1]), hostile="--hostile" in sys.argv)).absolute())
