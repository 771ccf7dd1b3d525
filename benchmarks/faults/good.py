"""Fifty sound data sets on which nothing may be refused: small, of every form and task, odd where oddness is legal.

They are made from Python's own documentation, so every machine can make them; with a folder of public data sets, slices of those follow.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import inspect
import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .seeds import Row, turn

MODULES = ("builtins", "math", "os.path", "string", "textwrap", "itertools", "collections", "json", "re", "statistics", "random", "shutil")
COUNT = 48


@dataclass(frozen=True, slots=True)
class Good:
    """One data set: the task it is for, and its files by name as they are to be written."""

    name: str
    task: str
    files: dict[str, str]

    def write(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name in self.files]


@dataclass(frozen=True, slots=True)
class Known:
    """A function or class of the standard library: its name, module, call and the first line of its documentation."""

    name: str
    module: str
    call: str
    summary: str


@cache
def library() -> tuple[Known, ...]:
    """In an order of chance that is the same everywhere; names that two modules share come once."""
    found: dict[str, Known] = {}
    for module in MODULES:
        for name, value in sorted(vars(importlib.import_module(module)).items()):
            text = (inspect.getdoc(value) or "").partition("\n")[0].strip()
            failure = inspect.isclass(value) and issubclass(value, BaseException)
            if name[0] == "_" or not callable(value) or len(text) < 20 or failure:
                continue
            try:
                call = f"{name}{inspect.signature(value)}"
            except (TypeError, ValueError):
                call = f"{name}(...)"
            found.setdefault(name, Known(name, module, call, text))
    known = list(found.values())
    random.Random(0).shuffle(known)
    return tuple(known)


def some(count: int = COUNT, first: int = 0) -> Sequence[Known]:
    return library()[first : first + count]


def counted(count: int = COUNT) -> Iterable[tuple[int, Known]]:
    return enumerate(some(count))


# How files are written


def jsonl(rows: Iterable[Row]) -> dict[str, str]:
    return {"train.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}


def whole(rows: Iterable[Row]) -> dict[str, str]:
    return {"train.json": json.dumps(list(rows), ensure_ascii=False, indent=1)}


def table(rows: Sequence[Row], delimiter: str = ",") -> dict[str, str]:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return {"train.csv" if delimiter == "," else "train.tsv": text.getvalue()}


def conll(rows: Iterable[tuple[Sequence[str], Sequence[str]]], *between: str) -> dict[str, str]:
    """Columns: word, what stands between, tag; a blank line after each sentence."""
    return {"train.conll": "".join("".join(" ".join((w, *between, t)) + "\n" for w, t in zip(*row, strict=True)) + "\n" for row in rows)}


def squad(rows: Iterable[Row]) -> dict[str, str]:
    pages = [{"title": row["id"], "paragraphs": [{"context": row.pop("context"), "qas": [row]}]} for row in rows]
    return {"train.json": json.dumps({"version": "v2.0", "data": pages})}


# What the rows say


def chat(*pairs: tuple[str, str], system: str = "") -> Row:
    turns = [turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    return {"messages": [turn("system", system), *turns] if system else turns}


def asked(known: Known) -> tuple[str, str]:
    return f"What does {known.module}.{known.name} do?", known.summary


def called(known: Known) -> tuple[str, str]:
    return f"How is {known.name} called?", known.call


def shared(*turns: tuple[str, str]) -> Row:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def tools() -> list[Row]:
    takes = {"type": "object", "properties": {"name": {"type": "string"}}}
    definition = {"name": "describe", "description": "one line on a name", "parameters": takes}

    def row(known: Known) -> Row:
        call = {"id": "c1", "type": "function", "function": {"name": "describe", "arguments": json.dumps({"name": known.name})}}
        return {
            "tools": [{"type": "function", "function": definition}],
            "messages": [
                turn("user", asked(known)[0]),
                turn("assistant", "", tool_calls=[call]),
                turn("tool", known.summary, tool_call_id="c1"),
                turn("assistant", f"It does this: {known.summary}"),
            ],
        }

    return [row(known) for known in some()]


def bio(known: Known, plain: bool = False) -> tuple[list[str], list[str]]:
    """Words of a sentence; the module (two words) and the name are spans."""
    words = ["in", "module", known.module, "the", "call", known.name, *known.summary.split()[:8]]
    tags = ["O", "B-PLACE", "I-PLACE", "O", "O", "B-NAME"] + ["O"] * (len(words) - 6)
    return words, [tag.partition("-")[2] or "O" for tag in tags] if plain else tags


def question(known: Known, n: int, *, lead: str = "", unanswered: bool = False, times: int = 1) -> Row:
    """About the name, which stands in the context as often as asked."""
    context = lead + " and ".join(f"{known.name} is in {known.module}" for _ in range(times)) + f". {known.summary}"
    answers = [] if unanswered else [{"text": known.name, "answer_start": context.index(known.name)}]
    return {"id": f"q{n}", "question": f"What is in {known.module}?", "context": context, "answers": answers, "is_impossible": unanswered}


def in_two_files() -> dict[str, str]:
    return {f"part{n}.jsonl": jsonl(chat(asked(k)) for k in some(24, 24 * n))["train.jsonl"] for n in (0, 1)}


SCRIPTS = (
    "Grüße, señor 👋🏽",
    "日本語の文です。",
    "שלום עולם",
    "مرحبا بالعالم",
    "e\u0301 vs é",
    "नमस्ते दुनिया",
    "👩\u200d👩\u200d👧 family",
    "ﬁne\u00a0print",
)


def in_every_script() -> list[Row]:
    return [chat((f"{text} ({n})", f"{n}: {text[::-1] if n % 2 else text}")) for n in range(6) for text in SCRIPTS]


def same_or_other() -> list[Row]:
    """A call with its own documentation, or with that of the call before."""
    return [{"sentence1": k.call, "sentence2": some()[n - n % 2].summary, "label": ("same", "other")[n % 2]} for n, k in counted()]


CHAT: dict[str, Callable[[], dict[str, str]]] = {
    "chat": lambda: jsonl(chat(asked(k)) for k in some()),
    "chat with a system turn": lambda: jsonl(chat(asked(k), system="Answer in one line.") for k in some()),
    "chat, system turn in some": lambda: jsonl(chat(asked(k), system="Be brief." * (n % 3 == 0)) for n, k in counted()),
    "chat of four turns": lambda: jsonl(chat(asked(k), called(k)) for k in some()),
    "chat of twenty turns": lambda: jsonl(chat(*map(asked, some(10, n))) for n in range(0, 120, 10)),
    "chat of mixed lengths": lambda: jsonl(chat(*map(called, some(1 + n % 4, n))) for n in range(0, 96, 4)),
    "chat with tools": lambda: jsonl(tools()),
    "chat in one JSON list": lambda: whole(chat(called(k)) for k in some()),
    "chat in two files": in_two_files,
    "chat, every script": lambda: jsonl(in_every_script()),
    "chat with code": lambda: jsonl(chat((f"Call {k.name}.", f"```python\nimport {k.module}\n\n{k.call}\n```")) for k in some()),
    "chat with JSON answers": lambda: jsonl(chat((asked(k)[0], json.dumps({"name": k.name, "does": k.summary}))) for k in some()),
    "chat that speaks of tags": lambda: jsonl(chat((f"Strike {k.name} out in HTML.", f"Write <s>{k.name}</s>, or <del>.")) for k in some()),
    "chat, answers of one word": lambda: jsonl(chat((f"Is {k.name} in math?", "yes" if k.module == "math" else "no")) for k in some()),
    "chat, some rows twice": lambda: jsonl(chat(asked(k)) for k in (*some(), *some(3))),
    "ShareGPT": lambda: jsonl(shared(("human", asked(k)[0]), ("gpt", k.summary)) for k in some()),
    "ShareGPT with system": lambda: whole(shared(("system", "Be exact."), ("human", called(k)[0]), ("gpt", k.call)) for k in some()),
    "instruction, input, output": lambda: whole({"instruction": "Say what it does.", "input": k.call, "output": k.summary} for k in some()),
    "instruction without input": lambda: jsonl({"instruction": asked(k)[0], "input": "", "output": k.summary} for k in some()),
    "prompt and completion": lambda: jsonl({"prompt": f"{k.call} # ", "completion": k.summary} for k in some()),
    "prompt and completion, CSV": lambda: table([{"prompt": f"{k.name}:", "completion": f" {k.summary}"} for k in some()]),
    "prompts that end in a space": lambda: jsonl({"prompt": f"{k.name} is in ", "completion": k.module} for k in some()),
}

CLASSIFY: dict[str, Callable[[], dict[str, str]]] = {
    "two labels": lambda: jsonl({"text": k.summary, "label": "short" if len(k.summary) < 50 else "long"} for k in some()),
    "two labels, CSV": lambda: table([{"text": k.summary, "label": "a" if k.summary[0].lower() < "n" else "z"} for k in some()]),
    "twelve labels": lambda: jsonl({"text": k.summary, "label": k.module} for k in some(160)),
    "labels that are numbers": lambda: jsonl({"text": k.summary, "label": len(k.name) % 3} for k in some()),
    "labels that are true and false": lambda: jsonl({"text": k.call, "label": k.module == "builtins"} for k in some(96)),
    "a rare label": lambda: jsonl({"text": k.summary, "label": "rare" if n == 7 else "usual" if n % 2 else "other"} for n, k in counted()),
    "nineteen of twenty alike": lambda: jsonl({"text": k.summary, "label": "odd" if n % 20 == 0 else "even"} for n, k in counted(120)),
    "labels that look alike": lambda: jsonl({"text": k.summary, "label": ("C", "C++", "read", "reads")[n % 4]} for n, k in counted()),
    "labels in other scripts": lambda: jsonl({"text": k.summary, "label": ("größer", "kleiner", "同じ")[n % 3]} for n, k in counted()),
    "texts of a few characters": lambda: jsonl({"text": k.name[:3] + str(n), "label": "low" if n < 24 else "high"} for n, k in counted()),
    "several labels": lambda: jsonl({"text": k.summary, "labels": [c for c in "aeiou" if c in k.name]} for k in some()),
    "a number to predict": lambda: jsonl({"text": k.summary, "score": len(k.summary) / 10} for k in some()),
    "pairs of texts": lambda: jsonl(same_or_other()),
}

TAG: dict[str, Callable[[], dict[str, str]]] = {
    "CoNLL, two columns": lambda: conll(bio(k) for k in some()),
    "CoNLL, four columns": lambda: conll((bio(k) for k in some()), "NN", "B-NP"),
    "words and tags": lambda: jsonl(dict(zip(("tokens", "tags"), bio(k), strict=True)) for k in some()),
    "tags without B and I": lambda: jsonl(dict(zip(("words", "tags"), bio(k, plain=True), strict=True)) for k in some()),
}

ANSWER: dict[str, Callable[[], dict[str, str]]] = {
    "SQuAD": lambda: squad(question(k, n, lead="Note: ") for n, k in counted()),
    "SQuAD, some without an answer": lambda: squad(question(k, n, unanswered=n % 3 == 0) for n, k in counted()),
    "SQuAD, answers at the start": lambda: squad(question(k, n) for n, k in counted()),
    "SQuAD, answers more than once": lambda: squad(question(k, n, lead="👋🏽 é: ", times=3) for n, k in counted()),
}

REWRITE: dict[str, Callable[[], dict[str, str]]] = {
    "source and target": lambda: jsonl({"source": k.summary, "target": k.summary.upper()} for k in some()),
    "source and target, TSV": lambda: table([{"source": k.call, "target": k.name} for k in some()], "\t"),
    "long source, short target": lambda: jsonl({"source": " ".join(m.summary for m in some(5, n)), "target": k.name} for n, k in counted()),
}

EMBED: dict[str, Callable[[], dict[str, str]]] = {
    "anchor and positive": lambda: jsonl({"anchor": asked(k)[0], "positive": k.summary} for k in some()),
    "pairs with a score": lambda: jsonl({"sentence1": k.call, "sentence2": k.summary, "score": n % 6 / 5} for n, k in counted()),
    "triplets": lambda: jsonl({"anchor": k.name, "positive": k.summary, "negative": some(1, n + 60)[0].summary} for n, k in counted()),
    "one query, many negatives": lambda: jsonl(
        {"query": asked(k)[0], "positive": k.summary, "negatives": [m.summary for m in some(3, n + 60)]} for n, k in counted()
    ),
}

TASKS = {"chat": CHAT, "classify": CLASSIFY, "tag": TAG, "answer": ANSWER, "rewrite": REWRITE, "embed": EMBED}


def good() -> list[Good]:
    return [Good(name, task, make()) for task, sets in TASKS.items() for name, make in sets.items()]


def public(folder: Path, lines: int = 400) -> list[Good]:
    """Public data sets as their publishers wrote them, where `folder` has them; of files that go by lines the first `lines`."""
    named = {
        "IMDb": ("classify", "classification/imdb/train.jsonl.gz"),
        "BANKING77": ("classify", "classification/banking77/train.csv"),
        "WNUT-17": ("tag", "ner/wnut17/train.conll"),
        "SQuAD 2.0": ("answer", "qa/squad2_dev_a.json.gz"),
        "instructions": ("chat", "instructions/instruction_data_1100.json"),
    }
    found = []
    for name, (task, place) in named.items():
        if (path := folder / place).is_file():
            text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
            kept = text if ".json." in f"{path.name}." else "\n".join(text.split("\n")[:lines]) + "\n"
            found.append(Good(name, task, {path.name.removesuffix(".gz"): kept}))
    return found
