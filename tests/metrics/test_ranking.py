"""Places, reciprocal ranks, recall and nDCG: by hand, and nDCG as scikit-learn computes it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from quire.errors import DataError
from quire.metrics.interval import drawn_interval
from quire.metrics.rank import spearman
from quire.metrics.ranking import ndcg, places, recall, reciprocal


def test_places_by_hand():
    assert places([0.1, 0.9, 0.5], [True, False, True]) == [2, 3]
    assert places([0.5, 0.5, 0.5], [True, False, False]) == [3], "a model that says the same of all finds nothing"
    assert [reciprocal([2, 3]), reciprocal([11]), reciprocal([])] == [0.5, 0.0, 0.0]
    assert [recall([1, 12], 1), recall([1, 12], 10), recall([2], 1)] == [1.0, 0.5, 0.0]


def test_ndcg_is_scikit_learns():
    draw = np.random.default_rng(0)
    for _ in range(20):
        scores, right = draw.random(15), draw.random(15) < 0.3
        right[0] = True
        assert abs(ndcg(places(scores, right)) - ndcg_score([right.astype(float)], [scores], k=10)) < 1e-9


def test_an_interval_of_any_figure():
    a = np.arange(200.0) + np.random.default_rng(0).normal(0, 60, 200)
    found = drawn_interval(lambda drawn: spearman(a[drawn].tolist(), np.arange(200.0)[drawn].tolist()), 200)
    assert found.low < found.value < found.high < 1 and found.high - found.low < 0.2 and found.n == 200
    two = drawn_interval(lambda drawn: spearman(a[drawn].tolist(), [float(place) for place in drawn]), 2)
    assert two.value in (-1.0, 1.0), "draws of one document twice say nothing and are left out"
    with pytest.raises(DataError, match="same number throughout"):
        drawn_interval(lambda drawn: spearman([1.0] * len(drawn), [float(place) for place in drawn]), 3)
