"""Texts and pairs of texts as rows that a model reads whole, and rows as a batch: what every task on top of a reading shares.

A text that does not fit is refused with numbers, or, where that is asked for, cut as the `tokenizers` library cuts: a text at its end (or
in its middle), of a pair the longer one first until both are equal (LongestFirst). What was cut is counted, never silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..binding.contract import Contract
from ..binding.truncation import ways
from ..decode.loop import room
from ..errors import ContextError, DataError, ModelError, RecipeError, warn
from ..nn.batch import Batch
from ..nn.transformer import Transformer
from ..progress import left_out
from ..text.rows import Encoded
from ..types import Long as Long
from ..types import Text

TOKENS_A_BATCH = 2048  # padding included; the states of many more leave a CPU's cache
_ON_A_GPU = 1 << 16


@dataclass(frozen=True)
class Row:
    """Ids of one text or pair with what belongs around it; types: the token types of a pair, () where all are 0."""

    ids: Sequence[int]
    types: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.ids)


def read(contract: Contract, texts: Sequence[Text], limit: int, long: Long | None = "error", cut: list[int] | None = None) -> list[Row]:
    """Texts and pairs as rows of at most `limit` tokens. `cut` receives how many tokens of each were left out.

    long: None is as in training; a warning then tells what was left out, where there is no `cut` to receive it. Raises ContextError, before
    any work, for one that is too long where long="error", or empty, with its number and the numbers of tokens; RecipeError for a limit that
    leaves none of a text.
    """
    several(texts)
    way, lost = contract.long(long), list[int]()
    pairs = [text if isinstance(text, tuple) else (text, None) for text in texts]
    firsts = encoded(contract, [first for first, _ in pairs])
    seconds = iter(encoded(contract, [second for _, second in pairs if second is not None]))
    rows, before, after = [], list(contract.before), list(contract.after)
    for number, (first, (_, second)) in enumerate(zip(firsts, pairs)):
        other = None if second is None else next(seconds)
        around = len(before) + len(after) if other is None else sum(isinstance(part, int) for part, _ in contract.pair_layout)
        over = max(0, around + len(first) + len(other or ()) - limit)
        if over and way == "error":
            raise ContextError(
                f"text {number} has {limit + over:,} tokens with those around it; {contract.most(limit)}. "
                f"Shorten or divide it, or {_otherwise(contract)}."
            )
        least = around + (1 if other is None else 2)
        if over and limit < least:
            what = "text" if other is None else "pair"
            raise RecipeError(f"limit is {limit}; with the {around} tokens around a {what}, {least} is the least. Raise it.", field="limit")
        if over:
            first, other = shorten(first, other, limit - around, way)
        lost.append(over)
        row = Row([*before, *first, *after]) if other is None else Row(*contract.join(first, other))
        room(len(row), limit, f"text {number}", spare=0)
        rows.append(row)
    if cut is not None:
        cut.extend(lost)
    elif long is None:
        tell(lost)
    return rows


def _otherwise(contract: Contract) -> str:
    """What may be said for a text that is too long in place of long="error": to be cut as in training, where there was a way, or one of
    the ways that there are."""
    own = contract.long(None)
    if own != "error":
        return f'leave out long="error": it is then cut as the model was tuned ({own})'
    return "say " + ways('long="{}"') + " to leave out what does not fit"


def tell(cut: Sequence[int]) -> None:
    """Warns of what a tuned model did not read though nobody asked for a cut. cut: tokens left out of each text."""
    if said := left_out(cut):
        warn(
            f'{said}, as this model was tuned. long="error" refuses such texts; a list for cut= takes the numbers instead of this warning.'
        )


def rows_of(
    contract: Contract, ids: Sequence[Sequence[int]], vocab: int, limit: int, long: Long = "error", cut: list[int] | None = None
) -> list[Row]:
    """Rows of ids as they stand, of at most `limit` tokens. `cut` receives how many tokens of each were left out.

    Raises RecipeError for an id beyond `vocab`, ContextError for a row that is too long where long="error".
    """
    rows = []
    for number, row in enumerate(ids):
        wrong = next((id for id in row if type(id) is not int or not 0 <= id < vocab), None)
        if wrong is not None:
            raise RecipeError(f"row {number} holds {str(wrong)[:40]}; this model's ids go from 0 to {vocab - 1}.")
        if len(row) > limit and long == "error":
            raise ContextError(f"row {number} has {len(row):,} tokens; {contract.most(limit)}. Shorten or divide it.")
        if cut is not None:
            cut.append(max(0, len(row) - limit))
        room(min(len(row), limit), limit, f"row {number}", spare=0)
        rows.append(Row(cut_to(list(row), limit, long)))
    return rows


def parameters_of(config: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """What task_specific_params of a config.json says of one task; nothing where there is no such table."""
    tables = config.get("task_specific_params")
    table = tables.get(task) if isinstance(tables, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def budget(model: Transformer) -> int:
    """Tokens of a batch that this model's device reads fast."""
    return TOKENS_A_BATCH if model.embed.weight.device.type == "cpu" else _ON_A_GPU


def several(texts: Sequence[object]) -> None:
    """Raises DataError for one text where a list of them is wanted: its letters would be read one by one."""
    if isinstance(texts, str | bytes):
        raise DataError(f"a list of texts is needed, not one text: write [{texts[:20]!r}{'...' if len(texts) > 20 else ''}].")


def encoded(contract: Contract, texts: list[str]) -> list[list[int]]:
    """Ids of each text alone. Proving the fast way of encoding (`text.fast`) takes a moment, which a few texts do not pay back."""
    tokenizer, size = contract.tokenizer, sum(len(text) for text in texts if isinstance(text, str))
    return tokenizer.encode_batch(texts) if size > 1 << 22 else tokenizer.library_batch(texts)


def pieces(contract: Contract, text: str) -> Encoded:
    """Ids of a text with the characters and the word of each, without the spaces that byte-level tokens begin with.

    Where the tokenizer's post-processor takes those away (trim_offsets), other tools report places without them, and so do our tasks.
    """
    tokenizer = contract.tokenizer
    row = tokenizer.pieces(text)
    trimmed = _trimmed(tokenizer.definition.raw.get("post_processor"))
    if trimmed is None:
        return row
    offsets = []
    for token, (start, end) in zip(row.ids, row.offsets):
        spelling = tokenizer.token(token)
        before = len(spelling) - len(spelling.lstrip(_SPACE)) - (trimmed and start == 0)
        start = min(start + max(before, 0), end)
        offsets.append((start, max(end - len(spelling) + len(spelling.rstrip(_SPACE)), start)))
    return Encoded(row.ids, offsets, row.words)


_SPACE = "\u0120"  # how byte-level vocabularies spell a space


def _trimmed(post: Any) -> bool | None:
    """None: places keep their spaces. Otherwise whether a space was put before the text, which stands for no character of it."""
    if not isinstance(post, dict):
        return None
    if post.get("type") == "Sequence":
        found = [_trimmed(step) for step in post.get("processors") or []]
        return next((each for each in found if each is not None), None)
    if post.get("type") not in ("ByteLevel", "RobertaProcessing") or not post.get("trim_offsets", True):
        return None
    return bool(post.get("add_prefix_space", True))


def shorten(first: list[int], second: list[int] | None, most: int, long: Long = "cut") -> tuple[list[int], list[int] | None]:
    """At most `most` ids of a text, or of two together, the longer one cut first."""
    if second is None:
        return cut_to(first, most, long), None
    small = min(len(first), len(second))
    large = max(small, most - small)
    if small + large > most:
        small, large = most // 2, most - most // 2
    sizes = (small, large) if len(first) <= len(second) else (large, small)
    return cut_to(first, sizes[0], long), cut_to(second, sizes[1], long)


def cut_to(ids: list[int], most: int, long: Long) -> list[int]:
    """The first ids, or as many from the head as from the tail."""
    tail = most // 2 if long == "head-tail" and len(ids) > most else 0
    return [*ids[: most - tail], *ids[len(ids) - tail :]]


def padded(model: Transformer, rows: Sequence[Row]) -> Batch:
    """Rows padded on the right; keep is None where all are of one length, types where the model has no second type."""
    device, lengths = model.embed.weight.device, [len(row) for row in rows]
    tokens = np.zeros((len(rows), max(lengths)), dtype=np.int64)  # (B, T)
    for place, row in enumerate(rows):
        tokens[place, : lengths[place]] = row.ids
    made = Batch(torch.from_numpy(tokens).to(device))
    if min(lengths) < tokens.shape[1]:
        made.keep = torch.from_numpy(np.arange(tokens.shape[1]) < np.array(lengths)[:, None]).to(device)
    stack = model.config.encoder
    if stack is not None and stack.types > 1 and any(row.types for row in rows):
        types = np.zeros_like(tokens)
        for place, row in enumerate(rows):
            types[place, : len(row.types)] = row.types
        made.types = torch.from_numpy(types).to(device)
    return made


def batch(model: Transformer, rows: Sequence[Row], start: int | None = None) -> Batch:
    """Rows for a model of any kind. An encoder-decoder reads each on both sides, the writing one a place later behind `start` (BART)."""
    made = padded(model, rows)
    if model.config.kind != "seq2seq":
        return made
    if start is None:
        raise ModelError("this model does not say with which id its decoder starts. Set decoder_start_token_id in its config.json.")
    shifted = torch.cat([torch.full_like(made.tokens[:, :1], start), made.tokens[:, :-1]], 1)
    return Batch(shifted, keep=made.keep, source=made)


@torch.inference_mode()
def labelled(model: Transformer, rows: Sequence[Row], start: int | None = None) -> Tensor:
    """What a label head says of each row, in fp32 on the CPU: (B, labels), (B, T, labels) or, of spans, (B, T, 2)."""
    made = batch(model, rows, start)
    hidden = model(made)
    assert model.head is not None
    logits: Tensor = model.head(hidden, made.keep).float().cpu()
    return logits
