"""The filters that a chat template may use: jinja2's own where they keep the marks of text, ours where those would lose them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import filters
from jinja2.runtime import Undefined

from .budget import LARGEST_TEXT, BudgetError, bounded, counted, printed, small, step, strings, text_made, weighed
from .traced import Traced, all_marks, as_traced, joined, plain, to_json


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if (indent if isinstance(indent, int) else len(indent or "")) > 16:
        raise BudgetError(f"a JSON indent of {indent!r}")
    pair = None if separators is None else (plain(separators[0]), plain(separators[1]))
    text = to_json(weighed(value), bool(ensure_ascii), indent, pair, bool(sort_keys))
    text_made(len(text))
    return text


@jinja2.pass_eval_context
def _join(context: Any, items: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        items = map(filters.make_attrgetter(context.environment, attribute), items)
    between = printed(d)
    parts = strings(map(printed, items), len(between))
    return as_traced(between).join(parts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = as_traced(printed(text)), printed(old), printed(new)
    result: str = bounded(text, "replace")(old, new, -1 if count is None else count)
    return result


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    space = " " * min(width, LARGEST_TEXT) if isinstance(width, int) else width
    lines = joined((printed(text), "\n")).splitlines()
    text_made(len(text) + len(lines) * (len(space) + 1))
    parts: list[str] = []
    for number, line in enumerate(lines):
        parts += ["\n" if number else "", space if (first if number == 0 else blank or line) else "", line]
    return joined(parts)


def _sum(items: Any, attribute: str | None = None, start: int = 0) -> Any:
    total: Any = start
    for item in items:
        step()
        number = item if attribute is None else item[attribute]
        if not isinstance(number, int | float):
            raise TypeError(f"numbers can be added up, not {type(number).__name__}")
        total = small(total + number)
    return total


def _safe(value: Any) -> Any:
    """Nothing is escaped, so there is nothing to switch off."""
    return value


def _title(text: Any) -> str:
    found = printed(text)
    whole = filters.do_title(plain(found))
    marks = all_marks(found)
    return Traced(whole, bytes([marks]) * len(whole)) if marks else whole


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > 64:
        raise BudgetError(f"rounding to {precision} digits")
    rounded: float = filters.do_round(value, precision, method)  # type: ignore[arg-type]
    return rounded


def _list(value: Any) -> list[Any]:
    return list(counted(value))


_KNOWN: dict[str, Callable[..., Any]] = {
    "tojson": _tojson,
    "join": _join,
    "replace": _replace,
    "indent": _indent,
    "sum": _sum,
    "safe": _safe,
    "title": _title,
    "list": _list,
    "round": _round,
    "string": printed,
    "trim": lambda value, chars=None: as_traced(printed(value)).strip(chars),
    "upper": lambda value: as_traced(printed(value)).upper(),
    "lower": lambda value: as_traced(printed(value)).lower(),
    "capitalize": lambda value: as_traced(printed(value)).capitalize(),
    "length": len,
    "count": len,
    "reverse": lambda value: value[::-1] if isinstance(value, str) else list(reversed(_list(value))),
    **{
        name: filters.FILTERS[name]
        for name in (
            *("default", "d", "first", "last", "items", "dictsort", "sort", "unique", "min", "max", "abs", "int", "float"),
            *("map", "select", "reject", "selectattr", "rejectattr", "groupby"),
        )
    },
}


_OVER_ITEMS = frozenset("map select reject selectattr rejectattr sort unique min max groupby".split())
_LAZY = frozenset("map select reject selectattr rejectattr unique items".split())


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    place = 1 if hasattr(function, "jinja_pass_arg") else 0  # where the value stands

    def run(*args: Any, **kwargs: Any) -> Any:
        step()
        if name in _OVER_ITEMS and not isinstance(args[place], Undefined):
            args = (*args[:place], _list(args[place]), *args[place + 1 :])
        found = function(*args, **kwargs)
        return _list(found) if name in _LAZY else found  # what these give step by step would run outside the count

    if place:
        run.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return run


TABLE: dict[str, Callable[..., Any]] = {name: _counted_filter(name, function) for name, function in _KNOWN.items()}
