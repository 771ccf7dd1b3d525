"""One run with a fault in it, and what came of it: the same measure for Quire and for its peers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

# sound: the fault was seeded and did not come about. detected: the run was stopped, or the step left out, by name.
Outcome = Literal["refused", "detected", "warned", "silent", "sound"]
Seen = tuple[bool, str]  # did the fault come about, and what shows it
Runs = dict[str, "Attempt"]  # by the fault's id


class Detected(Exception):
    """Raised by a run's function where the running job itself said what is wrong."""


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    seen: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A function that follows the documentation into a fault. words: a warning that holds one of them is about the fault.

    refusal: what is raised by a job that refuses; a refusal must be about the fault too, where `strict`. Anything else is a broken attempt.
    """

    run: Callable[[], Seen]
    words: tuple[str, ...]
    refusal: type[Exception] = Exception
    strict: bool = False

    def verdict(self) -> Verdict:
        with heard() as said:
            try:
                happened, seen = self.run()
            except Detected as error:
                return Verdict("detected", str(error))
            except self.refusal as error:  # whatever is raised before the run has ended is a refusal
                if self.strict and not any(word in str(error) for word in self.words):
                    raise
                return Verdict("refused", f"{type(error).__name__}: {' '.join(' '.join(str(error).split(chr(10))[:2]).split())[:200]}")
        about = [text for text in said if any(word in text.lower() for word in self.words)]
        if about:
            return Verdict("warned", about[0].strip().partition("\n")[0][:140])
        return Verdict("silent" if happened else "sound", seen)


def registry(
    runs: Runs, refusal: type[Exception] = Exception, strict: bool = False
) -> Callable[..., Callable[[Callable[[], Seen]], Callable[[], Seen]]]:
    """A decorator that keeps a function under the fault's id."""

    def named(fault: str, *words: str) -> Callable[[Callable[[], Seen]], Callable[[], Seen]]:
        def keep(run: Callable[[], Seen]) -> Callable[[], Seen]:
            runs[fault] = Attempt(run, words, refusal, strict)
            return run

        return keep

    return named


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What is warned of within, by `warnings` or by a logger."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("", "transformers", "peft", "accelerate")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("always")
            yield texts
            texts += [str(warning.message) for warning in caught]
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
