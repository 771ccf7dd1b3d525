"""ROUGE and BLEU against figures worked out by hand, those that rouge_score 0.1.2 and sacrebleu 2.6 gave, and the packages themselves."""

from __future__ import annotations

import gzip
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import DataError
from quire.metrics.bleu import bleu, bleu_interval, tokens
from quire.metrics.rouge import Rouge, common_subsequence, mean, rouge

PIECES = st.lists(
    st.sampled_from(["cat", "Cat", "sat", "mat", "3.5", "1,000", "9-5", "x-", "&quot;", "a.b,", "ä", "\n", "-\n", "!"]), max_size=12
)
PAIRS = st.lists(st.tuples(PIECES.map(" ".join), PIECES.map(" ".join)), min_size=1, max_size=5)


# -- ROUGE --------------------------------------------------------------------------------------------------------------------------


def test_rouge_by_hand() -> None:
    found, wanted = "The cat sat on the mat", "the mat: the dog sat"
    # alike are the, the, sat and mat, of 6 and 5 words; "the mat" of 5 and 4 pairs; in order "the" and one more word
    assert rouge([found], [wanted]) == [Rouge(8 / 11, 2 / 9, 4 / 11)]
    assert rouge(["A-b c's", "same"], ["a b c s", "SAME!"]) == [Rouge(1, 1, 1), Rouge(1, 0, 1)]
    assert rouge(["", "a", "ä"], ["a", "", "ä"]) == [Rouge(0, 0, 0)] * 3


def test_the_best_of_several_counts_for_each_figure() -> None:
    (both,) = rouge(["a b c d"], [["d c b a", "a b"]])
    assert both == Rouge(1.0, 0.5, 4 / 6)
    assert rouge(["a"], [[]]) == [Rouge(0, 0, 0)]


def test_the_mean_and_what_cannot_be_compared() -> None:
    assert mean([Rouge(1, 0.5, 0), Rouge(0, 0.5, 1)]) == Rouge(0.5, 0.5, 0.5)
    with pytest.raises(DataError, match="1 were found and 2 are wanted"):
        rouge(["a"], ["a", "b"])


ROUGE_CASES = [
    (
        "Serialize obj to a JSON formatted str.",
        "Serialize `obj` as a JSON formatted stream to `fp`.",
        (0.75, 0.42857142857142855, 0.6250000000000001),
    ),
    (
        "Return the first of the two; return the second otherwise.",
        "Return True if the two are the same, otherwise return False.",
        (0.5714285714285713, 0.10526315789473685, 0.47619047619047616),
    ),
    ("the the the the", "the cat the dog", (0.5, 0.0, 0.5)),
    ("Return x_y and B2B (v1.0).", "return X, y and b2b in V1.0", (0.9333333333333333, 0.7692307692307692, 0.9333333333333333)),
    ("der Hund läuft über die Straße", "ein Hund läuft auf der Straße", (0.75, 0.42857142857142855, 0.625)),
]


@pytest.mark.parametrize(("found", "wanted", "figures"), ROUGE_CASES)
def test_rouge_as_rouge_score_gives_it(found: str, wanted: str, figures: tuple[float, float, float]) -> None:
    assert rouge([found], [wanted])[0] == pytest.approx(figures, abs=1e-12)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_common_subsequence_as_its_table_has_it(one: list[str], other: list[str]) -> None:
    row = [0] * (len(one) + 1)
    for word in other:
        above = row
        row = [0]
        for place, mine in enumerate(one):
            row.append(above[place] + 1 if mine == word else max(above[place + 1], row[-1]))
    assert common_subsequence(one, other) == row[-1]


@given(PAIRS)
def test_rouge_as_its_package(pairs: list[tuple[str, str]]) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    for found, wanted in pairs:
        theirs = scorer.score(wanted, found)
        assert rouge([found], [wanted])[0] == pytest.approx([theirs[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")])


# -- BLEU ---------------------------------------------------------------------------------------------------------------------------


def test_bleu_by_hand() -> None:
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, no four: half a hit of 2; as long as wanted
    assert bleu(["a b c x d"], ["a b c d d"]) == pytest.approx(100 * (4 / 5 * 2 / 4 * 1 / 3 * 0.5 / 2) ** 0.25)
    assert bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100)
    assert bleu(["a b c d"], ["a b c d e f g h"]) == pytest.approx(100 * 2.718281828459045**-1)  # the brevity penalty
    assert bleu(["a b c"], ["a b c"]) == 0.0  # no text has four words
    assert bleu(["x y z w"], ["a b c d"]) == 0.0 == bleu([""], ["a"])


def test_the_tokens_of_13a() -> None:
    assert tokens('He said: "1,000.5 is 9-5!" (&lt;ok&gt;)\n') == 'He said : " 1,000.5 is 9 - 5 ! " ( < ok > )'.split()
    assert tokens("well-known, U.S. <skipped>and a line-\nbreak\n") == "well-known , U . S . and a linebreak".split()


BLEU_CASES: list[tuple[list[str], list[str | tuple[str, ...]], float]] = [
    (
        ["Ein Mann fährt Rad.", "Zwei Hunde spielen im Schnee."],
        ["Ein Mann fährt mit dem Rad.", "Zwei Hunde rennen durch den Schnee."],
        21.611050101628642,
    ),
    (["the cat"], ["the cat sat on the mat"], 0.0),
    (["The Cat sat on the mat today", "a b c d"], ["the cat sat on the mat today", "a c b d"], 49.967500795311295),
    (
        ["It cost $1,000.50 (net) - 9-5, ok?", "", "&quot;yes&quot; he said"],
        ["It cost 1,000.50 $ (net), 9-5 - ok?", "nothing here", '"yes" he said.'],
        35.58822305224345,
    ),
    (
        ["a man in a red shirt rides", "two dogs play"],
        [("a man in red rides", "a man wearing a red shirt rides a bike"), ("two dogs are playing", "dogs play in the snow")],
        57.508165844780144,
    ),
    (["x b y d z f"], ["a b c d e f"], 10.682175159905853),
]


@pytest.mark.parametrize(("found", "wanted", "score"), BLEU_CASES)
def test_bleu_as_sacrebleu_gives_it(found: list[str], wanted: list[str | tuple[str, ...]], score: float) -> None:
    assert bleu(found, wanted) == pytest.approx(score, abs=1e-9)


@given(PAIRS, PAIRS)
def test_bleu_as_its_package(pairs: list[tuple[str, str]], others: list[tuple[str, str]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found, wanted = map(list, zip(*pairs))
    second = [others[number % len(others)][1] for number in range(len(pairs))]
    assert bleu(found, wanted) == pytest.approx(sacrebleu.corpus_bleu(found, [wanted]).score, abs=1e-9)
    assert bleu(found, list(zip(wanted, second))) == pytest.approx(sacrebleu.corpus_bleu(found, [wanted, second]).score, abs=1e-9)


def noised(lines: list[str], one_in: int) -> list[str]:
    """The same lines with some of their words left out, doubled or put before their neighbour, by the hash of word and place."""
    changed = []
    for number, line in enumerate(lines):
        words: list[str] = []
        for place, word in enumerate(line.split(" ")):
            chance = zlib.crc32(f"{number} {place} {word}".encode()) // 7 % (3 * one_in)
            if chance == 1:
                words.insert(max(0, len(words) - 1), word)
            elif chance != 0:
                words += [word] * (2 if chance == 2 else 1)
        changed.append(" ".join(words))
    return changed


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("language", "one_in", "score"),
    [
        ("de", 1, 21.055192184201275),
        ("de", 2, 35.28907939996403),
        ("de", 4, 59.273665429169995),
        ("de", 10, 81.7342667001274),
        ("en", 1, 19.624569250139075),
        ("en", 2, 34.14784770880271),
        ("en", 4, 59.89183016433528),
        ("en", 10, 82.37848146786983),
    ],
)
def test_multi30k_with_noise_as_sacrebleu_scores_it(data_folder: Path, language: str, one_in: int, score: float) -> None:
    with gzip.open(data_folder / f"translation/multi30k/test_2016_flickr.{language}.gz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert bleu(noised(lines, one_in), lines) == pytest.approx(score, abs=1e-9)


def test_an_interval_holds_the_score_and_is_the_same_again() -> None:
    draw = random.Random(0)
    wanted = [" ".join(draw.choices("abcdefgh", k=9)) for _ in range(60)]
    found = noised(wanted, 6)
    interval = bleu_interval(found, wanted, draws=200)
    assert interval.value == bleu(found, wanted) and interval.low < interval.value < interval.high and interval.n == 60
    assert interval == bleu_interval(found, wanted, draws=200)


def test_what_bleu_cannot_compare() -> None:
    with pytest.raises(DataError, match="2 were found and 1 are wanted"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(DataError, match="text 1 has no translation"):
        bleu(["a", "b"], ["a", []])
