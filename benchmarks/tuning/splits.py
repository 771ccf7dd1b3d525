"""The rows that Quire and its peers learn from and are measured on: written once as JSONL, so that all read the same files.

    python -m benchmarks.tuning.splits banking77 FOLDER      writes train.jsonl, eval.jsonl and test.jsonl

Where a set comes with its own division it is kept; else parts are picked by the first byte of SHA-256 of a named text, so that anyone can
rebuild them. Rows of the training part whose text is also in `eval` or `test` are left out: 3 of SST-2, 7 of BANKING77. The data are public
sets, in the folder that QUIRE_TEST_DATA names, else in `shared/data` in the repository or beside it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
Parts = dict[str, list[Row]]  # "train", "eval", "test" -> rows
HELD_OUT = 13  # of 256: the share of the training part (5 %) that becomes `eval` where a set has none


def data_folder() -> Path:
    named = os.environ.get("QUIRE_TEST_DATA")
    places = [Path(named)] if named else [ROOT / "shared/data", ROOT.parent / "shared/data"]
    for place in places:
        if place.is_dir():
            return place
    raise SystemExit(f"there are no data in {' or '.join(map(str, places))}; name their folder with QUIRE_TEST_DATA")


def write(task: str, folder: Path) -> dict[str, Path]:
    """The three files of `task` in `folder`: name of the part -> path. A row keeps its place: its line is its id."""
    parts = TASKS[task]()
    measured = {_reads(row) for name in ("eval", "test") for row in parts[name]}
    parts["train"] = [row for row in parts["train"] if _reads(row) not in measured]
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, rows in parts.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return paths


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def first_byte(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def _reads(row: Row) -> str:
    text = row["text"] if "text" in row else " ".join(row["tokens"]) if "tokens" in row else row["question"] + "\n" + row["context"]
    return " ".join(text.lower().split())


def _held_out(rows: Iterable[Row], key: Callable[[Row], str]) -> Parts:
    parts: Parts = {"train": [], "eval": []}
    for row in rows:
        parts["eval" if first_byte(key(row)) < HELD_OUT else "train"].append(row)
    return parts


# -- the sets: {"text", "label"}, {"tokens", "tags"}, or SQuAD's flat rows -------------------------------------------------------------


def sst2() -> Parts:
    """Movie reviews' sentences, negative or positive: its own three files."""

    def rows(name: str) -> Iterator[Row]:
        for line in (data_folder() / f"classification/sst2/{name}.tsv").read_text(encoding="utf-8").splitlines():
            text, label = line.split("\t")
            yield {"text": text, "label": ("negative", "positive")[int(label)]}

    return {part: list(rows(name)) for part, name in (("train", "train"), ("eval", "dev"), ("test", "test"))}


def agnews() -> Parts:
    """News in four classes. Of the set's test file a share is there, picked by the same byte, below 205: what is below 51 is our test."""
    folder = data_folder() / "classification/ag_news"
    names = (folder / "classes.txt").read_text(encoding="utf-8").split()
    with gzip.open(folder / "ag_news_a.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [{"text": f"{title} {text}", "label": names[int(number) - 1]} for number, title, text in csv.reader(file)]
    test = [row for row in rows if first_byte(row["text"]) < 51]
    rest = (row for row in rows if first_byte(row["text"]) >= 51)
    return {**_held_out(rest, lambda row: row["label"] + "\n" + row["text"]), "test": test}  # another text: that byte is spent


def banking77() -> Parts:
    """Questions to a bank, 77 intents: its own train and test."""

    def rows(name: str) -> Iterator[Row]:
        with (data_folder() / f"classification/banking77/{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield {"text": row["text"], "label": row["category"]}

    return {**_held_out(rows("train"), lambda row: row["text"]), "test": list(rows("test"))}


def wnut17() -> Parts:
    """Emerging entities in noisy text: its own three files."""

    def rows(name: str) -> Iterator[Row]:
        words: list[list[str]] = []
        for line in [*(data_folder() / f"ner/wnut17/{name}.conll").read_text(encoding="utf-8").split("\n"), ""]:
            if line.strip():
                words.append(line.split("\t"))
            elif words:
                yield {"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]}
                words = []

    return {part: list(rows(name)) for part, name in (("train", "train"), ("eval", "dev"), ("test", "test"))}


def squad() -> Parts:
    """Half of a sample of SQuAD 2.0's development set, 8 articles: two of them, by their titles' byte, are the test (22 % of the rows)."""
    with gzip.open(data_folder() / "qa/squad2_dev_a.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]

    def rows(chosen: bool) -> Iterator[Row]:
        for article in articles:
            if (first_byte(article["title"]) < 40) != chosen:
                continue
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    found = {key: [answer[key] for answer in asked["answers"]] for key in ("text", "answer_start")}
                    yield {"id": asked["id"], "question": asked["question"], "context": paragraph["context"], "answers": found}

    return {**_held_out(rows(False), lambda row: row["context"]), "test": list(rows(True))}


TASKS: dict[str, Callable[[], Parts]] = {"sst2": sst2, "agnews": agnews, "banking77": banking77, "wnut17": wnut17, "squad": squad}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TASKS:
        raise SystemExit(f"give a task ({', '.join(TASKS)}) and a folder")
    for name, path in write(sys.argv[1], Path(sys.argv[2])).items():
        print(f"{name:6}{len(read(path)):7,} rows   {path}")
