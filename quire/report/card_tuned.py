"""The card of a model that was tuned on rows, and of its adapter: what it learned, how well, and how it is used."""

from __future__ import annotations

import json
from pathlib import Path

from ..progress import many
from .checked import checks, left_out
from .folder import Row, Run, number
from .outcome import parameters, part_of
from .page import clean, compact, grouped
from .prose import code, plain, table
from .supervised import (
    SPLITS,
    TASKS,
    Interval,
    base,
    between,
    called,
    commonest,
    headline,
    judged,
    method,
    metric,
    say,
    sources,
    splits,
    task,
    trained,
    verb,
)

# task -> (what a hub calls it, transformers' class for its head)
_HUB = {
    "chat": ("text-generation", "AutoModelForCausalLM"),
    "classify": ("text-classification", "AutoModelForSequenceClassification"),
    "tag": ("token-classification", "AutoModelForTokenClassification"),
    "answer": ("question-answering", "AutoModelForQuestionAnswering"),
    "rewrite": ("text2text-generation", "AutoModelForSeq2SeqLM"),
    "embed": ("sentence-similarity", "AutoModel"),
    "rerank": ("text-ranking", "AutoModelForSequenceClassification"),
}
_WORDS = {
    "chat": "",
    "classify": ' "A text to be labelled."',
    "tag": ' "Angela Merkel was born in Hamburg."',
    "answer": ' "Where does she live?" --context "Ada lives in London."',
    "rewrite": ' "A text."',
    "embed": ' "How do I reset my password?"',
    "rerank": ' "the question" --pair "a text that may answer it"',
}
_CALLS = {
    "chat": 'print(model.chat([quire.Message("user", "Hello")]).text)',
    "classify": 'print(model.classify(["A text to be labelled."]))',
    "tag": 'print(model.tag(["Angela Merkel was born in Hamburg."]))',
    "answer": 'print(model.answer([("Where does she live?", "Ada lives in London.")]))',
    "rewrite": 'print(model.{verb}(["A text."]))',
    "embed": 'print(model.embed(["How do I reset my password?"]).shape)',
    "rerank": 'print(model.rerank("the question", ["a text", "another text"]))',
}
_ALONE, _PAIRED = '"A text to be labelled."', '{"text": "A text to be labelled.", "text_pair": "The text beside it."}'
KEYS = (
    "task.name", "task.labels", "task.loss", "task.class_weights", "data.long", "data.longest", "data.pack", "adapt.method", "adapt.rank",
    "adapt.alpha", "adapt.targets", "optim.name", "optim.lr", "optim.schedule", "optim.warmup", "optim.weight_decay", "train.batch",
    "train.steps", "train.dtype", "train.keep", "seed",
)  # fmt: skip
_MOST_LABELS = 40


def begin(run: Run) -> str:
    """The YAML that hubs read, the title, and what it is in two sentences."""
    tags = [tag for tag in ("quire", str(run.config.get("model_type") or ""), task(run)) if tag]
    return _front(run, "transformers", tags) + "\n" + _title(run, f"A {_family(run)}")


def _front(run: Run, library: str, tags: list[str]) -> str:
    """Values go through JSON, which YAML contains, so no name can break out of it."""
    hub = {"translate": "translation", "summarize": "summarization"}.get(verb(run), _HUB[task(run)][0])
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {hub}", f"tags: {json.dumps(tags)}"]
    start = part_of(run, "model", "start")
    if start:
        lines.append(f"base_model: {json.dumps(clean(start))}")
    found = headline(run)
    if found:
        lines.append(f"metrics: {json.dumps([clean(found[1])])}")
    return "\n".join([*lines, "# license: choose one; see the last section", "---", ""])


def _family(run: Run) -> str:
    size = parameters(run)
    return f"{plain(run.config.get('model_type') or 'model')}" + (f" of {compact(size)} parameters" if size else "")


def _title(run: Run, what: str) -> str:
    start = part_of(run, "model", "start")
    how = f"tuned from {code(Path(str(start)).name)}" if start else "trained from nothing"
    rows = number(run.data.get("train"))
    way = f" ({plain(method(run))})" if start else ""
    learned = f"{how} {TASKS[task(run)][0]}" + (f", on {many(int(rows), 'row')}" if rows else "") + f"{way}, with Quire."
    found = headline(run)
    result = ""
    if found:
        split, name, value, interval = found
        result = f" On {many(split.rows, split.called + ' row')} it has **{say(name, value)} {plain(called(name, task(run)))}**"
        result += f" ({100 * interval.level:.0f} % interval: {between(name, interval)})." if interval else "."
    state = "" if run.state in ("finished", "unknown") else f"\n\n> This run is {plain(run.state)}; the figures are of the state it was in."
    return f"# {plain(run.name)}\n\n{what}, {learned}{result}{state}\n"


def data(run: Run) -> str:
    """Files, rows, split and hash, what was left out, and what the checks said."""
    named = sources(run)
    rows = []
    for key, name, said in (("train", "train", "to learn from"), ("held_out", "held out", "held out"), ("test", "test", "to test on")):
        count = number(run.data.get(key))
        if count:
            files = ", ".join(code(file) for file in named.get(name, [])) or "the files to learn from, by the hash of what a row reads"
            rows.append((said, files, grouped(count)))
    body = table(("rows", "from", "count"), rows) if rows else ""
    lines = [f"- {plain(line)}" for line in left_out(run)]
    corpus = _lineage(run).get("corpus")
    if corpus:
        lines.append(f"- hash of the examples: {code(corpus)}")
    found = checks(run)
    told = [row for row in found if row.get("outcome") != "ok"]
    if found:
        lines.append(
            f"- {many(len(found), 'check')} of the rows ran before the first step: "
            + ("none found anything" if not told else f"{len(told)} did:")
        )
        lines += [f"  - {code(row['check'])} ({plain(row.get('outcome', ''))}): {plain(row.get('says', ''))}" for row in told]
    return "## What it learned from\n\n" + "\n\n".join(part for part in (body, "\n".join(lines)) if part) + "\n" if body or lines else ""


def _lineage(run: Run) -> Row:
    recorded = run.binding.get("recorded")
    lineage = recorded.get("lineage") if isinstance(recorded, dict) else None
    return lineage if isinstance(lineage, dict) else {}


def evaluation(run: Run) -> str:
    found = splits(run)
    if not found:
        return "## Evaluation\n\nNone yet: the run has written no evaluation.\n"
    first = metric(run)
    names = list(
        dict.fromkeys([*(first for split in found if first in split.figures), *(name for split in found for name in split.figures)])
    )
    rows = []
    for name in names:
        said = plain(called(name, task(run)))
        cells = [_ranged(split.intervals.get(name), name, split.figures.get(name)) for split in found]
        rows.append((f"**{said}**" if name == first else said, *cells))
    body = table(("", *(f"{split.called}, {many(split.rows, 'row')}" for split in found)), rows)
    said_ = ["In brackets: the 95 % interval, by drawing the rows again (bootstrap)."] if any(split.intervals for split in found) else []
    guess, before = commonest(found[0]), base(run, first)
    if guess:
        said_.append(f"Always saying {code(guess[0])} would get {say('accuracy', guess[1])}.")
    if before is not None:
        said_.append(f"Before its first step it had {say(first, before)} on the held-out rows.")
    if len(found) > 1 and part_of(run, "train", "keep") == "best":
        said_.append("The held-out rows decided which weights were kept; quote the test rows.")
    return f"## Evaluation\n\n{body}\n\n{' '.join(said_)}\n"


def _ranged(interval: Interval | None, name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return say(name, value) + (f" [{between(name, interval)}]" if interval else "")


def labels(run: Run) -> list[str]:
    """The names of the labels, in order."""
    found = run.config.get("id2label")
    return [str(name) for name in found.values()] if isinstance(found, dict) else []


def limits(run: Run) -> str:
    name, known, lines = task(run), labels(run), []
    if name in ("classify", "tag") and known and part_of(run, "task", "labels") != "number":
        shown = ", ".join(code(label) for label in known[:_MOST_LABELS])
        lines.append(f"It knows {len(known)} labels and no others: {shown}" + (" and more." if len(known) > _MOST_LABELS else "."))
        lines.append("It gives one of them to every text, also to one that fits none." if name == "classify" else "")
    if name in ("chat", "rewrite"):
        lines.append("What it writes may be wrong, and it can repeat passages of its rows word for word.")
    if name == "answer":
        lines.append("It marks a passage of the text that it is given; it does not know whether the text is right.")
    cut = run.data.get("cut")
    longest = number(part_of(run, "data", "longest")) or number(run.plan.get("context"))
    if longest:
        lines.append(f"It learned from texts of at most {grouped(longest)} tokens.")
    if isinstance(cut, dict) and number(cut.get("examples")):
        way = cut.get("long") or part_of(run, "data", "long") or "cut"
        lines.append(f"{grouped(number(cut['examples']) or 0)} of its training examples were cut ({code(way)}).")
    split = judged(run)
    measured = (
        f"It was measured on {many(split.rows, SPLITS[split.name] + ' row')} of the same kind as it learned from"
        if split
        else "It was not measured"
    )
    lines.append(f"{measured}: not for bias, safety, other sources or other languages.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line) + "\n"


def command(run: Run, path: str) -> str:
    """The line for a terminal that uses the model at `path`."""
    return f"quire {verb(run)} {path}{_WORDS[task(run)]}" + (' --pair "The text beside it."' if _pairs(run) else "")


def _pairs(run: Run) -> bool:
    """Whether the rows of a run that learned labels were pairs of texts."""
    return task(run) == "classify" and run.data.get("pairs") is True


def _call(run: Run) -> str:
    """The line of Python that uses the model."""
    if _pairs(run):
        return 'print(model.classify([("A text to be labelled.", "The text beside it.")]))'
    return _CALLS[task(run)].format(verb=verb(run))


def use(run: Run) -> str:
    name, auto = task(run), _HUB[task(run)][1]
    pipe = "translation" if verb(run) == "translate" else "summarization" if verb(run) == "summarize" else _HUB[name][0]
    pipeline = f'from transformers import pipeline\n\nprint(pipeline("{pipe}", model="path/to/this/folder")'
    with_them = {
        "classify": f"{pipeline}({_PAIRED if _pairs(run) else _ALONE}))",
        "tag": f'{pipeline}("Angela Merkel was born in Hamburg."))',
    }.get(
        name,
        f'from transformers import {auto}, AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
        f'model = {auto}.from_pretrained("path/to/this/folder")',
    )
    return (
        f"## How to use it\n\n```sh\n{command(run, 'path/to/this/folder')}\n```\n\nFrom Python:\n\n"
        f'```python\nimport quire\n\nmodel = quire.load("path/to/this/folder")\n{_call(run)}\n```\n\n'
        f"With `transformers`:\n\n```python\n{with_them}\n```\n"
    )


# -- the adapter's own ---------------------------------------------------------------------------------------------------------------


def adapter(run: Run) -> str:
    """The card of `adapter/`: the same figures, its base and that base's binding, and how it is put on it."""
    peft = part_of(run, "adapt", "method")
    parts = (
        _front(run, "peft", [tag for tag in ("quire", str(peft or ""), task(run)) if tag]),
        _title(run, f"An adapter for a {_family(run)}"),
        _base(run),
        data(run),
        evaluation(run),
        limits(run),
        _put_on(run),
    )
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def _base(run: Run) -> str:
    rows = []
    start = part_of(run, "model", "start")
    if start:
        rows.append(("base", code(start)))
    if _lineage(run).get("base"):
        rows.append(("binding of the base", code(_lineage(run)["base"])))
    found = trained(run)
    if found:
        rows.append(("trained numbers", f"{grouped(found[0])} of {grouped(found[1])} ({100 * found[0] / found[1]:.4g} %)"))
    rows.append(("method", plain(method(run))))
    said = "It belongs to this base and no other: Quire compares the binding and refuses another one."
    return f"## Its base\n\n{table(('', ''), rows)}\n\n{said}\n"


def _put_on(run: Run) -> str:
    auto = _HUB[task(run)][1]
    count = len(labels(run))
    soft = part_of(run, "adapt", "method") in ("prompt", "prefix", "p-tuning")
    merged = "" if soft else "\nThe run's `model/` folder is the base with this adapter merged into it.\n"
    more = f", num_labels={count}" if task(run) in ("classify", "tag", "rerank") and count else ""
    return f"""## How to use it

With Quire, on its base:

```python
import quire

model = quire.load("path/to/the/base", adapter="path/to/this/folder")
{_call(run)}
```

With `peft`:

```python
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/the/base")
base = {auto}.from_pretrained("path/to/the/base"{more})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```
{merged}"""
