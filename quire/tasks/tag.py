"""Labels of tokens as stretches of text (names, parts of speech), joined as transformers' token-classification pipeline does.

    none     each token with its likeliest label
    simple   neighbours with the same label are one stretch; B- begins a new one, I- goes on
    first, average, max   the tokens of a word agree first: on the first token's label, the mean of all scores, the surest token's
    words    the text is divided into words first, as corpora of tagged words are, and read as they are taught (`spelled`); each word has
             the label of its first token, so that a stretch never begins or ends inside one. Models that are tuned here on words say so
             in their config.json, and then it is what is usual; elsewhere `simple` is.

Which tokens go on with a word: those whose spelling is longer than their text (WordPiece's ##), or, where the vocabulary has no such mark,
those without a space at their beginning. Offsets count characters of the text as it was given. A text that is too long is refused, or read
in windows that overlap by `stride` tokens: of stretches that overlap the longer one is kept, then the surer one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ..binding.contract import Contract
from ..errors import ContextError, ModelError, RecipeError
from ..nn.transformer import Transformer
from ..text.tokenizer import Tokenizer
from ..types import Entity
from .classify import scores
from .lengths import by_length
from .reading import Row, budget, labelled, parameters_of, pieces, several
from .spelled import divided, spell

_WINDOWS = "give a stride (32, say): it is then read in windows that overlap by so many tokens"
_NO_WINDOWS = "use aggregation 'simple', which can read it in windows: single tokens (aggregation 'none') are not read so"
AGGREGATIONS = ("none", "simple", "first", "average", "max", "words")
PARAMETERS = "token-classification"  # the table of task_specific_params in config.json that is about this task
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """A token or word on its way to an entity: scores (labels,), the characters [start, end), and whether it goes on with a word."""

    scores: Floats
    start: int
    end: int
    inside: bool = False


def aggregation_of(config: Mapping[str, Any]) -> str:
    """How the tokens of this model become stretches, as its config.json says; 'simple' where it says nothing.

    Raises ModelError for a way that there is not.
    """
    found = parameters_of(config, PARAMETERS).get("aggregation", "simple")
    if found not in AGGREGATIONS:
        said = f"task_specific_params of config.json has aggregation = {str(found)[:80]!r} for {PARAMETERS}"
        raise ModelError(f"{said}; allowed: {', '.join(AGGREGATIONS)}. Mend it there, or say which one you want.")
    return str(found)


def windows(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """[start, end) of windows of `room` tokens over `count`, each `stride` tokens back into the one before; one window for an empty text.

    Raises ContextError when a window would not move on.
    """
    if count > room and not 0 <= stride < room:
        raise ContextError(f"windows of {room} tokens cannot overlap by {stride}: give 0 or more, less than {max(room, 1)}.")
    found = [(0, min(room, count))]
    while found[-1][1] < count:
        start = found[-1][0] + room - stride
        found.append((start, min(start + room, count)))
    return found


def window(contract: Contract, context: int, stride: int | None, aggregation: str) -> tuple[int, int | None]:
    """(tokens of a text that one window holds, by how many windows overlap); None: a text that is too long is refused.

    stride: None is that of the training. Single tokens (aggregation "none") are not read in windows: RecipeError for a stride.
    """
    if stride is not None and aggregation == "none":
        raise RecipeError("a stride joins entities of overlapping windows, which single tokens (aggregation 'none') are not. Use 'simple'.")
    room, told = contract.limit(context) - len(contract.before) - len(contract.after), contract.truncation
    if stride is None and aggregation != "none" and told is not None and told.stride is not None:
        stride = max(0, min(told.stride, room // 2))
    return room, stride


def as_read(text: str, aggregation: str) -> str:
    """The text whose tokens a model reads: with "words" its words stand apart, as they stood in training."""
    return " ".join(text[start:end] for start, end in divided(text)) if aggregation == "words" else text


def tag(
    model: Transformer,
    contract: Contract,
    texts: Sequence[str],
    labels: Mapping[int, str],
    aggregation: str = "simple",
    stride: int | None = None,
    ignore: Sequence[str] = ("O",),
    progress: Callable[[int], None] | None = None,
) -> list[list[Entity]]:
    """The entities of each text, in order; those with a label of `ignore` are left out.

    stride: None is as in training, unless that refused texts for their length. Raises ContextError for a text that is too long where
    there is no stride (before any work), RecipeError for an unknown aggregation.
    """
    if aggregation not in AGGREGATIONS:
        raise RecipeError(f"aggregation is {aggregation!r}; allowed: {', '.join(AGGREGATIONS)}.")
    several(texts)
    before, after = list(contract.before), list(contract.after)
    around = len(before) + len(after)
    room, stride = window(contract, model.config.context, stride, aggregation)
    rows: list[Row] = []
    owners: list[tuple[int, int, int]] = []  # (text, first token, last) of each row
    read = [(_by_words if aggregation == "words" else _by_tokens)(contract, text) for text in texts]
    for number, (ids, _) in enumerate(read):
        if len(ids) > room and stride is None:
            raise ContextError(
                f"text {number} has {len(ids) + around:,} tokens with those around it; {contract.most(room + around)}. Divide it, or "
                f"{_WINDOWS if aggregation != 'none' else _NO_WINDOWS}."
            )
        for start, end in windows(len(ids), room, stride or 0):
            rows.append(Row([*before, *ids[start:end], *after]))
            owners.append((number, start, end))
    logits = by_length(rows, lambda part: _rows(model, part, contract.decoder_start), budget(model), progress)
    found: list[list[Entity]] = [[] for _ in texts]
    for number, group in groupby(zip(owners, logits), key=lambda pair: pair[0][0]):
        parts = list(group)
        for (_, start, end), row in parts:
            values = scores(row[len(before) : len(before) + end - start], "softmax")
            made = read[number][1](start, end, values)
            found[number] += [entity for entity in _entities(made, texts[number], labels, aggregation) if entity.label not in ignore]
        if len(parts) > 1:
            found[number] = _without_overlap(found[number])
    return found


def _rows(model: Transformer, rows: list[Row], start: int | None) -> list[Floats]:
    """Logits (T, labels) of each row, without its padding."""
    return [logits[: len(row)] for row, logits in zip(rows, labelled(model, rows, start).numpy())]


Maker = Callable[[int, int, Floats], list[Piece]]  # of tokens [start, end) and their scores


def _by_tokens(contract: Contract, text: str) -> tuple[Sequence[int], Maker]:
    """The ids that a text is read as, and its tokens as pieces."""
    read = pieces(contract, text)

    def made(start: int, end: int, values: Floats) -> list[Piece]:
        return _pieces(contract.tokenizer, text, read.ids[start:end], read.offsets[start:end], values)

    return read.ids, made


def _by_words(contract: Contract, text: str) -> tuple[Sequence[int], Maker]:
    """The ids that the words of a text are read as, and those of its words as pieces whose first token is there."""
    places = divided(text)
    spelled = spell(contract, [text[start:end] for start, end in places])
    words = [(int(token), low, high) for token, (low, high) in zip(spelled.first, places) if token >= 0]

    def made(start: int, end: int, values: Floats) -> list[Piece]:
        return [Piece(values[token - start], low, high) for token, low, high in words if start <= token < end]

    return spelled.ids, made


def _pieces(tokenizer: Tokenizer, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], values: Floats) -> list[Piece]:
    marked = bool(tokenizer.definition.model.get("continuing_subword_prefix"))
    made = []
    for token, (start, end), row in zip(ids, offsets, values):
        if marked:
            inside = len(tokenizer.token(token)) != end - start
        else:
            inside = start > 0 and " " not in text[start - 1 : start + 1]
        made.append(Piece(row, start, end, inside and token != tokenizer.unk))
    return made


def _entities(parts: list[Piece], text: str, labels: Mapping[int, str], aggregation: str) -> list[Entity]:
    if aggregation in ("first", "average", "max"):
        parts = _words(parts, aggregation)
    single = []
    for piece in parts:
        best = int(piece.scores.argmax())
        single.append(Entity(labels[best], float(piece.scores[best]), text[piece.start : piece.end], piece.start, piece.end))
    return single if aggregation == "none" else _groups(single, text)


def _words(parts: list[Piece], aggregation: str) -> list[Piece]:
    """One piece a word, whose scores follow from those of its tokens."""
    words: list[list[Piece]] = []
    for piece in parts:
        if words and piece.inside:
            words[-1].append(piece)
        else:
            words.append([piece])
    made = []
    for word in words:
        if aggregation == "first":
            row = word[0].scores
        elif aggregation == "max":
            row = max(word, key=lambda piece: float(piece.scores.max())).scores
        else:
            row = np.stack([piece.scores for piece in word]).mean(0)
        made.append(Piece(row, word[0].start, word[-1].end))
    return made


def _tag(label: str) -> tuple[bool, str]:
    """(does it begin a new stretch?, what it is): a label without B- or I- goes on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _groups(single: list[Entity], text: str) -> list[Entity]:
    groups: list[list[Entity]] = []
    for entity in single:
        begins, what = _tag(entity.label)
        if groups and not begins and what == _tag(groups[-1][-1].label)[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    made = []
    for group in groups:
        start, end = group[0].start, group[-1].end
        label = group[0].label.split("-", 1)[-1]
        made.append(Entity(label, float(np.mean([entity.score for entity in group])), text[start:end], start, end))
    return made


def _without_overlap(entities: list[Entity]) -> list[Entity]:
    """Of two that overlap the longer one, then the surer one."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity.start):
        if not kept or not kept[-1].start <= entity.start < kept[-1].end:
            kept.append(entity)
        elif (entity.end - entity.start, entity.score) > (kept[-1].end - kept[-1].start, kept[-1].score):
            kept[-1] = entity
    return kept
