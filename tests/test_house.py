"""The guards of the house: who may import whom, what no file may do, and how big files and functions may grow.

The table below is the rule; docs/architecture.md shows the same table to readers and must equal it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quire"

GROUND = ("types", "errors", "durable", "machine", "progress", "recipe", "hub", "minilm", "stdlib")

# (rows, what each of them may import beside itself). A dotted name allows that one module and nothing else of its folder.
TABLE: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("nn", "text", "metrics"), ("ground",)),
    (("native",), ("ground", "nn")),
    (("binding",), ("ground", "text")),
    (("families",), ("ground", "nn", "binding")),
    (("adapt",), ("ground", "nn", "native", "binding", "families")),
    (("decode",), ("ground", "nn", "text", "metrics")),
    (("tasks",), ("ground", "nn", "text", "metrics", "decode", "binding")),
    (("certify",), ("ground", "nn", "native", "text", "metrics", "binding", "families", "decode", "tasks")),
    (("data",), ("ground", "text", "tasks", "nn.batch")),
    (("train",), ("ground", "nn", "native", "text", "metrics", "binding", "families", "decode", "tasks", "certify", "data", "adapt")),
    (("engine",), ("ground", "nn", "native", "text", "metrics", "binding", "families", "decode", "tasks", "certify")),
    (
        ("model",),
        ("ground", "nn", "native", "text", "metrics", "binding", "families", "adapt", "decode", "tasks", "certify", "data", "engine"),
    ),
    (("serve",), ("ground", "nn.config", "text", "binding", "families", "tasks", "engine", "model")),
    (("report",), ("ground", "metrics")),
    (("search",), ("ground", "metrics")),
    (("cli", "__init__", "__main__"), ("everything",)),
]

# Folders and files that may be imported without torch being installed at all: `quire --help`, plans and tokenizers start at once.
TORCH_FREE = ("__init__", *GROUND, "text", "nn.config", "train.recipe", "cli.main", "binding", "serve.run", "tasks.tuning.schemas")

# Budgets of DESIGN's house style. A file or function that is over holds two ideas; an exception is named here with its reason.
FILE_LINES = 400
FUNCTION_LINES = 60
LARGE_FILES: dict[str, str] = {}
LARGE_FUNCTIONS: dict[str, str] = {}


@cache
def modules() -> dict[str, Path]:
    """'nn.attention' -> its file; packages under their own name ('nn'), the package itself under '__init__'."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def row_of(module: str) -> str:
    """The table's name for a module: its folder, its file, or 'ground'."""
    head = module.split(".")[0]
    return "ground" if head in GROUND else head


def imports(path: Path, module: str, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """(imported name, line). Names inside the package are relative to it ('nn.batch'), others keep theirs with a leading '!'.

    With `lazy` false, imports inside functions and under TYPE_CHECKING are left out: only what runs when the file is imported.
    """
    package = ["quire", *module.split(".")] if path.name == "__init__.py" else ["quire", *module.split(".")[:-1]]
    if module == "__init__":
        package = ["quire"]
    for node in _import_nodes(tree(path), lazy):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            # `from ..nn import batch` imports a module, `from ..nn.batch import Batch` a name: keep the longest that is a module.
            longer = [f"{prefix}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("quire.") in modules() else prefix for name in longer]
        for name in names:
            if name == "quire" or name.startswith("quire."):
                yield name.removeprefix("quire").removeprefix(".") or "__init__", node.lineno
            else:
                yield f"!{name}", node.lineno


def _import_nodes(inside: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(inside):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif lazy or not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _type_checking(node)):
            yield from _import_nodes(node, lazy)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def allowed(source: str, target: str) -> bool:
    """May a file of the module `source` import the module `target`?"""
    here, there = row_of(source), row_of(target)
    if here == there:
        return True
    for rows, may in TABLE:
        if here in rows:
            return "everything" in may or there in may or target in may
    return False


def rendered() -> str:
    """The table as docs/architecture.md shows it."""

    def names(parts: tuple[str, ...]) -> str:
        return ", ".join(part if part in ("ground", "everything") else f"`{part}`" for part in parts)

    lines = ["| file or folder | may import |", "|---|---|"]
    lines.append(f"| ground: {' '.join(f'`{name}`' for name in GROUND)} | one another without a circle, the standard library |")
    lines += [f"| {names(rows)} | {names(may)} |" for rows, may in TABLE]
    return "\n".join(lines)


@pytest.mark.parametrize("module", list(modules()))
def test_imports_follow_the_table(module: str) -> None:
    wrong = [
        f"{module}, line {line}, imports {target}, which the table in tests/test_house.py does not allow"
        for target, line in imports(modules()[module], module)
        if not target.startswith("!") and not allowed(module, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_guard_sees_a_wrong_arrow() -> None:
    assert not allowed("nn.attention", "text.tokenizer")
    assert not allowed("report.run", "train.run")
    assert not allowed("data.batches", "nn.transformer") and allowed("data.batches", "nn.batch")
    assert allowed("nn.attention", "errors") and allowed("cli.train", "train.run")
    assert not allowed("durable", "nn.config")


def test_nobody_imports_the_joining_places() -> None:
    for module, path in modules().items():
        if module.split(".")[0] in ("cli", "__init__", "__main__"):
            continue
        for target, line in imports(path, module):
            assert target.split(".")[0] not in ("cli", "__init__"), f"quire/{path.relative_to(PACKAGE)}:{line} imports {target}"


def test_every_module_has_a_row() -> None:
    known = {"ground", *(row for rows, _ in TABLE for row in rows)}
    present = {row_of(module) for module in modules()}
    assert present <= known, f"no row in the table for {sorted(present - known)}"
    assert known <= present, f"the table names what does not exist: {sorted(known - present)}"


def test_no_import_goes_in_a_circle() -> None:
    """Among the imports that run when a file is imported."""
    graph = {name: {target for target, _ in imports(path, name, lazy=False)} for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done or name not in graph:
            return
        for target in graph[name] - {name}:
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_torch_stays_out_of_the_light_modules() -> None:
    """Follows the imports that run at import time; tests/test_start.py looks at sys.modules as well."""
    files = modules()
    light = [name for name in files if any(name == row or name.startswith(f"{row}.") for row in TORCH_FREE)]
    for start in light:
        queue, seen = [(start, (start,))], set()
        while queue:
            name, trail = queue.pop()
            if name in seen or name not in files:
                continue
            seen.add(name)
            for target, line in imports(files[name], name, lazy=False):
                told = f"{' -> '.join(trail)} imports torch (line {line}); import it inside the function that needs it"
                assert target.split(".")[0] != "!torch", told
                queue.append((target, (*trail, target)))


def test_the_architecture_page_shows_this_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert rendered() in page, "docs/architecture.md must hold this table:\n" + rendered()


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "torch.load", "torch.save", "torch.hub.load", "yaml.load", "os.system", "os.popen"}


def offences(source: str, where: str) -> list[str]:
    """Ways to run code that came with data: loaders that unpickle, evaluation of text, a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{where}:{node.lineno} imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(f"{where}:{node.lineno} calls {name}")
            switches = [word for word in node.keywords if word.arg in ("shell", "allow_pickle", "trust_remote_code")]
            found += [f"{where}:{node.lineno} calls {name} with {word.arg}" for word in switches if ast.unparse(word.value) != "False"]
    return found


def test_nothing_here_runs_code_that_came_with_data() -> None:
    wrong = [line for module, path in modules().items() for line in offences(path.read_text(encoding="utf-8"), module)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "torch.load('x')",
        "eval('1')",
        "exec(text)",
        "import yaml",
        "numpy.load(p, allow_pickle=True)",
        "subprocess.run(c, shell=True)",
    ],
)
def test_the_guard_sees_each_offence(source: str) -> None:
    assert offences(source, "x.py")


def test_the_guard_lets_harmless_code_pass() -> None:
    assert offences("model.eval()\nast.parse(text)\nnumpy.load(p, allow_pickle=False)\ntorch.compile(f)", "x.py") == []


def test_files_are_named_after_ideas() -> None:
    poor = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base"}
    assert [str(path) for path in PACKAGE.rglob("*.py") if poor & set(path.stem.split("_"))] == []


def test_files_and_functions_stay_small() -> None:
    large = []
    for module, path in modules().items():
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > FILE_LINES and module not in LARGE_FILES:
            large.append(f"{module}: {lines} lines (at most {FILE_LINES})")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES and f"{module}.{node.name}" not in LARGE_FUNCTIONS:
                    large.append(f"{module}.{node.name}: {size} lines (at most {FUNCTION_LINES})")
    assert not large, "\n".join(large)


def test_every_file_says_what_it_is() -> None:
    files = {name: path for name, path in modules().items() if path.name != "__init__.py"}
    silent = [name for name, path in files.items() if not ast.get_docstring(tree(path))]
    assert not silent, f"no docstring at the top of {silent}"


if __name__ == "__main__":
    sys.stdout.write(rendered() + "\n")
