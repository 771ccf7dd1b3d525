"""Questions and answers about the standard library, which every machine can make from its own: data to tune a first chat model on.

What does it do, which parameters does it take, what is its signature, where is it, what does it derive from: of every public module,
class, function and method that is written in Python, read from the source with `ast`. Nothing is imported or run, and chance has no part
in it: names are taken in their order, and the wording of a question is chosen by the hash of the name.

A held-out answer must not be one that was learned. So all rows about objects of the same last name are one group (`Row.group`), which no
split divides: `find_module` of one module says almost what that of another says. And no two rows have the same answer: of those that
differ in case, digits and punctuation alone the first by name stays.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DataError
from ..stdlib import module, parsed, sources
from ..tasks.tuning.schemas import Chat
from ..types import Message
from .sources import Document, document

NAME = "pydoc"
LONGEST = 40  # words of an answer
_LONGEST_SIGNATURE = 160  # characters
_SHORTEST = 3  # words of a sentence that says something

# Two are used as os.path, one is the same again for another system, and the codecs are one text with another table each.
_CALLED = {"genericpath": "os.path", "posixpath": "os.path", "ntpath": ""}
_ALIKE = "encodings."

Kind = Literal["module", "class", "function", "method", "property"]

_DOES = {
    "module": ("What is the module {name} for?", "What is in the module {name}?", "Tell me about the module {name}."),
    "class": ("What is {name}?", "What is the class {name} for?", "Describe the class {name}."),
    "function": ("What does {name} do?", "What is {name} for?", "Explain {name} in a sentence."),
    "method": ("What does {name} do?", "What is the method {name} for?", "Explain the method {name} in a sentence."),
    "property": ("What is {name}?", "What does the property {name} tell?", "Explain the property {name} in a sentence."),
}
_TAKES = ("What are the parameters of {name}?", "Which parameters does {name} take?", "What can I pass to {name}?")
_SIGNATURE = ("What is the signature of {name}?", "How is {name} called?", "Show me the signature of {name}.")
_MODULE = ("Which module has {name}?", "Where do I find {name}?", "From which module do I import {name}?")
_CLASS = ("Which class has the method {name}?", "Whose method is {name}?", "To which class does the method {name} belong?")
_BASES = ("What does {name} derive from?", "What is the base class of {name}?", "Which class does {name} extend?")


@dataclass(frozen=True)
class Thing:
    """What a source file defines, without the tree of that file. arguments: what a caller gives; None where that is not told here."""

    name: str
    kind: Kind
    text: str  # its docstring
    arguments: ast.arguments | None = None
    bases: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def within(self) -> str:
        return self.name.rpartition(".")[0]


def rows(root: Path | None = None) -> Iterator[Chat]:
    """One question and one answer each, in the order of the names. root: another folder of Python files.

    Raises DataError where there is no source to read.
    """
    found = things(Path(root or sysconfig.get_path("stdlib")))
    modules = {thing.name for thing in found if thing.kind == "module"}
    homes = Counter(thing.last for thing in found if thing.within in modules and thing.kind != "module")
    owners = Counter(thing.last for thing in found if thing.kind == "method")
    answers: set[str] = set()
    for thing in found:
        for wordings, asked, answer in _asked(thing, homes if thing.within in modules else Counter(), owners):
            folded = " ".join(re.findall(r"[a-z]+", answer.lower()))
            if not folded or len(answer.split()) > LONGEST or folded in answers:
                continue
            answers.add(folded)
            question = wordings[_chance(f"{thing.name} {wordings[0]}") % len(wordings)].format(name=asked)
            yield Chat((Message("user", question), Message("assistant", answer)), where=thing.name, group=thing.last)


def documents(root: Path | None = None) -> Iterator[Document]:
    """The rows as lines of a file of conversations, under the names of what they are about."""
    for row in rows(root):
        messages = [{"role": turn.role, "content": turn.content} for turn in row.messages]
        yield document(json.dumps({"messages": messages}, ensure_ascii=False), row.where, "jsonl", NAME)


def _chance(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def _asked(thing: Thing, homes: Counter[str], owners: Counter[str]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(wordings, the name that is asked about, answer) of all that can be asked; an answer may be empty."""
    yield _DOES[thing.kind], thing.name, summary(thing.text)
    if thing.arguments is not None:
        yield _TAKES, thing.name, takes(thing.last, thing.arguments)
        yield _SIGNATURE, thing.name, signature(thing.last, thing.arguments)
    if thing.kind in ("class", "function") and homes[thing.last] == 1:
        yield _MODULE, thing.last, f"{thing.last} is in the module {thing.within}."
    if thing.kind == "method" and owners[thing.last] == 1:
        yield _CLASS, thing.last, f"{thing.last} is a method of {thing.within}."
    if thing.bases:
        yield _BASES, thing.name, f"{thing.last} derives from {_listed(list(thing.bases))}."


# -- what there is ------------------------------------------------------------------------------------------------------------------


def things(root: Path) -> list[Thing]:
    """All that is public below a folder, by name; of what is defined several times (for several systems) the first."""
    found: dict[str, Thing] = {}
    for file in sources(root):
        name = module(file.relative_to(root).as_posix())
        name = _CALLED.get(name, name)
        tree = parsed(file.read_bytes()) if name and not name.startswith(_ALIKE) else None
        for thing in _of_module(name, tree) if tree is not None else ():
            found.setdefault(thing.name, thing)
    if not found:
        raise DataError(f"{root} holds no Python source (an embedded Python?), so there is nothing to ask about. Give data of your own.")
    return [found[name] for name in sorted(found)]


def _of_module(name: str, tree: ast.Module) -> Iterator[Thing]:
    yield Thing(name, "module", ast.get_docstring(tree) or "")
    yield from _defined(tree, name, in_class=False)


def _defined(inside: ast.AST, owner: str, in_class: bool) -> Iterator[Thing]:
    """What is defined in a module or class, through `if` and `try`; not what functions hide."""
    for node in ast.iter_child_nodes(inside):
        if isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _defined(node, owner, in_class)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{owner}.{node.name}"
            made = [one for wanted in ("__init__", "__new__") for one in node.body if getattr(one, "name", "") == wanted]
            arguments = _arguments(made[0].args, bound=True) if made and isinstance(made[0], ast.FunctionDef) else None
            yield Thing(name, "class", ast.get_docstring(node) or "", arguments, _bases(node))
            yield from _defined(node, name, in_class=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield from _callable(node, f"{owner}.{node.name}", in_class)


def _callable(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, in_class: bool) -> Iterator[Thing]:
    """What a `def` defines; nothing where its decorators make something else of it (setters, overloads)."""
    marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    text = ast.get_docstring(node) or ""
    if marks & {"setter", "deleter", "overload"}:
        return
    if marks & {"property", "cached_property", "abstractproperty", "DynamicClassAttribute"}:
        yield Thing(name, "property", text)
    else:
        yield Thing(name, "method" if in_class else "function", text, _arguments(node.args, in_class and "staticmethod" not in marks))


def _arguments(given: ast.arguments, bound: bool) -> ast.arguments | None:
    """Without annotations, and without `self` where it is `bound`; None where that is somewhere in *args."""
    first, then = [ast.arg(one.arg) for one in given.posonlyargs], [ast.arg(one.arg) for one in given.args]
    if bound and not first and not then:
        return None
    if bound:
        del (first or then)[0]
    places = len(first) + len(then)
    return ast.arguments(
        posonlyargs=first,
        args=then,
        vararg=ast.arg(given.vararg.arg) if given.vararg else None,
        kwonlyargs=[ast.arg(one.arg) for one in given.kwonlyargs],
        kw_defaults=given.kw_defaults,
        kwarg=ast.arg(given.kwarg.arg) if given.kwarg else None,
        defaults=given.defaults[-places:] if places else [],
    )


def _bases(node: ast.ClassDef) -> tuple[str, ...]:
    """What a class names as its bases; none where one of them is no name that a reader can use."""
    bases = tuple(base for base in map(ast.unparse, node.bases) if base != "object")
    return bases if all(re.fullmatch(r"[A-Za-z][\w.]*", base) and "._" not in base for base in bases) else ()


# -- what is said of it -------------------------------------------------------------------------------------------------------------


# Where a sentence ends: behind its point and a quote or bracket after it, unless the point is of an abbreviation.
_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)(?<!\bcf\.)(?<!\bvs\.)(?<!\.\.\.)[\"')]?(?=\s+[A-Z\"'`(*])")
_ROLE = re.compile(r":(?:[a-z]+:)?[a-z]+:`[~!]?([^`<>]+)`")
# What does not read as one sentence: markup, code, lists, a second sentence that begins with a small letter.
_UNFIT = re.compile(r"::|>>>|->|https?:|@\w|\\|\$|\*\*\w| - |(?<!\be\.g)(?<!\bi\.e)(?<!\.\.)\.\)?\s|^[^a-z]*$|[^\x20-\x7e]")


def summary(text: str) -> str:
    """The first sentence of a docstring, as pydoc shows it, in one line; '' where its first paragraph does not begin with one."""
    text = _ROLE.sub(r"\1", " ".join(text.strip().split("\n\n")[0].split())).replace("``", "`")
    end = _END.search(text)
    sentence = text[: end.end()] if end else text
    if not sentence[:1].isalpha() or len(sentence.split()) < _SHORTEST or _UNFIT.search(sentence):
        return ""
    if re.match(r"[\w.]+\(", sentence) or any(sentence.count(a) != sentence.count(b) for a, b in ("()", "[]", "{}")):
        return ""  # a signature, or a sentence that was divided in the middle of something
    if sentence.count("`") % 2 or sentence.count('"') % 2:
        return ""
    if sentence.rstrip("\"')")[-1] in ".!?":
        return sentence[0].upper() + sentence[1:]
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence[-1].isalnum() or sentence[-1] in "`)'\"" else ""


def signature(name: str, arguments: ast.arguments) -> str:
    """As `inspect.signature` writes it, without annotations; '' where it is too long to be learned."""
    text = f"{name}({ast.unparse(arguments)})"
    return text if len(text) <= _LONGEST_SIGNATURE and text.isascii() else ""


def takes(name: str, arguments: ast.arguments) -> str:
    """The parameters in a sentence: those that must be given, those that may be."""
    places = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    must = places[: len(places) - len(arguments.defaults)]
    may = places[len(must) :]
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        (must if default is None else may).append(one.arg)
    if arguments.vararg:
        may.append("further arguments")
    if arguments.kwarg:
        may.append("further keywords")
    if not must and not may:
        return f"{name} takes no parameters."
    if not may:
        return f"{name} takes {_listed(must)}."
    return f"{name} takes {_listed(must)}, and optionally {_listed(may)}." if must else f"{name} optionally takes {_listed(may)}."


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
