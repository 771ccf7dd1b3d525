"""How well an order finds what is right: by the places, from 1, at which the right ones stand (Manning et al. 2008, chapter 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def places(scores: npt.ArrayLike, right: npt.ArrayLike) -> list[int]:
    """Where the right ones stand when the highest score comes first. Of equal scores a right one comes last: a tie finds nothing."""
    values, wanted = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    order = np.lexsort((wanted, -values))
    return [int(place) + 1 for place in np.flatnonzero(wanted[order])]


def reciprocal(found: Sequence[int], most: int = 10) -> float:
    """1 / the first place, 0 where that lies behind the first `most`; its mean over questions is MRR@most."""
    return 1 / found[0] if found and found[0] <= most else 0.0


def recall(found: Sequence[int], most: int) -> float:
    """The share of the right ones, as many as fit, that stand among the first `most`."""
    return sum(place <= most for place in found) / min(most, len(found)) if found else 0.0


def ndcg(found: Sequence[int], most: int = 10) -> float:
    """Each right one among the first `most` counts 1 / log2(1 + place), as a share of the best order (Järvelin and Kekäläinen 2002)."""
    best = sum(1 / math.log2(1 + place) for place in range(1, min(most, len(found)) + 1))
    return sum(1 / math.log2(1 + place) for place in found if place <= most) / best if found else 0.0
