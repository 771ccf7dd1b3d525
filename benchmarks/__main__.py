"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME ...` runs some, `python -m benchmarks all` runs every one.

Each is a file or folder here with a `main()` that prints the machine, the settings and the figures.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Name -> first line of the docstring, of the files that have a main()."""
    found = {}
    for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*/__init__.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = path.parent.name if path.name == "__init__.py" else path.stem
        if name != "__main__" and any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return dict(sorted(found.items()))


def run(names: list[str]) -> int:
    known = benchmarks()
    chosen = list(known) if names == ["all"] else names
    if unknown := [name for name in chosen if name not in known]:
        print(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    if not chosen:
        print("\n".join(f"{name:14}{text}" for name, text in known.items()))
    for name in chosen:
        print(f"== {name}: {known[name]}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()
        print()
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
