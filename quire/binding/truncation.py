"""How a model's texts were cut when it learned, which is how they are cut when it is used: how many tokens of a row, and which.

It stands in tokenizer_config.json, which every tool carries along: `model_max_length` is what transformers and sentence-transformers cut
to, and "quire_truncation" says the rest, for which others have no field. Without that entry `model_max_length` means nothing here: many
folders have one that nobody trained with. Recorded and not hashed, as recommended sampling values are: a caller may ask for another cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import ModelError
from ..text.definition import parse_json, read_optional
from ..types import Long

FIELD, LENGTH, CONFIG = "quire_truncation", "model_max_length", "tokenizer_config.json"
_LARGEST = 1 << 24


def ways(said: str) -> str:
    """The ways to cut a text that is too long, for a message: `said` with each in the place of {}."""
    return " or ".join(said.format(way) for way in get_args(Long) if way != "error")


@dataclass(frozen=True)
class Truncation:
    """longest: tokens of a row, with those around a text. stride: tokens by which windows of a text that is too long overlap, for tasks
    that read it in windows; None for those that do not."""

    longest: int
    long: Long = "cut"
    stride: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], origin: str) -> Truncation | None:
        """From the values of a tokenizer_config.json; None where they say nothing. Raises ModelError for what cannot be meant."""
        said = settings.get(FIELD)
        if said is None:
            return None
        longest = settings.get(LENGTH)
        if not isinstance(said, Mapping) or said.get("long") not in get_args(Long) or not said.keys() <= {"long", "stride"}:
            allowed = ", ".join(get_args(Long))
            raise ModelError(f"{origin}: {FIELD} is {str(said)[:80]!r}; allowed is an object with long ({allowed}) and stride.")
        if type(longest) is not int or longest < 1:
            raise ModelError(f"{origin}: {LENGTH} is {str(longest)[:80]}; with {FIELD} beside it, it is a whole number from 1.")
        stride = said.get("stride")
        if stride is not None and (type(stride) is not int or stride < 0):
            raise ModelError(f"{origin}: the stride of {FIELD} is {str(stride)[:80]}; allowed is a whole number, 0 or more.")
        return cls(longest, said["long"], stride)

    @classmethod
    def read(cls, folder: Path) -> Truncation | None:
        """What a folder says, an adapter's too."""
        path = folder / CONFIG
        text = read_optional(path, _LARGEST) if folder.is_dir() else None
        value = {} if text is None else parse_json(text.encode("utf-8"), str(path))
        return cls.of(value, str(path)) if isinstance(value, Mapping) else None

    def settings(self) -> dict[str, Any]:
        """The inverse of `of`."""
        return {LENGTH: self.longest, FIELD: {"long": self.long} | ({} if self.stride is None else {"stride": self.stride})}
