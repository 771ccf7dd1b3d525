"""The forms that rows have in files: for each schema the columns it needs, their usual names, and how a row is made of them.

A form is found by the names of a record's columns alone (`columns.settle`). Making a row checks every value; what is wrong is raised as
`Wrong`, without the row's place, which the caller knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..tasks.tuning.schemas import Chat, Labelled, Prompt, Question, Ranked, Rewrite, Row, Similar, Tagged
from ..types import Message
from . import turns
from .problems import shown
from .values import Cells, Wrong, label, listed, number, text

LABELS = ("label", "labels", "category", "class", "sentiment", "stars", "score")
TEXTS = ("text", "sentence", "review")
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"), ("text", "pair"))
_TAG = re.compile(r"([A-Za-z])-(.*)", re.DOTALL)


@dataclass(frozen=True)
class Reading:
    """How values become labels. number: the label is a number (None: where its column is called score); names: what numbers stand for."""

    number: bool | None = None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """needs, may: {our name: the names it usually has in files}; never: columns whose presence means something else, unless told."""

    schema: str
    name: str
    needs: Mapping[str, tuple[str, ...]]
    make: Callable[[Cells, Reading, str], Row]
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    never: tuple[str, ...] = ()


def _messages(row: Cells, reading: Reading, where: str) -> Row:
    said = turns.messages(row.value("messages"), row.places["messages"])
    return Chat(said, turns.tools(row.value("tools"), row.places.get("tools", "tools"), said), where=where)


def _sharegpt(row: Cells, reading: Reading, where: str) -> Row:
    said = turns.sharegpt(row.value("conversations"), row.places["conversations"], _system(row))
    return Chat(said, turns.tools(row.value("tools"), row.places.get("tools", "tools"), said), where=where)


def _system(row: Cells) -> str | None:
    """An empty system text is none: files of tables have no other way to say so."""
    return text(row.value("system"), row.places["system"], empty=True).strip() and row.value("system") if row.has("system") else None


def _instruction(row: Cells, reading: Reading, where: str) -> Row:
    asked = row.text("instruction")
    if row.has("input"):
        more = text(row.value("input"), row.places["input"], empty=True)
        asked = f"{asked}\n\n{more}" if more.strip() else asked
    system = _system(row)
    first = (Message("system", system),) if system else ()
    return Chat((*first, Message("user", asked), Message("assistant", row.text("response"))), where=where)


def _prompt(row: Cells, reading: Reading, where: str) -> Row:
    return Prompt(row.text("prompt"), row.text("completion"), where=where)


def _labelled(row: Cells, reading: Reading, where: str) -> Row:
    said, name, value = row.text("text"), row.places["label"], row.value("label")
    pair = row.text("pair") if "pair" in row.places else None
    if reading.number or (reading.number is None and name == "score"):
        return Labelled(said, (), pair, number(value, name), where=where)
    if value is None:
        raise Wrong(f"'{name}' is missing (None). Take the row out, or give it its label.")
    if not isinstance(value, list | tuple):
        return Labelled(said, (label(value, name, reading.names),), pair, where=where)
    several = tuple(label(one, name, reading.names) for one in value)
    if len(set(several)) != len(several):
        raise Wrong(f"'{name}' is {shown(value)}, with a label twice.")
    return Labelled(said, several, pair, where=where)


def _tagged(row: Cells, reading: Reading, where: str) -> Row:
    names = row.places
    words = tuple(text(word, names["words"]) for word in listed(row.value("words"), names["words"], "words"))
    tags = listed(row.value("tags"), names["tags"], "tags")
    if len(tags) != len(words):
        raise Wrong(f"'{names['tags']}' has {len(tags)} tags for {len(words)} words; each word has one.")
    if not words:
        raise Wrong(f"'{names['words']}' is an empty list. Take the row out.")
    return Tagged(words, tuple(_tag(tag, names["tags"], reading) for tag in tags), where=where)


def _tag(tag: Any, name: str, reading: Reading) -> str:
    if isinstance(tag, int) and not isinstance(tag, bool) and not reading.names:
        raise Wrong(f"'{name}' holds the number {tag}; which tag is it? Give the tags' names, in order from 0, in data.label_names.")
    said = label(tag, name, reading.names)
    found = _TAG.fullmatch(said)
    if found and (found[1] not in "BI" or not found[2].strip()):
        raise Wrong(
            f"'{name}' holds the tag {shown(said)}; allowed: B-NAME (begins), I-NAME (goes on), O, or plain tags without a hyphen there."
        )
    return said


def _question(row: Cells, reading: Reading, where: str) -> Row:
    asked, context, name = row.text("question"), row.text("context"), row.places["answers"]
    spans = _spans(row.value("answers"), context, name)
    impossible = row.value("is_impossible")
    if impossible is not None and bool(impossible) == bool(spans):
        raise Wrong(
            f"'{row.places['is_impossible']}' is {impossible!r}, and there are {len(spans)} answers in '{name}'. One of the two is wrong."
        )
    identity = row.value("id")
    return Question(asked, context, spans, "" if identity is None else str(identity), where=where)


def _spans(value: Any, context: str, name: str) -> tuple[tuple[str, int], ...]:
    """Answers of both forms: [{text, answer_start}] and {text: [...], answer_start: [...]}, each seen in the context where it says."""
    if isinstance(value, Mapping) and {"text", "answer_start"} <= value.keys():
        texts, starts = listed(value["text"], f"{name}.text", "texts"), listed(value["answer_start"], f"{name}.answer_start", "numbers")
        if len(texts) != len(starts):
            raise Wrong(f"'{name}' has {len(texts)} texts and {len(starts)} starts; each text has one.")
        pairs = list(zip(texts, starts, strict=True))
    else:
        pairs = []
        for one in listed(value, name, "answers {text, answer_start}"):
            if not isinstance(one, Mapping) or not {"text", "answer_start"} <= one.keys():
                raise Wrong(f"'{name}' holds {shown(one)}; an answer is {{text, answer_start}}.")
            pairs.append((one["text"], one["answer_start"]))
    for answer, start in pairs:
        text(answer, f"{name}.text")
        if not isinstance(start, int) or isinstance(start, bool):
            raise Wrong(f"'{name}.answer_start' is {shown(start)}; the number of the answer's first character, from 0, is needed.")
        if start < 0 or context[start : start + len(answer)] != answer:
            raise Wrong(f"the answer {shown(answer)} is not at character {start} of the context{_instead(answer, start, context)}")
    return tuple(pairs)


def _instead(answer: str, start: int, context: str) -> str:
    there = f" (there stands {shown(context[start : start + len(answer)])})" if 0 <= start < len(context) else f", which has {len(context)}"
    before, after = context.rfind(answer, 0, max(start, 0) + len(answer)), context.find(answer, max(start, 0))
    near = [at for at in (before, after) if at >= 0]
    if not near:
        return f"{there}, nor anywhere else in it. Take the answer out, or mend its spelling."
    return f"{there}; it begins at {min(near, key=lambda at: abs(at - start))}. Starts count characters, not bytes, from 0."


def _rewrite(row: Cells, reading: Reading, where: str) -> Row:
    """Sentences in a list are one source (an empty one says nothing); of several targets the first is learned, and all are references."""
    source, target = row.value("source"), row.value("target")
    name = row.places["target"]
    if isinstance(source, list | tuple):
        source = " ".join(part for part in (text(part, row.places["source"], empty=True) for part in source) if part.strip())
    targets = list(target) if isinstance(target, list | tuple) else [target]
    others = [one for one in targets[1:] if one is not None and str(one).strip()]  # some raters wrote nothing
    first, *others = dict.fromkeys(text(one, name) for one in [*(targets[:1] or [""]), *others])
    return Rewrite(text(source, row.places["source"]), first, tuple(others), where=where)


def _similar(row: Cells, reading: Reading, where: str) -> Row:
    return Similar(row.text("first"), row.text("second"), row.number("score") if "score" in row.places else None, where=where)


def _ranked(row: Cells, reading: Reading, where: str) -> Row:
    name, value = row.places["negatives"], row.value("negatives")
    negatives = tuple(text(one, name) for one in ([value] if isinstance(value, str) else listed(value, name, "texts")))
    scores: tuple[float, ...] = ()
    if row.has("scores"):
        scores = tuple(number(one, row.places["scores"]) for one in listed(row.value("scores"), row.places["scores"], "numbers"))
        if len(scores) != 1 + len(negatives):
            raise Wrong(
                f"'{row.places['scores']}' has {len(scores)} numbers; 1 for the positive and {len(negatives)} for the negatives are needed."
            )
    return Ranked(row.text("anchor"), row.text("positive"), negatives, scores, where=where)


_SYSTEM = ("system", "system_prompt")
_NEGATIVES = ("negatives", "negative")
FORMS = (
    Form("chat", "messages", {"messages": ("messages",)}, _messages, {"tools": ("tools",)}, ("conversations",)),
    Form("chat", "ShareGPT", {"conversations": ("conversations",)}, _sharegpt, {"system": _SYSTEM, "tools": ("tools",)}, ("messages",)),
    Form(
        "chat",
        "instructions",
        {"instruction": ("instruction", "question"), "response": ("output", "response", "answer")},
        _instruction,
        {"input": ("input", "context"), "system": _SYSTEM},
        ("choices", "options", "messages", "conversations", "answers"),
    ),
    Form("prompt", "prompt and completion", {"prompt": ("prompt",), "completion": ("completion",)}, _prompt),
    Form(
        "labelled",
        "labelled texts",
        {"text": TEXTS, "label": LABELS},
        _labelled,
        never=("pair", "sentence1", "sentence2", "premise", "hypothesis", "question", "question1", "question2", "tokens", "negative"),
    ),
    *(
        Form("labelled", "labelled pairs", {"text": (first,), "pair": (second,), "label": LABELS}, _labelled, never=("context",))
        for first, second in PAIRS
    ),
    Form("tagged", "tagged words", {"words": ("tokens", "words"), "tags": ("tags", "ner_tags")}, _tagged),
    Form(
        "question",
        "questions about a context",
        {"question": ("question",), "context": ("context",), "answers": ("answers",)},
        _question,
        {"id": ("id",), "is_impossible": ("is_impossible",)},
    ),
    Form("rewrite", "source and target", {"source": ("source",), "target": ("target",)}, _rewrite),
    Form("rewrite", "text and summary", {"source": ("document", "article", "text"), "target": ("summary",)}, _rewrite),
    Form(
        "similar",
        "anchor and positive",
        {"first": ("anchor", "query", "first"), "second": ("positive", "second")},
        _similar,
        never=(*_NEGATIVES, "scores", "score"),
    ),
    Form(
        "similar",
        "pairs with a score",
        {"first": ("sentence1", "anchor", "first"), "second": ("sentence2", "positive", "second"), "score": ("score",)},
        _similar,
        never=_NEGATIVES,
    ),
    Form(
        "ranked",
        "anchor, positive and negatives",
        {"anchor": ("anchor", "query"), "positive": ("positive",), "negatives": _NEGATIVES},
        _ranked,
        {"scores": ("scores",)},
    ),
)
