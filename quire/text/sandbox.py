"""Where chat templates run: jinja2's immutable sandbox with a closed list of what a template may do, and a budget for all of it.

A template comes with a model folder, so it is someone else's program. It gets no file, no import, no attribute outside the lists below;
every loop step, call and filter is counted, every text and list has a largest size, and time is checked at each of them. Its strings are
`Traced`, and nothing that is allowed here loses the marks.

Behaviour follows what `transformers` gives templates: trim_blocks, lstrip_blocks, loop controls, `raise_exception`, `strftime_now`,
`tojson` without HTML escapes, and `{% generation %}` blocks.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import ext, filters, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from .traced import METHODS, Traced, all_marks, as_traced, joined, plain, shown, to_json

LARGEST_SOURCE = 64 * 1024  # characters
LARGEST_TEXT = 2**20  # characters
LARGEST_TOTAL = 2**25  # characters of all texts made on the way
LARGEST_LIST = 100_000  # items, those inside items included
LARGEST_STEPS = 200_000
SECONDS = 0.2  # of this thread's processor time, so that a busy machine refuses nothing


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


_BUDGET: contextvars.ContextVar[Budget | None] = contextvars.ContextVar("budget", default=None)


def _step() -> None:
    budget = _BUDGET.get()
    if budget is not None:
        budget.step()


def _text(size: int) -> None:
    """Allows one more text of `size` characters, or not."""
    if size > LARGEST_TEXT:
        raise BudgetError(f"a text of {size:,} characters where {LARGEST_TEXT:,} are the most")
    budget = _BUDGET.get()
    if budget is not None:
        budget.spend(size)


def _items(size: int) -> None:
    if size > LARGEST_LIST:
        raise BudgetError(f"a list of {size:,} items where {LARGEST_LIST:,} are the most")


def _weighed(value: Any) -> Any:
    """The value, unless it holds too many items: `[l, l]` of `[l, l]` is small in memory and endless to print or compare."""
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        inside = [*item.keys(), *item.values()] if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
        count += len(inside)
        _items(count)
        waiting.extend(inside)
    return value


def printed(value: Any) -> str:
    """What `{{ value }}` writes: text, numbers, and lists of them. Anything else would show the inside of this program."""
    if isinstance(value, dict | list | tuple):
        _weighed(value)
    elif not isinstance(value, str | int | float | Undefined | None):
        raise TypeError(f"a {type(value).__name__} cannot be printed")
    text = shown(value)
    _text(len(text))
    return text


class _Counted(list[Any]):
    """A list whose every step in a loop is counted."""

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            _step()
            yield item


class _Generation(ext.Extension):
    """{% generation %} ... {% endgeneration %}: what the assistant writes."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Callable[[], str]) -> str:
        return as_traced(caller()).trained()


class _Code(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        # `~`: jinja's own would join plain strings.
        self.write("environment.concat(map(environment.finalize, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def visit_List(self, node: nodes.List, frame: Any) -> None:
        self._weighed(super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:
        # A tuple may also be a target of an assignment.
        if node.ctx == "load":
            self._weighed(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:
        self._weighed(super().visit_Dict, node, frame)

    def _weighed(self, visit: Callable[[Any, Any], None], node: nodes.Node, frame: Any) -> None:
        self.write("environment.weighed(")
        visit(node, frame)
        self.write(")")


_REFUSED = {
    nodes.EvalContextModifier: "{% autoescape %}",
    nodes.Include: "{% include %}",
    nodes.Import: "{% import %}",
    nodes.FromImport: "{% from ... import %}",
    nodes.Extends: "{% extends %}",
}


class Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _Code
    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=printed, extensions=[_Generation, ext.LoopControlExtension]
        )
        self.filters = {name: _counted_filter(name, function) for name, function in _FILTERS.items()}
        self.globals = dict(_GLOBALS)

    # -- text ----------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what was printed; jinja calls this wherever a template's output is put together."""
        listed = list(parts)
        _text(sum(map(len, listed)))
        return joined(listed)

    weighed = staticmethod(_weighed)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str):
            if attribute not in METHODS:
                return self.unsafe_undefined(obj, attribute) if hasattr(obj, attribute) else self.undefined(obj=obj, name=attribute)
            return _bounded(as_traced(obj), attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        _step()
        if isinstance(obj, str) and isinstance(argument, str):
            return self.getattr(obj, argument)
        found = super().getitem(obj, argument)
        if isinstance(found, str):
            _text(len(found))
        return found

    # -- what may be reached, called and computed --------------------------------------------------------------------------------------

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, dict):
            return attr in ("items", "keys", "values", "get")
        if isinstance(obj, list | tuple):
            return attr in ("index", "count")
        return isinstance(obj, LoopContext | Namespace) and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _step()
        return super().call(__context, __obj, *args, **kwargs)

    def is_safe_callable(self, obj: Any) -> bool:
        return not isinstance(obj, type) and super().is_safe_callable(obj)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _step()
        return _BINARY[operator](left, right)

    @staticmethod
    def counted(items: Any) -> _Counted:
        """What a loop runs over."""
        found = _Counted()
        for item in items:
            _step()
            found.append(item)
        _items(len(found))
        return found

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for kind, tag in _REFUSED.items():
            if tree.find(kind) is not None:
                raise SecurityError(f"{tag} is not allowed in a chat template")
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [loop.iter], [], None, None)
        return tree

    def run(self, template: jinja2.Template, variables: Mapping[str, Any], budget: Budget) -> str:
        """What the template prints, `Traced` or plain."""
        token = _BUDGET.set(budget)
        try:
            return self.concat(template.root_render_func(template.new_context(dict(variables))))
        finally:
            _BUDGET.reset(token)


def _bounded(text: Traced, name: str) -> Callable[..., Any]:
    """A method of a string, counted, and refused before it builds more than is allowed."""
    method = getattr(text, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "join" and args:
            args = (_strings(args[0], len(text)),)
        elif name == "replace" and len(args) >= 2:
            found = text.count(args[0])
            _text(len(text) + found * len(args[1]))
        elif name in ("split", "rsplit", "splitlines"):
            _items(len(getattr(plain(text), name)(*args, **kwargs)))
            _text(len(text))
        else:
            _text(len(text))
        return method(*args, **kwargs)

    return call


def _strings(items: Any, gap: int) -> list[str]:
    """The items of an iterable as strings, when they fit into one text with `gap` characters between them."""
    parts, size = list[str](), 0
    for item in items:
        _step()
        if not isinstance(item, str):
            raise TypeError(f"strings can be joined, not {type(item).__name__}")
        size += len(item) + gap
        if size > LARGEST_TEXT:
            break
        parts.append(item)
    _text(size)
    return parts


# -- operators -------------------------------------------------------------------------------------------------------------------


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        _text(len(left) + len(right))
        return joined((left, right))
    return _small(_weighed(left + right))


def _times(left: Any, right: Any) -> Any:
    for many, count in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(count, int):
            (_text if isinstance(many, str) else _items)(len(many) * max(0, count))
    return _small(_weighed(left * right))


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise SecurityError("formatting a string with % is not allowed in a chat template; use ~ to join")
    return left % right


def _power(left: Any, right: Any) -> Any:
    if not all(isinstance(number, int | float) and abs(number) <= 1024 for number in (left, right)) or abs(right) > 64:
        raise BudgetError(f"a power of {left!r} by {right!r}")
    return left**right


def _small(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 1024:
        raise BudgetError("a number of more than 1,024 bits")
    return value


_BINARY: dict[str, Callable[[Any, Any], Any]] = {"+": _add, "*": _times, "%": _remainder, "**": _power}


# -- functions -------------------------------------------------------------------------------------------------------------------


def _raise_exception(message: Any = "") -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    _text(len(layout) * 256)  # the most that strftime makes of a layout
    budget = _BUDGET.get()
    now = budget.now if budget is not None else datetime.now()
    return now.strftime(plain(layout))


def _range(*bounds: int) -> range:
    found = range(*bounds)
    _items(len(found))
    return found


def _dict(*items: Any, **named: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = _weighed(dict(*items, **named))
    return found


def _namespace(*items: Any, **named: Any) -> Namespace:
    values = _dict(*items, **named)
    for name in values:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace may not hold the name {name!r}")
    return Namespace(values)


_GLOBALS: dict[str, Callable[..., Any]] = {
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
    "range": _range,
    "dict": _dict,
    "namespace": _namespace,
}


# -- filters ---------------------------------------------------------------------------------------------------------------------


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if (indent if isinstance(indent, int) else len(indent or "")) > 16:
        raise BudgetError(f"a JSON indent of {indent!r}")
    pair = None if separators is None else (plain(separators[0]), plain(separators[1]))
    text = to_json(_weighed(value), bool(ensure_ascii), indent, pair, bool(sort_keys))
    _text(len(text))
    return text


@jinja2.pass_eval_context
def _join(context: Any, items: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        items = map(filters.make_attrgetter(context.environment, attribute), items)
    between = printed(d)
    parts = _strings(map(printed, items), len(between))
    return as_traced(between).join(parts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = as_traced(printed(text)), printed(old), printed(new)
    result: str = _bounded(text, "replace")(old, new, -1 if count is None else count)
    return result


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    space = " " * min(width, LARGEST_TEXT) if isinstance(width, int) else width
    lines = joined((printed(text), "\n")).splitlines()
    _text(len(text) + len(lines) * (len(space) + 1))
    parts: list[str] = []
    for number, line in enumerate(lines):
        parts += ["\n" if number else "", space if (first if number == 0 else blank or line) else "", line]
    return joined(parts)


def _sum(items: Any, attribute: str | None = None, start: int = 0) -> Any:
    total: Any = start
    for item in items:
        _step()
        number = item if attribute is None else item[attribute]
        if not isinstance(number, int | float):
            raise TypeError(f"numbers can be added up, not {type(number).__name__}")
        total = _small(total + number)
    return total


def _safe(value: Any) -> Any:
    """Nothing is escaped, so there is nothing to switch off."""
    return value


def _title(text: Any) -> str:
    found = printed(text)
    whole = filters.do_title(plain(found))
    marks = all_marks(found)
    return Traced(whole, bytes([marks]) * len(whole)) if marks else whole


def _list(value: Any) -> list[Any]:
    return list(Sandbox.counted(value))


_FILTERS: dict[str, Callable[..., Any]] = {
    "tojson": _tojson,
    "join": _join,
    "replace": _replace,
    "indent": _indent,
    "sum": _sum,
    "safe": _safe,
    "title": _title,
    "list": _list,
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
            *("default", "d", "first", "last", "items", "dictsort", "sort", "unique", "min", "max", "abs", "round", "int", "float"),
            *("map", "select", "reject", "selectattr", "rejectattr", "groupby"),
        )
    },
}


_OVER_ITEMS = frozenset("map select reject selectattr rejectattr sort unique min max groupby".split())
_LAZY = frozenset("map select reject selectattr rejectattr unique items".split())


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    place = 1 if hasattr(function, "jinja_pass_arg") else 0  # where the value stands

    def run(*args: Any, **kwargs: Any) -> Any:
        _step()
        if name in _OVER_ITEMS and not isinstance(args[place], Undefined):
            args = (*args[:place], _list(args[place]), *args[place + 1 :])
        found = function(*args, **kwargs)
        return _list(found) if name in _LAZY else found  # what these give step by step would run outside the count

    if place:
        run.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return run
