"""Where chat templates run: jinja2's immutable sandbox with a closed list of what a template may do, and a budget for all of it.

A template comes with a model folder, so it is someone else's program. It gets no file, no import, no attribute outside the lists below;
every loop step, call and filter is counted, every text and list has a largest size, and time is checked at each of them. Its strings are
`Traced`, and nothing that is allowed here loses the marks.

Behaviour follows what `transformers` gives templates: trim_blocks, lstrip_blocks, loop controls, `raise_exception`, `strftime_now`,
`tojson` without HTML escapes, and `{% generation %}` blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import ext, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from . import budget
from .budget import BUDGET, Budget, BudgetError, bounded, items_made, printed, small, step, text_made, weighed
from .filters import TABLE
from .traced import METHODS, as_traced, joined, plain


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
        self.filters = dict(TABLE)
        self.globals = dict(_GLOBALS)

    # -- text ----------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what was printed; jinja calls this wherever a template's output is put together."""
        listed = list(parts)
        text_made(sum(map(len, listed)))
        return joined(listed)

    weighed = staticmethod(weighed)
    counted = staticmethod(budget.counted)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str):
            if attribute not in METHODS:
                return self.unsafe_undefined(obj, attribute) if hasattr(obj, attribute) else self.undefined(obj=obj, name=attribute)
            return bounded(as_traced(obj), attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        step()
        if isinstance(obj, str) and isinstance(argument, str):
            return self.getattr(obj, argument)
        found = super().getitem(obj, argument)
        if isinstance(found, str):
            text_made(len(found))
        return found

    # -- what may be reached, called and computed --------------------------------------------------------------------------------------

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, dict):
            return attr in ("items", "keys", "values", "get")
        if isinstance(obj, list | tuple):
            return attr in ("index", "count", "grouper", "list")  # the last two: what `groupby` gives
        return isinstance(obj, LoopContext | Namespace) and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        step()
        return super().call(__context, __obj, *args, **kwargs)

    def is_safe_callable(self, obj: Any) -> bool:
        return not isinstance(obj, type) and super().is_safe_callable(obj)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        step()
        return _BINARY[operator](left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for kind, tag in _REFUSED.items():
            if tree.find(kind) is not None:
                raise SecurityError(f"{tag} is not allowed in a chat template")
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [loop.iter], [], None, None)
        return tree

    def run(self, template: jinja2.Template, variables: Mapping[str, Any], allowed: Budget) -> str:
        """What the template prints, `Traced` or plain."""
        token = BUDGET.set(allowed)
        try:
            return self.concat(template.root_render_func(template.new_context(dict(variables))))
        finally:
            BUDGET.reset(token)


# -- operators -------------------------------------------------------------------------------------------------------------------


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        text_made(len(left) + len(right))
        return joined((left, right))
    return small(weighed(left + right))


def _times(left: Any, right: Any) -> Any:
    for many, count in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(count, int):
            (text_made if isinstance(many, str) else items_made)(len(many) * max(0, count))
    return small(weighed(left * right))


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise SecurityError("formatting a string with % is not allowed in a chat template; use ~ to join")
    return left % right


def _power(left: Any, right: Any) -> Any:
    if not all(isinstance(number, int | float) and abs(number) <= 1024 for number in (left, right)) or abs(right) > 64:
        raise BudgetError(f"a power of {left!r} by {right!r}")
    return left**right


_BINARY: dict[str, Callable[[Any, Any], Any]] = {"+": _add, "*": _times, "%": _remainder, "**": _power}


# -- functions -------------------------------------------------------------------------------------------------------------------


def _raise_exception(message: Any = "") -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    text_made(len(layout) * 256)  # the most that strftime makes of a layout
    allowed = BUDGET.get()
    now = allowed.now if allowed is not None else datetime.now()
    return now.strftime(plain(layout))


def _range(*bounds: int) -> range:
    found = range(*bounds)
    items_made(len(found))
    return found


def _dict(*items: Any, **named: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = weighed(dict(*items, **named))
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
