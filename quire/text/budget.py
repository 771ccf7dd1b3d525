"""What a chat template may use up: steps, time, text and items. Every limit of the sandbox is here."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2.runtime import Undefined

from .traced import Traced, plain, shown

LARGEST_SOURCE = 64 * 1024  # characters
LARGEST_TEXT = 2**20  # characters
LARGEST_TOTAL = 2**25  # characters of all texts made on the way
LARGEST_LIST = 100_000  # items, those inside items included
LARGEST_STEPS = 200_000
# Of this thread's processor time, so that a busy machine refuses nothing. Collecting garbage counts to it: a quarter of a second with a
# few tokenizers open.
SECONDS = 1.0


class BudgetError(Exception):
    """A template that used up what it was given."""


@dataclass
class Budget:
    """What one rendering may use, and the time that `strftime_now` tells."""

    now: datetime
    steps: int = LARGEST_STEPS
    characters: int = LARGEST_TOTAL
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        self._end = time.thread_time() + self.seconds

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise BudgetError(f"more than {LARGEST_STEPS:,} steps")
        if time.thread_time() > self._end:
            raise BudgetError(f"more than {self.seconds} seconds")

    def spend(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise BudgetError(f"more than {LARGEST_TOTAL:,} characters of text on the way")


BUDGET: contextvars.ContextVar[Budget | None] = contextvars.ContextVar("budget", default=None)


def step() -> None:
    budget = BUDGET.get()
    if budget is not None:
        budget.step()


def text_made(size: int) -> None:
    """Allows one more text of `size` characters, or not."""
    if size > LARGEST_TEXT:
        raise BudgetError(f"a text of {size:,} characters where {LARGEST_TEXT:,} are the most")
    budget = BUDGET.get()
    if budget is not None:
        budget.spend(size)


def items_made(size: int) -> None:
    if size > LARGEST_LIST:
        raise BudgetError(f"a list of {size:,} items where {LARGEST_LIST:,} are the most")


def weighed(value: Any) -> Any:
    """The value, unless it holds too many items: `[l, l]` of `[l, l]` is small in memory and endless to print or compare."""
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        inside = [*item.keys(), *item.values()] if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
        count += len(inside)
        items_made(count)
        waiting.extend(inside)
    return value


def printed(value: Any) -> str:
    """What `{{ value }}` writes: text, numbers, and lists of them. Anything else would show the inside of this program."""
    if isinstance(value, dict | list | tuple):
        weighed(value)
    elif not isinstance(value, str | int | float | Undefined | None):
        raise TypeError(f"a {type(value).__name__} cannot be printed")
    text = shown(value)
    text_made(len(text))
    return text


class Counted(list[Any]):
    """A list whose every step in a loop is counted."""

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            step()
            yield item


def counted(items: Any) -> Counted:
    """A list of what a loop runs over."""
    found = Counted()
    for item in items:
        step()
        found.append(item)
    items_made(len(found))
    return found


def bounded(text: Traced, name: str) -> Callable[..., Any]:
    """A method of a string, counted, and refused before it builds more than is allowed."""
    method = getattr(text, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "join" and args:
            args = (strings(args[0], len(text)),)
        elif name == "replace" and len(args) >= 2:
            text_made(len(text) + text.count(args[0]) * len(args[1]))
        elif name in ("split", "rsplit", "splitlines"):
            items_made(len(getattr(plain(text), name)(*args, **kwargs)))
            text_made(len(text))
        found = method(*args, **kwargs)
        if isinstance(found, str):
            text_made(len(found))
        return found

    return call


def strings(items: Any, gap: int) -> list[str]:
    """The items of an iterable as strings, when they fit into one text with `gap` characters between them."""
    parts, size = list[str](), 0
    for item in items:
        step()
        if not isinstance(item, str):
            raise TypeError(f"strings can be joined, not {type(item).__name__}")
        size += len(item) + gap
        if size > LARGEST_TEXT:
            break
        parts.append(item)
    text_made(size)
    return parts


def small(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 1024:
        raise BudgetError("a number of more than 1,024 bits")
    return value
