"""What is wrong with rows as a model reads them: tokens, and which of them are learned.

The same examples that are trained on are looked at, so nothing is rendered a second time. What a label stands beside differs: of a
text that is written, the label at a place is the next token (`lm`); of tags it is the place's own; of a class or a span there is none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..nn.batch import IGNORE, Batch, of_tokens
from ..tasks.task import Array
from ..tasks.tuning.example import Example, SupervisedTask
from ..tasks.tuning.schemas import Chat, Prompt, Row
from ..text.template import Template
from ..text.tokenizer import Tokenizer
from .ledger import Finding, Ledger, first, share
from .problems import shown

_UNTRAINED = 0.01  # of the rows may teach nothing
_UNKNOWN = 0.1  # of all tokens may be the unknown one; told from a hundredth of that
_WORD = re.compile(r"\w+")
_PADDED = 8  # rows of which one batch is made, to see what stands beside its padding
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Reader:
    """What reads the rows: the parts of a contract that decide about tokens. before: ids that stand before every text."""

    tokenizer: Tokenizer
    template: Template | None
    before: tuple[int, ...]
    stops: frozenset[int]

    @classmethod
    def of(cls, contract: Any) -> Reader:
        stops = {*(contract.stop_ids or ()), *contract.turn_end}
        return cls(contract.tokenizer, contract.template, tuple(contract.before), frozenset(stops))


def look(
    ledger: Ledger, reader: Reader, rows: Sequence[Row], examples: Sequence[Example], task: SupervisedTask, most_cut: float, reads: int
) -> None:
    """Runs every check of the rows as they are read. reads: tokens of a row that the model could read."""
    by_place = {row.where: row for row in rows}
    pairs = [(by_place[example.where], example) for example in examples if example.where in by_place]
    ledger.look("spelled-tokens", spelled_tokens, reader, rows)
    ledger.look("bos-twice", bos_twice, reader, pairs)
    ledger.look("turns-dropped", turns_dropped, reader, pairs)
    ledger.look("unknown-tokens", unknown_tokens, reader, examples)
    ledger.look("nothing-trained", nothing_trained, examples, reads)
    ledger.look("end-never-trained", end_never_trained, reader, pairs)
    ledger.look("padding-trained", padding_trained, task, examples)
    ledger.look("answers-cut", answers_cut, examples, most_cut, reads)


# -- which tokens are learned ------------------------------------------------------------------------------------------------------


def learned(example: Example) -> tuple[Mask, Mask]:
    """(of ids, of target): is the model taught to write, or to name, this token?"""
    mask = np.zeros(len(example.ids), dtype=bool)
    target = np.zeros(0 if example.target is None else len(example.target), dtype=bool)
    for name, label in example.labels.items():
        if example.target is not None and label.shape == example.target.shape:
            target |= label != IGNORE
        elif label.shape != example.ids.shape or not np.issubdtype(label.dtype, np.integer):
            continue
        elif name == "lm":
            mask[1:] |= label[:-1] != IGNORE
        else:
            mask |= label != IGNORE
    return mask, target


def teaches_tokens(example: Example) -> bool:
    """Has it a label for each token, so that all of them could be masked?"""
    places = {example.ids.shape} | ({example.target.shape} if example.target is not None else set())
    return any(label.shape in places and np.issubdtype(label.dtype, np.integer) for label in example.labels.values())


def _stretches(mask: Mask) -> Iterator[tuple[int, int]]:
    """[start, end) of each run of learned tokens."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False].astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def nothing_trained(examples: Sequence[Example], reads: int) -> Finding | None:
    empty = [one for one in examples if teaches_tokens(one) and not any(mask.any() for mask in learned(one))]
    if not empty:
        return None
    says = f"{share(len(empty), len(examples))} have no token that is learned: every label is masked."
    cut = [one for one in empty if one.cut]
    longest = max((len(one) + one.cut for one in cut), default=0)
    fix = "Look at the template's generation marks."
    if cut:
        fix = f"{len(cut):,} of them lost their answer when they were cut. {_held(longest, reads)}"
    return Finding(len(empty) > _UNTRAINED * len(examples), says, first(_place(one) for one in empty), fix, len(empty))


def end_never_trained(reader: Reader, pairs: Sequence[tuple[Row, Example]]) -> Finding | None:
    """Of rows that teach to write: is the last token of each answer one that stops the model? Cut answers are counted by `answers-cut`."""
    wrong: list[str] = []
    count = rows = 0
    for row, example in pairs:
        if example.cut or not isinstance(row, Chat | Prompt) or "lm" not in example.labels:
            continue
        rows += 1
        ids, mask = (example.ids, learned(example)[0]) if example.target is None else (example.target, learned(example)[1])
        bad = [(start, end) for start, end in _stretches(mask) if not reader.stops.intersection(ids[start:end].tolist())]
        if bad:
            count += 1
            start, end = bad[0]
            wrong.append(
                f"{row.where}: an answer ends with {shown(reader.tokenizer.decode(ids[start:end].tolist()[-6:], special=True), 60)}"
            )
    if not count:
        return None
    known = ", ".join(repr(reader.tokenizer.token(token)) for token in sorted(reader.stops)) or "none"
    fix = f"Tokens that stop this model: {known}. The template must write one behind each answer, inside what the answer is."
    return Finding(
        True, f"{share(count, rows)} have an answer whose end is never learned: it would go on and on.", first(wrong), fix, count
    )


def padding_trained(task: SupervisedTask, examples: Sequence[Example]) -> Finding | None:
    """One batch of the shortest and the longest rows: does a label stand beside its padding?"""
    order = sorted(examples, key=len)
    batch = task.batch([*order[: _PADDED // 2], *order[-_PADDED // 2 :]] if len(order) > _PADDED else order)
    count = padding_labels(batch)
    if not count:
        return None
    says = f"{count:,} padded places of one batch have a label: the loss would be about predicting padding."
    return Finding(
        True, says, fix=f"This is the doing of task '{task.name}', not of the rows: it must give padding the label {IGNORE}.", count=count
    )


def padding_labels(batch: Batch) -> int:
    """How many places of a batch that are not kept have a label."""
    if batch.keep is None:
        return 0
    return sum(int(((label != IGNORE) & ~batch.keep).sum()) for label in batch.labels.values() if of_tokens(label, batch.tokens))


def answers_cut(examples: Sequence[Example], most: float, reads: int) -> Finding | None:
    cut = sorted((one for one in examples if one.cut), key=lambda one: -(len(one) + one.cut))
    if not cut:
        return None
    longest = len(cut[0]) + cut[0].cut
    rows = first(f"{one.where}: {len(one) + one.cut:,} tokens, {one.cut:,} of them left out" for one in cut)
    says = f"{share(len(cut), len(examples))} are longer than what is read and lose tokens; data.most_cut allows {most:.0%}."
    key = "To train on them as they are, raise data.most_cut."
    return Finding(len(cut) > most * len(examples), says, rows, _held(longest, reads), len(cut), key)


def _held(longest: int, reads: int) -> str:
    """What to do about cut rows, the longest of which has so many tokens."""
    if longest <= reads:
        return f"With data.longest = {longest} all would be read whole; else shorten or divide them."
    return f"This model reads at most {reads} tokens of a row (data.longest = {reads}): shorten or divide the longer ones."


# -- text against tokens -----------------------------------------------------------------------------------------------------------


def spelled_tokens(reader: Reader, rows: Sequence[Row]) -> Finding | None:
    """Told: what a text spells stays text, whatever it looks like."""
    spellings = sorted((name for name in reader.tokenizer.special_tokens if len(name) > 1), key=len, reverse=True)
    if not spellings:
        return None
    pattern = re.compile("|".join(map(re.escape, spellings)))
    found = [(row, hit.group()) for row in rows if (hit := next((hit for text in _texts(row) if (hit := pattern.search(text))), None))]
    if not found:
        return None
    lines = first(f"{row.where}: {spelling}" for row, spelling in found)
    says = f"{share(len(found), len(rows))} spell a special token. It is read as the text that it is, never as the token."
    return Finding(False, says, lines, count=len(found))


def bos_twice(reader: Reader, pairs: Sequence[tuple[Row, Example]]) -> Finding | None:
    """Two begin tokens, or a text that spells one at its start: it was rendered before, and is rendered again."""
    begin = reader.tokenizer.bos
    if begin is None:
        return None
    spelling = reader.tokenizer.token(begin)
    found = [
        row
        for row, example in pairs
        if (len(example.ids) > 1 and example.ids[0] == example.ids[1] == begin) or row_begins(row).startswith(spelling)
    ]
    if not found:
        return None
    says = f"{share(len(found), len(pairs))} begin with {spelling!r}: they were rendered before, and are rendered again."
    rows = first(f"{row.where}: {shown(row_begins(row), 60)}" for row in found)
    return Finding(True, says, rows, "Take the special tokens out, or give the turns themselves.", len(found))


def row_begins(row: Row) -> str:
    return _texts(row)[0].lstrip()


def turns_dropped(reader: Reader, pairs: Sequence[tuple[Row, Example]]) -> Finding | None:
    """Does what is read hold the words of every message, of the calls and the names of the tools?"""
    lost: list[str] = []
    chats = 0
    for row, example in pairs:
        if not isinstance(row, Chat) or example.cut or (reader.tokenizer.unk is not None and reader.tokenizer.unk in example.ids):
            continue
        chats += 1
        ids = example.ids if example.target is None else np.concatenate([example.ids, example.target])
        text = _words(reader.tokenizer.decode(ids.tolist(), special=True))
        gone = next((what for what, words in _said(row) if _words(words) not in text), None)
        if gone:
            lost.append(f"{row.where}: {gone}")
    if not lost:
        return None
    origin = reader.template.origin if reader.template is not None else "the template"
    says = f"{share(len(lost), chats)} lose a message, a call or a tool: {origin} does not write it."
    fix = "Use a template that writes every role and tool that the rows have, or take out of the rows what the model is not to read."
    return Finding(True, says, first(lost), fix, len(lost))


def _said(row: Chat) -> Iterator[tuple[str, str]]:
    """(what, its text) of everything that must be read; what follows the last answer teaches nothing and need not."""
    last = max(number for number, turn in enumerate(row.messages) if turn.role == "assistant")
    for number, turn in enumerate(row.messages[: last + 1]):
        yield f"message {number} ({turn.role}): {shown(turn.content, 60)}", turn.content
        for call in turn.tool_calls or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {}
            yield f"message {number} ({turn.role}): the call of {function.get('name')!r}", str(function.get("name", ""))
    for tool in row.tools:
        name = str(tool.get("function", tool).get("name", ""))
        yield f"the tool {name!r}", name


def _words(text: str) -> str:
    """Letters and digits alone, so that spaces, signs, case and normal forms, which tokenizers change, do not count."""
    return "".join(_WORD.findall(unicodedata.normalize("NFKD", text).casefold()))


def unknown_tokens(reader: Reader, examples: Sequence[Example]) -> Finding | None:
    unknown = reader.tokenizer.unk
    if unknown is None:
        return None
    counts = [int((example.ids == unknown).sum()) for example in examples]
    total, of = sum(counts), sum(len(example.ids) for example in examples)
    if total * 100 < _UNKNOWN * of:
        return None
    worst = sorted(zip(counts, examples, strict=True), key=lambda pair: -pair[0] / len(pair[1].ids))
    rows = first(f"{one.where}: {count:,} of {len(one.ids):,} tokens" for count, one in worst if count)
    says = f"{total:,} of {of:,} tokens ({total / of:.1%}) are the unknown token: this tokenizer cannot write the text."
    fix = "Start from a model whose tokenizer knows the rows' script and signs."
    return Finding(total > _UNKNOWN * of, says, rows, fix, sum(map(bool, counts)))


def template_differs(trained: Mapping[str, Any], start: Mapping[str, Any]) -> Finding | None:
    """Two contracts part by part. What is trained with is saved with the model and served; the start model's own may be another."""
    unlike = [part for part in start if trained.get(part) != start[part]]
    if not unlike or start.get("template") is None:
        return None
    says = f"rows are read otherwise than the start model was taught: {', '.join(unlike)} differ."
    return Finding(
        "template" in unlike or "tokenizer" in unlike, says, fix="Train with the start model's own, or start from another model."
    )


def _texts(row: Row) -> Sequence[str]:
    return [turn.content for turn in row.messages] if isinstance(row, Chat) else (*row.reads(), *row.answers())


def _place(example: Example) -> str:
    return f"{example.where}: {len(example):,} tokens" + (f", {example.cut:,} more were cut" if example.cut else "")


# -- for a person ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One token as it is read: its text, whether it is learned, whether it is special, and what it is labelled with ('' for none)."""

    text: str
    learned: bool
    special: bool
    label: str = ""

    def json(self) -> dict[str, Any]:
        return {"text": self.text, "learned": self.learned, "special": self.special, "label": self.label}


def pieces(reader: Reader, example: Example, names: Sequence[str] = ()) -> list[list[Piece]]:
    """The tokens of an example: what is read, and in an encoder-decoder what is written. names: of labels that stand beside tokens."""
    own, target = learned(example)
    tags = next((label for name, label in example.labels.items() if name == "tag" and label.shape == example.ids.shape), None)
    labels = ["" if tags is None or tag == IGNORE or tag >= len(names) else names[tag] for tag in (tags if tags is not None else own * 0)]
    found = [_pieces(reader.tokenizer, example.ids, own, labels)]
    if example.target is not None:
        found.append(_pieces(reader.tokenizer.target, example.target, target, [""] * len(target)))
    return found


def _pieces(tokenizer: Tokenizer, ids: Array, mask: Mask, labels: Sequence[str]) -> list[Piece]:
    stream = tokenizer.stream(special=True)
    texts = [stream.push(int(id)) for id in ids]
    if texts and not any(texts):  # a decoder that needs the whole text: each token is spelled as the vocabulary has it
        texts = [tokenizer.token(int(id)) for id in ids]
    return [
        Piece(text, bool(taught), tokenizer.is_special(int(id)), label)
        for text, id, taught, label in zip(texts, ids, mask, labels, strict=True)
    ]
