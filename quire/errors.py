"""The exception tree. Every error that a user can cause derives from `QuireError`, so one `except` is enough.

    QuireError                 exit code 2 unless said
    ├── RecipeError            a recipe, an option or a combination of them that cannot be meant
    ├── DataError              text, rows or shards that cannot be read or would teach the wrong thing
    ├── ModelError             a model folder that cannot be opened or built
    │   ├── WeightsError       weights left over, missing, of another shape, or in a format that can run code
    │   └── VerbError          a model of another kind does this; an AttributeError too, as for any method that is not there
    ├── BindingError           it is not the same model any more (exit 1)
    ├── CheckpointError        a checkpoint that is damaged, incomplete or of another run
    ├── ContextError           more tokens than the model has positions for
    ├── TrainingError          training cannot go on: diverged, not a number, no trained tokens (exit 1)
    ├── HubError               a name that cannot be pulled: not there, private, offline, or not what the hub promised
    ├── StorageError           the disk is full, read-only or not ours
    └── ExtraError             an optional dependency is missing; the message holds the command that installs it

A message names the value received, what is allowed, and what to do.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class QuireError(Exception):
    """field: what of that which was asked for it is about, by its name, where that is one thing; servers tell it beside the message."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str = "", *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@contextmanager
def about(field: str) -> Iterator[None]:
    """What is refused within is about this field, unless it says of itself what it is about."""
    try:
        yield
    except QuireError as error:
        error.field = error.field or field
        raise


class RecipeError(QuireError):
    pass


class DataError(QuireError):
    pass


class ModelError(QuireError):
    pass


class WeightsError(ModelError):
    pass


class VerbError(ModelError, AttributeError):
    pass


class BindingError(QuireError):
    exit_code = 1


class CheckpointError(QuireError):
    pass


class ContextError(QuireError):
    pass


class TrainingError(QuireError):
    exit_code = 1


class HubError(QuireError):
    pass


class StorageError(QuireError):
    pass


class ExtraError(QuireError):
    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}', which is not installed. Install it with: pip install 'quire[{extra}]'")


def warn(message: str, kind: type[Warning] = RuntimeWarning) -> None:
    """A warning with the line outside of this package that led to it, however deep it arises."""
    frame, level, inside = sys._getframe(1), 2, os.path.dirname(__file__) + os.sep
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)


def nearest(word: str, known: list[str]) -> str:
    """' Did you mean 'x'?' when a known word is close to this one, else ''."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
