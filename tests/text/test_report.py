"""The report counts what is there, by group, and reads well."""

from __future__ import annotations

import pytest

from quire.text.report import report, report_stream
from quire.text.tokenizer import Tokenizer
from tests.text.conftest import PROSE, corpus


def test_counts(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["wordpiece"]
    text = PROSE + " \u1234 \u1234"
    found = report(tokenizer, {"md": [text], "py": corpus()[:2], "none": []})
    assert [row.group for row in found] == ["py", "md"]
    row = found[1]
    ids = tokenizer.encode(text)
    assert (row.documents, row.characters, row.bytes) == (1, len(text), len(text.encode()))
    assert (row.words, row.tokens, row.unknown) == (len(text.split()), len(ids), ids.count(tokenizer.unk))
    assert row.used == len(set(ids) - set(tokenizer.special_tokens.values()))
    assert row.bytes_per_token == pytest.approx(row.bytes / row.tokens)
    assert row.fertility == pytest.approx(row.tokens / row.words)
    assert 0 < row.unknown_share < 1
    for name in ("documents", "characters", "bytes", "words", "tokens", "unknown"):
        assert getattr(found.total, name) == sum(getattr(one, name) for one in found)
    assert max(one.used for one in found) <= found.total.used <= found.vocabulary == tokenizer.vocab_size - 5


def test_texts_may_come_in_any_order(bpe: Tokenizer) -> None:
    pairs = [("a", "x y"), ("b", "z"), ("a", "w")] * 200
    mixed = report_stream(bpe, iter(pairs))
    grouped = report(bpe, {group: [text for other, text in pairs if other == group] for group in ("a", "b")})
    assert list(mixed) == list(grouped) and mixed.total == grouped.total


def test_the_table(bpe: Tokenizer) -> None:
    found = report(bpe, {"py": corpus()[:1], "md": [PROSE]})
    lines = found.table().splitlines()
    assert lines[0].split() == ["documents", "bytes", "tokens", "bytes/token", "tokens/word", "unknown", "vocabulary", "used"]
    assert [line.split()[0][0] for line in lines[1:]] == ["─", "p", "m", "─", "a"]
    assert len({len(line) for line in lines}) == 1
    assert "none" in lines[2] and "█" * 12 in lines[2] and "%" in lines[2]
    assert len(report(bpe, {"py": ["a"]}).table().splitlines()) == 3
    assert report(bpe, {}).table().splitlines()[-1].split()[:2] == ["all", "0"]


def test_as_numbers(bpe: Tokenizer) -> None:
    found = report(bpe, {"py": corpus()[:1]}).as_json()
    assert found["vocabulary"] == 1097
    assert found["groups"][0]["group"] == "py" and found["total"]["tokens"] == found["groups"][0]["tokens"]
    assert found["total"]["bytes_per_token"] > 2
