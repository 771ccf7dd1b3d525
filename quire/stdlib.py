"""The standard library as its source files tell it: which are its modules, and by what name they are used. Nothing is imported or run."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

_NO_LIBRARY = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "distutils", "site-packages", "dist-packages"}
# Modules that hold another one's text: there it is written in Python, and is called by the other name.
_CALLED = {"_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io", "_collections_abc": "collections.abc", "_pylong": ""}


def sources(root: Path) -> Iterator[Path]:
    """The Python files of a library, without its tests, tools and what was installed beside it; by name."""
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(name for name in inside if name not in _NO_LIBRARY and not name.startswith((".", "config-")))
        for name in sorted(names):
            file = Path(folder, name)
            if name.endswith(".py") and not name.startswith("_sysconfigdata") and file.is_file():
                yield file


def module(file: str) -> str:
    """The dotted name of a file's module; '' for one that is nobody's to use (a leading underscore)."""
    parts = file.removesuffix(".py").split("/")
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    name = _CALLED.get(name, name)
    return "" if any(part.startswith("_") for part in name.split(".") if part != "__future__") else name


def parsed(source: bytes) -> ast.Module | None:
    """None for what is no Python of this version."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
