"""What is said of texts by comparing them: does one follow the other, and which belong together.

Groups are found by k-means (Lloyd 1957) with first centres that are drawn far apart (k-means++, Arthur & Vassilvitskii 2007); the tightest
of several draws is kept. Groups are numbered in the order in which they first occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..binding.contract import Contract
from ..errors import RecipeError
from ..nn.transformer import Transformer
from ..text.library import texts_of
from .lengths import by_length
from .reading import Long, Row, batch, budget, read

Floats = npt.NDArray[np.float32]
_DRAWS, _ROUNDS = 8, 100


def follows(
    model: Transformer,
    contract: Contract,
    pairs: Sequence[tuple[str, str]],
    long: Long | None = None,
    cut: list[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """How likely the second text of each pair follows the first. Raises ModelError for a model that was not trained to say it."""

    @torch.inference_mode()
    def forward(rows: list[Row]) -> list[float]:
        made, head = batch(model, rows), model.head
        logits = _next_sentence(head, model(made)).float()
        chances: list[float] = logits.softmax(-1)[:, 0].tolist()  # column 0 says "B follows A"
        return chances

    limit = contract.limit(model.config.context)
    rows = read(contract, [tuple(pair) for pair in texts_of(pairs, "pairs")], limit, long, cut)
    return by_length(rows, forward, budget(model), progress)


def _next_sentence(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = head.next_sentence(hidden)
    return logits


def check_groups(texts: int, count: int, what: str = "texts") -> None:
    """texts: how many different ones there are. Equal ones are in one group, so more groups than that would stay empty."""
    if not 1 <= count <= texts:
        raise RecipeError(f"count is {count}; {texts:,} different {what} can be put into 1 to {texts:,} groups.")


def groups(vectors: Floats, count: int, seed: int = 0) -> list[int]:
    """The group of each of N vectors (N, D). Raises RecipeError when there are fewer different vectors than groups."""
    check_groups(len(np.unique(vectors, axis=0)), count, "vectors")
    draw = np.random.default_rng(seed)
    best: npt.NDArray[np.int64] = np.zeros(len(vectors), dtype=np.int64)
    least = float("inf")
    for _ in range(_DRAWS):
        found, spread = _lloyd(vectors, _far_apart(vectors, count, draw))
        if spread < least:
            best, least = found, spread
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(group), len(numbers)) for group in best]


def _distances(vectors: Floats, centres: Floats) -> Floats:
    """Squared distances (N, K), never below 0."""
    products = vectors @ centres.T
    return np.asarray(np.maximum((vectors**2).sum(1)[:, None] - 2 * products + (centres**2).sum(1), 0))


def _far_apart(vectors: Floats, count: int, draw: np.random.Generator) -> Floats:
    """First centres: each is drawn with a chance that grows with its squared distance from those before it."""
    chosen = [int(draw.integers(len(vectors)))]
    nearest = _distances(vectors, vectors[chosen])[:, 0].astype(np.float64)
    while len(chosen) < count:
        nearest[chosen] = 0
        total = nearest.sum()
        # vectors that are all equal to a centre: any other one is as good
        left = [number for number in range(len(vectors)) if number not in chosen] if total <= 0 else []
        chosen.append(int(draw.choice(left)) if left else int(draw.choice(len(vectors), p=nearest / total)))
        nearest = np.minimum(nearest, _distances(vectors, vectors[chosen[-1:]])[:, 0])
    return vectors[chosen]


def _lloyd(vectors: Floats, centres: Floats) -> tuple[npt.NDArray[np.int64], float]:
    """(group of each vector, sum of squared distances to the centres), when nothing moves any more."""
    centres = centres.copy()
    found = np.full(len(vectors), -1, dtype=np.int64)
    for _ in range(_ROUNDS):
        away = _distances(vectors, centres)
        now = away.argmin(1)
        if np.array_equal(now, found):
            break
        found = now
        for group in range(len(centres)):
            inside = found == group
            if inside.any():
                centres[group] = vectors[inside].mean(0)
            else:  # an empty group takes the vector that lies farthest from its centre
                centres[group] = vectors[away.min(1).argmax()]
    away = _distances(vectors, centres)
    return away.argmin(1), float(away.min(1).sum())
