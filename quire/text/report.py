"""What a tokenizer does to real text: how much a token holds, how words are cut, what is unknown, how much of the vocabulary is used.

Fertility is tokens per word, a word being what white space separates (Rust et al. 2021). A share of unknown tokens above zero means that
text is lost. Held-out text tells more than the text that the tokenizer was trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..progress import count
from .tokenizer import Tokenizer

_TOGETHER = 256  # texts encoded at a time


@dataclass(frozen=True)
class Row:
    """One group of texts (a file type) and its counts. `used` is the number of different tokens that occur."""

    group: str
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    used: int = 0

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def fertility(self) -> float:
        return self.tokens / self.words if self.words else 0.0

    @property
    def unknown_share(self) -> float:
        return self.unknown / self.tokens if self.tokens else 0.0


class Report(list[Row]):
    """The rows, largest first, and `total` over all of them."""

    def __init__(self, rows: Iterable[Row], total: Row, vocabulary: int) -> None:
        """vocabulary: how many tokens text can become, special ones left out."""
        super().__init__(rows)
        self.total = total
        self.vocabulary = vocabulary

    def as_json(self) -> dict[str, Any]:
        """Everything in the table, as numbers."""
        return {"vocabulary": self.vocabulary, "total": _facts(self.total), "groups": [_facts(row) for row in self]}

    def table(self) -> str:
        """The report as text: one line a group, and one for all."""
        head = ("", "documents", "bytes", "tokens", "bytes/token", "", "tokens/word", "unknown", "vocabulary used")
        rows = [*self, self.total] if len(self) != 1 else list(self)
        best = max((row.bytes_per_token for row in rows), default=0.0) or 1.0
        lines = [head, *(self._cells(row, best) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        shown = [
            "  ".join(
                cell.ljust(width) if column in (0, 5) else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths))
            )
            for line in lines
        ]
        rule = "─" * max(map(len, shown))
        return "\n".join([shown[0], rule, *shown[1 : 1 + len(self)], *([rule] if len(self) != 1 else []), *shown[1 + len(self) :]])

    def _cells(self, row: Row, best: float) -> tuple[str, ...]:
        return (
            row.group,
            f"{row.documents:,}",
            count(row.bytes),
            count(row.tokens),
            f"{row.bytes_per_token:.2f}",
            "█" * round(12 * row.bytes_per_token / best),
            f"{row.fertility:.2f}",
            f"{row.unknown_share:.2%}" if row.unknown else "none",
            f"{row.used / self.vocabulary:.1%}" if self.vocabulary else "",
        )


def _facts(row: Row) -> dict[str, Any]:
    return {
        "group": row.group,
        "documents": row.documents,
        "characters": row.characters,
        "bytes": row.bytes,
        "words": row.words,
        "tokens": row.tokens,
        "unknown": row.unknown,
        "used": row.used,
        "bytes_per_token": round(row.bytes_per_token, 4),
        "tokens_per_word": round(row.fertility, 4),
    }


def report(tokenizer: Tokenizer, groups: Mapping[str, Iterable[str]]) -> Report:
    """Counts over {group: texts}. Texts are read once and not kept; groups without text are left out."""
    return report_stream(tokenizer, ((group, text) for group, texts in groups.items() for text in texts))


def report_stream(tokenizer: Tokenizer, texts: Iterable[tuple[str, str]]) -> Report:
    """Counts over (group, text) pairs in any order."""
    counts: dict[str, Counter[str]] = {}
    used: dict[str, set[int]] = {}
    waiting = iter(texts)
    while batch := list(islice(waiting, _TOGETHER)):
        for (group, text), ids in zip(batch, tokenizer.encode_batch([text for _, text in batch])):
            found = counts.setdefault(group, Counter())
            found["documents"] += 1
            found["characters"] += len(text)
            found["bytes"] += len(text.encode("utf-8"))
            found["words"] += len(text.split())
            found["tokens"] += len(ids)
            found["unknown"] += 0 if tokenizer.unk is None else ids.count(tokenizer.unk)
            used.setdefault(group, set()).update(ids)
    special = set(tokenizer.special_tokens.values())
    rows = [Row(group, **found, used=len(used[group] - special)) for group, found in counts.items()]
    rows.sort(key=lambda row: (-row.bytes, row.group))
    total = Row("all", **sum(counts.values(), Counter()), used=len(set().union(*used.values()) - special))
    return Report(rows, total, sum(id not in special for id in tokenizer.definition.spellings))
