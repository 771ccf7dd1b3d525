"""Accuracy, F1, spans, answers and rank correlation: the figures of scikit-learn and scipy, and the edges they leave open."""

from __future__ import annotations

import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from quire.errors import DataError
from quire.metrics.labels import accuracy, f1, several
from quire.metrics.rank import pearson, ranks, spearman
from quire.metrics.spans import answer_f1, exact_match, from_tags, plain, span_f1

LABELS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30)
SETS = st.lists(st.tuples(st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd"))), min_size=1, max_size=20)


@given(LABELS)
def test_one_label_as_scikit_learn_counts(pairs: list[tuple[str, str]]) -> None:
    found, wanted = map(list, zip(*pairs))
    assert accuracy(found, wanted) == pytest.approx(sklearn.metrics.accuracy_score(wanted, found))
    for average in ("macro", "micro", "weighted"):
        assert f1(found, wanted, average) == pytest.approx(sklearn.metrics.f1_score(wanted, found, average=average, zero_division=0))


@given(SETS)
def test_several_labels_as_scikit_learn_counts(pairs: list[tuple[set[str], set[str]]]) -> None:
    found, wanted = map(list, zip(*pairs))
    rows = MultiLabelBinarizer(classes=list("abcd"))
    theirs = rows.fit_transform(wanted), rows.transform(found)
    for average in ("micro", "weighted"):
        assert several(found, wanted, average) == pytest.approx(sklearn.metrics.f1_score(*theirs, average=average, zero_division=0))


@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-100, 100, width=32)), min_size=3, max_size=30))
def test_correlations_as_scipy_computes_them(pairs: list[tuple[int, float]]) -> None:
    found, wanted = map(list, zip(*pairs))
    assert ranks(wanted).tolist() == scipy.stats.rankdata(wanted).tolist()
    if min(map(len, map(set, (found, wanted)))) > 1 and max(wanted) - min(wanted) > 1e-3:
        assert spearman(found, wanted) == pytest.approx(scipy.stats.spearmanr(found, wanted).statistic, abs=1e-9)
        assert pearson(found, wanted) == pytest.approx(scipy.stats.pearsonr(found, wanted).statistic, abs=1e-9)


def test_spans_are_right_as_a_whole() -> None:
    assert from_tags("O B-PER I-PER I-LOC B-LOC B-LOC O I-PER".split()) == [
        ("PER", 1, 3),
        ("LOC", 3, 4),
        ("LOC", 4, 5),
        ("LOC", 5, 6),
        ("PER", 7, 8),
    ]
    wanted = [[("PER", 0, 2), ("LOC", 4, 5)], [("ORG", 1, 2)]]
    assert span_f1(wanted, wanted) == 1.0
    assert span_f1([[("PER", 0, 2), ("LOC", 4, 6)], []], wanted) == pytest.approx(2 * 1 / (2 + 3))
    assert span_f1([[], []], wanted) == 0.0 and span_f1([[]], [[]]) == 0.0


def test_answers_are_compared_by_their_words() -> None:
    assert plain("The  Big-Bang, a theory!") == "bigbang theory"
    assert exact_match(["the cat.", "no"], [["Cat", "dog"], ["yes"]]) == 0.5
    assert answer_f1(["a red cat", ""], [["the cat", "dog"], []]) == pytest.approx((2 / 3 + 1) / 2)
    assert answer_f1(["something"], [[]]) == 0.0


def test_a_figure_compares_equally_many_and_something_that_varies() -> None:
    for wrong in (lambda: accuracy(["a"], []), lambda: f1([], []), lambda: span_f1([[]], []), lambda: spearman([1.0], [1.0, 2.0])):
        with pytest.raises(DataError, match="equally many, one or more"):
            wrong()
    with pytest.raises(DataError, match="the same number throughout"):
        spearman([1.0, 2.0], [3.0, 3.0])
