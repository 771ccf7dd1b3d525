"""One step's pieces through the model: one flat row of tokens, every product over all of them, and logits only where somebody wants them.

Short pieces, those of requests that write and their guesses, go through the native step where it computes the model: all layers in one
call, and no row's bits depend on the rows beside it. The others share a forward, those with equally many tokens attended together. Where
rotary scaling depends on the length of a text, pieces of different lengths are computed apart. With `exact`, every piece of such a forward
is computed alone, so its bits do not depend on what else is there. An encoder-decoder's new requests are read first (`sources`).

Rows of a forward are filled up to a multiple of 16. oneDNN writes machine code for every number of rows that a product meets and keeps a
thousand of them, 0.4 MB each and more: prompts of up to 300 tokens brought a tiny model to 0.7 GB, and each new number cost time too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..native.library import ROWS
from ..native.step import NativeStep, unfit
from ..nn.attention import AttnContext
from ..nn.paged import Group, Paged, Pages
from ..nn.scaling import regime
from ..nn.transformer import Transformer
from .scheduler import Piece
from .sources import attach, check, read

Logits = npt.NDArray[np.float32]
FEW = 16  # tokens of a piece that are rows of the native step: guesses, and the ends of prompts
EVEN = 16  # rows of a forward, and of its logits, come in multiples of so many; fewer stay as they are
SMALL = 3_000_000  # parameters: a token is over before a second thread has woken


class Runner:
    """`run(pieces)` computes them, writes their keys and values into `pages`, and returns the logits (N, V) wanted of each.

    native: use the step of `quire.native` where it computes this model; its refusal is kept in `why_not_native`.
    """

    def __init__(self, model: Transformer, pages: Pages, exact: bool = False, native: bool = True) -> None:
        self.model, self.pages, self.exact = model, pages, exact
        self.why_not_native = unfit(model) if native else "it was not asked for"
        self.step: NativeStep | None = None
        if not self.why_not_native:
            keys, values = ([pool.transpose(1, 2) for pool in pools] for pools in (pages.keys, pages.values))
            self.step = NativeStep(model, keys, values, asked=1 if model.config.parameters() < SMALL else 0)
        assert model.decoder is not None and model.head is not None
        check(model)
        self.ropes = [rotary.rope for rotary in model.decoder.rotary]

    def run(self, pieces: Sequence[Piece]) -> list[Logits]:
        """In the order of the pieces; (0, V) where a piece ends before the last known token and nobody asked for more."""
        new = [piece.request for piece in pieces if piece.request.unread]
        for together in [[one] for one in new] if self.exact else [new]:
            read(self.model, self.pages, together)
        found: dict[int, Logits] = {}
        short = [] if self.step is None else [number for number, piece in enumerate(pieces) if piece.count <= (1 if self.exact else FEW)]
        found.update(zip(short, self._steps([pieces[number] for number in short]), strict=True))
        with torch.inference_mode():
            for part in self._apart([number for number in range(len(pieces)) if number not in found], pieces):
                for number, logits in zip(part, self._forward([pieces[number] for number in part]), strict=True):
                    found[number] = logits
        return [found[number] for number in range(len(pieces))]

    def _steps(self, pieces: Sequence[Piece]) -> Iterable[Logits]:
        """Short pieces through the native step, a row for each token; those of one piece are in order, whatever call they are in."""
        rows = [(piece, place) for piece in pieces for place in range(piece.start, piece.start + piece.count)]
        logits: list[Logits] = []
        for at in range(0, len(rows), ROWS):
            logits += self._rows(rows[at : at + ROWS])
        at = 0
        for piece in pieces:
            # a token of a prompt that is not its last one is computed, and nobody asks what follows it
            first, end = at + _first(piece) - piece.start, at + piece.count
            yield np.stack(logits[first:end]) if first < end else np.empty((0, self.model.config.vocab), dtype=np.float32)
            at = end

    def _rows(self, rows: Sequence[tuple[Piece, int]]) -> list[Logits]:
        assert self.step is not None
        tokens = torch.tensor([piece.request.tokens(place, place + 1)[0] for piece, place in rows])
        width = max(place for _, place in rows) // self.pages.size + 1
        tables = [[*piece.request.blocks[:width], *[0] * (width - len(piece.request.blocks))] for piece, _ in rows]
        return list(self.step(tokens, torch.tensor([place for _, place in rows]), torch.tensor(tables)).numpy())

    def _apart(self, numbers: Iterable[int], pieces: Sequence[Piece]) -> Iterable[list[int]]:
        """Which pieces share a forward, those of equal length next to one another."""
        if self.exact:
            return [[number] for number in numbers]

        def key(number: int) -> tuple[int, ...]:
            return tuple(regime(rope, _reach(pieces[number])) for rope in self.ropes)

        ordered = sorted(numbers, key=lambda number: (key(number), pieces[number].count))
        return [list(group) for _, group in groupby(ordered, key=key)]

    def _forward(self, pieces: Sequence[Piece]) -> list[Logits]:
        device, size = self.model.embed.weight.device, self.pages.size
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []  # places in the flat row whose logits are asked for
        counts: list[int] = []
        for piece in pieces:
            request, end = piece.request, piece.start + piece.count
            at = len(tokens)
            tokens += request.tokens(piece.start, end)
            positions += range(piece.start, end)
            slots += [request.blocks[place // size] * size + place % size for place in range(piece.start, end)]
            first = _first(piece)
            wanted += range(at + first - piece.start, at + piece.count)
            counts.append(max(0, end - first))

        def ids(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.long, device=device)

        empty = [0] * _missing(len(tokens))
        paged = Paged(self.pages, ids(slots), self._groups(pieces, device), max(_reach(piece) for piece in pieces))
        ctx = AttnContext(positions=ids(positions + empty)[None], paged=paged)
        hidden = self.model.decode(ids(tokens + empty)[None], ctx)  # (1, N, D)
        if not wanted:
            return [np.empty((0, self.model.config.vocab), dtype=np.float32)] * len(pieces)
        head = self.model.head
        assert head is not None
        rows: Tensor = head(hidden[0, ids(wanted + [0] * _missing(len(wanted)))])
        return np.split(rows[: len(wanted)].float().cpu().numpy(), np.cumsum(counts)[:-1])

    def _groups(self, pieces: Sequence[Piece], device: torch.device) -> list[Group]:
        groups, at = [], 0
        for count, part in groupby(pieces, key=lambda piece: piece.count):
            listed = list(part)
            lengths = [piece.start + piece.count for piece in listed]
            width = -(-max(lengths) // self.pages.size)
            table = [[*piece.request.blocks[:width], *[0] * (width - len(piece.request.blocks))] for piece in listed]
            first = table[0][0]
            alone = len(table) == 1 and table[0] == list(range(first, first + width))
            run = slice(first * self.pages.size, first * self.pages.size + lengths[0]) if alone else None
            group = Group(at, count, torch.tensor(table, device=device), lengths, run)
            attach(group, [piece.request for piece in listed], self.pages.size, device)
            groups.append(group)
            at += count * len(listed)
        return groups


def _missing(rows: int) -> int:
    """How many rows fill so many up."""
    return -rows % EVEN if rows > EVEN else 0


def _first(piece: Piece) -> int:
    """The place of the first token of a piece whose logits somebody wants."""
    return piece.start if piece.request.prompt_logprobs is not None else max(piece.start, piece.request.known - 1)


def _reach(piece: Piece) -> int:
    """The length by which rotary scaling is chosen: a prompt is read as a whole, however it is cut."""
    return max(piece.start + piece.count, len(piece.request.prompt))
