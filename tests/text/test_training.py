"""The same text gives the same tokenizer; every kind learns what it should, streams its texts, and refuses what cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.errors import DataError, RecipeError
from quire.text import unigram
from quire.text.tokenizer import Tokenizer
from quire.text.training import KINDS, SPECIAL, SpecialTokens, train
from tests.text.conftest import PROSE, TASKS, corpus

# Few enough merges and ties enough for any order that is not fixed to show.
HASHES = """
from quire.text.training import KINDS, train
from tests.text.conftest import TASKS, corpus
print(*(train(kind, corpus()[1:], 700 if kind != "unigram" else 500, special=TASKS[kind]).hash for kind in KINDS))
"""


def test_the_same_text_gives_the_same_tokenizer(root: Path) -> None:
    """In other processes, with other hash seeds and other numbers of threads."""

    def hashes(seed: str, threads: str) -> str:
        environment = {
            "PYTHONHASHSEED": seed,
            "RAYON_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "true",
            "PATH": "",
            "PYTHONPATH": str(root),
        }
        return subprocess.run([sys.executable, "-c", HASHES], check=True, capture_output=True, text=True, env=environment).stdout

    first = hashes("1", "1")
    assert len(set(first.split())) == len(KINDS)
    assert hashes("2", "2") == first
    assert (
        " ".join(train(kind, corpus()[1:], 700 if kind != "unigram" else 500, special=TASKS[kind]).hash for kind in KINDS) == first.strip()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_read_once_and_one_by_one(kind: str) -> None:
    given: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(40):
            given.append(number)
            yield PROSE

    train(kind, texts(), 500)  # type: ignore[arg-type]
    assert given == list(range(40))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", list(SPECIAL))
def test_special_tokens_come_first(kind: str, task: str) -> None:
    tokenizer = train(kind, [PROSE * 3], 600, special=task)  # type: ignore[arg-type]
    expected = SPECIAL[task].spellings()
    assert [tokenizer.token(id) for id in range(len(expected))] == expected or tokenizer.token(len(expected) - 1) in expected
    assert {role: tokenizer.special[role] for role in SPECIAL[task].roles} == SPECIAL[task].roles
    assert (tokenizer.unk is None) == (kind == "bpe" and task == "causal")
    assert tokenizer.vocab_size <= 600
    assert sorted(tokenizer.definition.spellings) == list(range(tokenizer.vocab_size))


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase(kind: str) -> None:
    tokenizer = train(kind, [PROSE], 500, lowercase=True)  # type: ignore[arg-type]
    assert tokenizer.encode("THE Quick") == tokenizer.encode("the quick")
    cased = train(kind, [PROSE], 500)  # type: ignore[arg-type]
    assert cased.encode("THE Quick") != cased.encode("the quick")
    assert (kind != "bpe") or (cased.exact and not tokenizer.exact)


def test_bpe_fills_its_vocabulary(bpe: Tokenizer) -> None:
    assert bpe.vocab_size == 1100
    assert len(bpe.encode("    return None")) <= 4
    assert train("bpe", ["ab" * 3], 400).vocab_size < 400  # no more to merge than the text repeats


def test_wordpiece_is_the_librarys() -> None:
    """Where no two pairs occur equally often, there is one right answer, and the library's trainer finds it too."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    words = {f"{a}{b}{c}": 7**i % 997 + i for i, (a, b, c) in enumerate((a, b, c) for a in "abcd" for b in "efgh" for c in "ijkl")}
    text = " ".join(word for word, count in words.items() for _ in range(count))
    reference = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    reference.normalizer, reference.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    reference.train_from_iterator(
        [text], trainers.WordPieceTrainer(vocab_size=80, special_tokens=SPECIAL["masked"].spellings(), show_progress=False)
    )
    ours = train("wordpiece", [text], 84, special="masked")  # four more: a to d inside a word, which the text does not have
    assert set(reference.get_vocab()) <= set(ours.definition.spellings.values())
    assert len([token for token in reference.get_vocab() if len(token.removeprefix("##")) > 1]) > 20


def test_unigram_beats_letters_and_keeps_its_promises(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["unigram"]
    source = corpus()[0]
    assert len(source.encode()) / len(tokenizer.encode(source)) > 2.2
    assert tokenizer.encode("<0x41>") != [tokenizer.token_id("<0x41>")]
    assert tokenizer.decode(tokenizer.encode("\u1234<0x41>\U0010ffff")) == "\u1234<0x41>\U0010ffff"
    small = train("unigram", corpus(), 300)  # no room for bytes
    assert small.unk in small.encode("\u1234")
    assert small.decode(small.encode("def f(x):\n    return x\n")) == "def f(x):\n    return x\n"


def test_unigram_learns_the_pieces_of_its_text() -> None:
    counts = {"abcd": 50, "ab": 30, "cd": 30, "e": 5}
    learned = dict(unigram.learn(counts, 7, "abcde"))
    assert {"ab", "cd"} <= set(learned) and set("abcde") <= set(learned)
    assert learned["ab"] > learned["a"]
    total = sum(2.718281828459045**score for score in learned.values())
    assert abs(total - 1) < 1e-4
    assert unigram.learn(counts, 7, "abcde") == unigram.learn(dict(reversed(counts.items())), 7, "edcba")


def test_rare_letters_are_left_out() -> None:
    text = "".join(chr(0x4E00 + number) + " " for number in range(3000)) + "a b c d e f g h " * 50
    tokenizer = train("wordpiece", [text], 300, special="masked")
    assert tokenizer.vocab_size <= 300
    assert tokenizer.unk not in tokenizer.encode("a b c")
    assert train("unigram", [text], 300).vocab_size <= 300


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_refused(kind: str) -> None:
    for texts in ([], ["", ""], iter([])):
        with pytest.raises(DataError, match="there is no text to train a tokenizer on: every source was empty"):
            train(kind, texts, 600)  # type: ignore[arg-type]


def test_an_error_of_the_source_stays_what_it_is() -> None:
    def broken() -> Iterator[str]:
        yield PROSE
        raise DataError("file.txt is not UTF-8")

    def absent() -> Iterator[str]:
        yield PROSE
        raise OSError("gone")

    for kind in KINDS:
        with pytest.raises(DataError, match=r"file\.txt is not UTF-8"):
            train(kind, broken(), 600)
        with pytest.raises(OSError, match="gone"):
            train(kind, absent(), 600)


def test_impossible_sizes_and_names() -> None:
    with pytest.raises(RecipeError, match="a vocabulary of 258 tokens is too small: 3 special tokens and the 256 bytes need at least 259"):
        train("bpe", [PROSE], 258)
    for kind in ("wordpiece", "unigram", "word", "char"):
        with pytest.raises(RecipeError, match="a vocabulary of 3 tokens is too small: 4 special tokens"):
            train(kind, [PROSE], 3)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"kind 'wordpeice' is not known. Allowed: bpe, .* Did you mean 'wordpiece'\?"):
        train("wordpeice", [PROSE], 300)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"task 'casual'. Allowed: causal, masked, denoise, rewrite. Did you mean 'causal'\?"):
        train("bpe", [PROSE], 300, special="casual")


def test_special_tokens_of_ones_own() -> None:
    tokenizer = train("bpe", [PROSE], 300, special=SpecialTokens({"eos": "<end>"}, ("<a>", "<b>", "<end>")))
    assert tokenizer.special_tokens == {"<end>": 0, "<a>": 1, "<b>": 2}
    assert (tokenizer.eos, tokenizer.bos) == (0, None)
