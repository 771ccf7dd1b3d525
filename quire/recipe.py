"""Recipes: frozen dataclasses <-> TOML <-> `--key value`.

Strict both ways: an unknown key is an error that names the nearest one, a value of the wrong type is an error that names the type, and a
value outside a field's `usual` range is allowed with a warning that says the range. What `dumps` writes, `load` reads back equal.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from . import durable
from .errors import RecipeError, nearest

T = TypeVar("T")


class RecipeWarning(UserWarning):
    """A value that is allowed and rarely meant."""


def load(
    kind: type[T],
    path: Path | str | None = None,
    overrides: Sequence[str] = (),
    prog: str = "quire",
    usual: Callable[[T], Mapping[str, Any]] | None = None,
) -> T:
    """A recipe from a TOML file (or the defaults), with `--key value` overrides on top.

    usual: what is usual for a recipe like this one, as {dotted key: value}; it holds where neither the file nor an override says more.
    Raises RecipeError naming the key, the value, what is allowed and the nearest known key.
    """
    return over(kind, read(path) if path else {}, overrides, prog, usual, str(path))


def over(
    kind: type[T],
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    prog: str = "quire",
    usual: Callable[[T], Mapping[str, Any]] | None = None,
    where: str = "recipe",
) -> T:
    """`load` for the values of a file that was read already."""
    recipe = _override(from_dict(kind, dict(values), where), overrides, prog)
    chosen = usual(recipe) if usual else {}
    if chosen:
        recipe = _override(from_dict(kind, above(values, chosen), where), overrides, prog)
    check_usual(recipe)
    return recipe


def above(values: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with the dotted keys of `below` in every place that `values` leaves open."""
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for key, value in below.items():
        *tables, name = key.split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place.setdefault(name, value)
    return found


def read(path: Path | str) -> dict[str, Any]:
    """The tables of a TOML file as they stand there. Raises RecipeError for a file that is none."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path} is not TOML: {error}") from error


def override(recipe: T, overrides: Sequence[str], prog: str = "quire") -> T:
    """`recipe` with command-line options over it. `--help` prints every key with its default and leaves."""
    recipe = _override(recipe, overrides, prog)
    check_usual(recipe)
    return recipe


def _override(recipe: T, overrides: Sequence[str], prog: str) -> T:
    if not overrides:
        return recipe
    import tyro

    kind: type[T] = type(recipe)
    return tyro.cli(kind, prog=prog, args=[_dashes(word) for word in overrides], default=recipe)


def _dashes(word: str) -> str:
    """--train.batch_size and --train.batch-size are the same key."""
    if not word.startswith("--"):
        return word
    key, sep, value = word.partition("=")
    return key.replace("_", "-") + sep + value


def from_dict(kind: type[T], values: dict[str, Any], where: str = "recipe") -> T:
    """Builds a frozen dataclass from plain data, strictly. `where` goes into the messages."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key '{key}'.{nearest(key, list(fields))} Known here: {', '.join(fields)}.")
    return kind(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise RecipeError(f"{where} is a table, and {value!r} is not one; write it as [{where.split(': ')[-1]}]")
        return from_dict(hint, value, where)
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in inside:
            close = nearest(str(value), [str(choice) for choice in inside])
            raise RecipeError(f"{where} = {value!r} is not one of {', '.join(map(repr, inside))}.{close}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where} = {value!r} must be a list")
        items = [inside[0]] * len(value) if inside[-1] is Ellipsis else list(inside)
        if len(items) != len(value):
            raise RecipeError(f"{where} = {value!r} must hold {len(items)} values")
        return tuple(_convert(item, part, where) for item, part in zip(items, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where} = {value!r} must be of type {getattr(hint, '__name__', hint)}, not {type(value).__name__}")
    return value


def check_usual(recipe: Any, prefix: str = "") -> None:
    """Warns of each value that lies outside its field's usual range, unless whoever reads the recipe refuses it anyway."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            check_usual(value, f"{prefix}{field.name}.")
        elif "usual" in field.metadata:
            low, high = field.metadata["usual"]
            if value != field.default and not low <= value <= high and value > field.metadata.get("above", -math.inf):
                warnings.warn(f"{prefix}{field.name} = {value} lies outside the usual range {low} to {high}", RecipeWarning, stacklevel=3)


def replace(recipe: T, key: str, value: Any) -> T:
    """A copy with one dotted key changed: replace(recipe, 'train.steps', 100)."""
    head, _, rest = key.partition(".")
    if rest:
        value = replace(getattr(recipe, head), rest, value)
    return dataclasses.replace(recipe, **{head: value})  # type: ignore[type-var]


def get(recipe: Any, key: str) -> Any:
    """The value of a dotted key: get(recipe, 'train.steps')."""
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


def dumps(recipe: Any) -> str:
    """TOML text with every value written out, tables last, so that it reads back equal."""
    plain: list[str] = []
    tables: list[str] = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            tables.append(f"[{field.name}]\n{dumps(value)}")
        else:
            plain.append(line(field.name, value) + "\n")
    return "".join(plain) + ("\n" if plain and tables else "") + "\n".join(tables)


def line(name: str, value: Any) -> str:
    """A key and its value as TOML has them."""
    return f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(f"\\u{ord(c):04X}" if ord(c) < 32 or ord(c) == 127 else c for c in quoted) + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def save(recipe: Any, path: Path | str) -> None:
    durable.write_text(path, dumps(recipe))
