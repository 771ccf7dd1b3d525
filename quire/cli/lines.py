"""Rows for every verb that does something with texts: from arguments, a file or standard input; lines or JSONL.

A line ends at a line feed (a carriage return before it belongs to the ending); other separators of Unicode are text. A file is JSONL when
its name says so (.jsonl, .ndjson, .json), and whatever its name when its first line is an object with one of the verb's fields. Of an
object a verb reads its own fields; the others are passed through to the answer. A line that cannot be read is an error with its number.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tyro

from ..durable import storage
from ..errors import DataError, RecipeError, nearest
from ..types import Long as WayToCut
from ..types import Message

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
# With a constructor, the word None is a text or a file as any other; tyro alone would take it as "not given".
PathOption = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="", constructor=Path)]
Texts = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT ...]", help_behavior_hint="")]
Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="", constructor=str)]
Long = Annotated[str, tyro.conf.arg(metavar="error|cut|head-tail", help_behavior_hint="")]

LARGEST_LINE = 1 << 24  # bytes: longer than any context, shorter than what makes a machine stand still
LARGEST_INPUT = 1 << 29
_JSONL = (".jsonl", ".ndjson", ".json")
_MARK = "\ufeff".encode()  # which some editors put at the beginning of a file
Options = TypeVar("Options")
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class Files:
    """Where rows come from and go to."""

    file: PathOption = None
    """Read a file, '-' is standard input: one text a line, or JSONL if its name (.jsonl) or its first line (an object) says so."""
    out: PathOption = None
    """Write to a file, whole or not at all; a name that ends in .jsonl gets JSON lines."""
    json: Flag = False
    """JSON lines, with every field of the input that was not read."""
    dry_run: Flag = False
    """Read everything and count its tokens, and do no more."""

    @property
    def as_json(self) -> bool:
        return self.json or (self.out is not None and self.out.suffix in _JSONL)

    def target(self) -> Path | None:
        """Where --out leads. Raises RecipeError for what is no file and would be replaced by one, and for the file that is read."""
        if self.out is None:
            return None
        with storage(self.out, "write"):
            place = self.out.resolve()
            if place.is_dir():
                raise RecipeError(f"--out {self.out} is a folder; give the name of a file")
            if place.exists() and not place.is_file():
                raise RecipeError(f"--out {self.out} is a device or a pipe, not a file; leave --out out and write > {self.out}")
            if self.file is not None and place.exists() and self.file.exists() and place.samefile(self.file):
                raise RecipeError(f"--out {self.out} is the file that is read; give another name")
        return place


@dataclass(frozen=True)
class Machine:
    """How a model is opened."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    quant: Annotated[Literal["int8", "int4"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Pack a decoder's weights as int8 or int4: less memory, faster, a little less exact."""
    verify: Flag = False
    """Hash every file of the model first."""
    adapter: PathOption = None
    """A folder with an adapter of this model (LoRA, a soft prompt), of Quire or PEFT."""


FilesOption = Annotated[Files, tyro.conf.arg(name="")]
MachineOption = Annotated[Machine, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Fields:
    """What a verb reads. A plain line is `main`; `beside` stands with it, from JSONL or from an option. Both may have aliases in JSONL.

    given: the option's value for rows without a `beside` of their own. needed: a row without any is an error. turns: a row may have
    `messages`, a conversation, in place of `main`.
    """

    main: tuple[str, ...] = ("text", "source")
    beside: tuple[str, ...] = ()
    given: str | None = None
    needed: bool = False
    turns: bool = False


@dataclass(frozen=True)
class Row:
    """One thing to do: `text` and what stands `beside` it; `rest` are the fields that are passed through; `where` names it in errors.

    turns: a conversation; `text` is then what is said in it.
    """

    text: str
    beside: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    turns: tuple[Message, ...] = ()


def parse(options: type[Options], verb: str, argv: list[str], description: str | None) -> Options:
    """The options of a verb; `--help` shows `description`, which may be a docstring, indented as docstrings are."""
    told = wrapped(description or "")
    parsed: Options = tyro.cli(options, prog=f"quire {verb}", args=argv, description=told, config=(tyro.conf.FlagCreatePairsOff,))
    return parsed


def wrapped(description: str, columns: int = 80) -> str:
    """Its paragraphs in lines of at most so many columns. tyro joins lines that begin with a letter, so others have an indent."""
    parts = [" ".join(part.splitlines()) for part in inspect.cleandoc(description).split("\n\n")]
    return "\n\n".join(textwrap.fill(part, columns, subsequent_indent="  ", break_on_hyphens=False) for part in parts)


def at_least(option: str, value: int | None, least: int, also: str = "") -> None:
    """Raises RecipeError for a number below the least one; None was not given."""
    if value is not None and value < least:
        raise RecipeError(f"{option} is {value}; allowed is {least}{also} and more")


def chosen(option: str, value: str, allowed: Sequence[Choice]) -> Choice | None:
    """The value among those allowed, None for ''. Raises RecipeError for any other. (tyro takes 'None' where one is optional.)"""
    for one in allowed:
        if one == value:
            return one
    if value:
        raise RecipeError(f"{option} is {value!r}; allowed: {', '.join(allowed)}.{nearest(value, list(allowed))}")
    return None


def ways_to_cut(value: str) -> WayToCut | None:
    """What --long says; None for '': as the model was trained."""
    return chosen("--long", value, get_args(WayToCut))


# -- reading -------------------------------------------------------------------------------------------------------------------------


def read(texts: Sequence[str], files: Files, fields: Fields, verb: str, whole: bool = False, every: bool = False) -> list[Row]:
    """The rows that a verb was given, in order. whole: plain text on standard input is one row, not one a line (`generate`). every: an
    empty line is an empty text, not left out (`embed`, whose rows are found again by their number).

    Raises RecipeError when nothing or two things were given, DataError for what cannot be read, StorageError for a file that is not there.
    """
    files.target()  # a place that cannot be written to is named before anything is read or opened
    if files.file is not None:
        if texts:
            raise RecipeError(f"give a {fields.main[0]} or --file, not both")
        if str(files.file) != "-":
            return _rows(_bounded(files.file), str(files.file), files.file.suffix.lower(), fields, every)
        return _standard_input(fields, verb, False, every)
    for text in texts:
        if text.endswith(_JSONL) and Path(text).is_file():
            raise RecipeError(f"{text} is a file, and would be taken for a {fields.main[0]}; to read its rows: --file {text}")
    if list(texts) not in ([], ["-"]):
        return [_whole_row(text, fields, f"text {number}" if len(texts) > 1 else "") for number, text in enumerate(texts, 1)]
    return _standard_input(fields, verb, whole, every)


def _standard_input(fields: Fields, verb: str, whole: bool, every: bool) -> list[Row]:
    if sys.stdin.isatty():
        what = fields.main[0]
        raise RecipeError(f'there is no {what}. Give one: quire {verb} MODEL "a {what}", or --file PATH, or lines on standard input')
    raw = getattr(sys.stdin, "buffer", None)
    data = raw.read(LARGEST_INPUT + 1) if raw is not None else sys.stdin.read().encode("utf-8", "surrogateescape")
    if whole and not _is_jsonl(data, "standard input", "", fields):
        text = _text(data.removeprefix(_MARK), "standard input")
        return [_whole_row(text, fields, "standard input")]
    return _rows(data, "standard input", "", fields, every)


def text_of(path: Path) -> str:
    """A whole file as one text. Raises DataError when it is no UTF-8 or too large."""
    data = _bounded(path)
    if len(data) > LARGEST_LINE:
        raise DataError(f"{path} has more than {LARGEST_LINE >> 20} MiB, too much for one text.")
    return _text(data.removeprefix(_MARK), str(path))


def _bounded(path: Path) -> bytes:
    with storage(path, "read"), path.open("rb") as file:
        return file.read(LARGEST_INPUT + 1)


def _rows(data: bytes, origin: str, suffix: str, fields: Fields, every: bool) -> list[Row]:
    if len(data) > LARGEST_INPUT:
        raise DataError(f"{origin} has more than {LARGEST_INPUT >> 20} MiB; split it into parts.")
    jsonl = _is_jsonl(data, origin, suffix, fields)
    rows, empty = [], list[int]()
    for number, line in enumerate(_lines(data), 1):
        where = f"{origin}, line {number}"
        if len(line) > LARGEST_LINE:
            raise DataError(f"{where} has {len(line):,} bytes; allowed are {LARGEST_LINE:,}. Is it one text a line?")
        text = _text(line, where)
        if not text.strip():
            empty.append(number)
        elif empty and jsonl and every:
            raise DataError(f"{origin}, line {empty[0]} is empty, so rows and lines would differ. Delete it, or write {_example(fields)}")
        if text.strip() or (every and not jsonl):
            rows.append(_object_row(text, fields, where) if jsonl else _whole_row(text, fields, where))
    left_out = not every or jsonl
    if len(rows) == (0 if left_out else len(empty)):
        raise DataError(f"{origin} holds no text: it has no line with something in it.")
    if empty:
        many = f"{len(empty)} empty line{'s' * (len(empty) > 1)} of {origin}"
        tell(f"{many} left out" if left_out else f"{many} read as empty text, so that rows are found by the number of their line")
    return rows


def _lines(data: bytes) -> Iterator[bytes]:
    """Only a line feed ends a line: U+2028, U+0085, form feeds and the like belong to texts. The end of the file is no empty line."""
    data = data.removeprefix(_MARK)
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield data[start:end].removesuffix(b"\r")
        start = end + 1


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None


def _is_jsonl(data: bytes, origin: str, suffix: str, fields: Fields) -> bool:
    if suffix in _JSONL:
        return True
    first = next((line for line in _lines(data) if line.strip()), b"")
    if not first.lstrip().startswith(b"{") or len(first) > LARGEST_LINE:
        return False
    names = (*fields.main, *fields.beside, *(("messages",) if fields.turns else ()))
    try:
        value = json.loads(first)
        if any(name in value for name in names):
            return True
    except (ValueError, RecursionError):
        # A line of code may begin with a brace; one that names our fields was meant as JSON, and its error is worth reading.
        if not any(f'"{name}"'.encode() in first for name in names):
            return False
    # An object without our fields, or a broken one with them: a file that is plain by its name is read as such, but not without a word.
    if suffix == ".txt":
        tell(f"{origin} is read as plain text: its first line begins as JSON does, but is no object with the field '{fields.main[0]}'")
    return suffix != ".txt"


def _object_row(line: str, fields: Fields, where: str) -> Row:
    try:
        value = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise DataError(f"{where} is nested too deeply.") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}. Correct the line; all lines are objects where the first one is.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object; a row is one, as {_example(fields)}")
    main = next((name for name in fields.main if name in value), None)
    if fields.turns and main is None and "messages" in value:
        return _complete(_turns_row(value, where), fields)
    if main is None:
        found = ", ".join(map(str, list(value)[:8])) or "none"
        raise DataError(f"{where} has no field '{fields.main[0]}'; its fields are {found}. A row looks like {_example(fields)}")
    text, beside = _string(value.pop(main), main, where), fields.given
    other = next((name for name in fields.beside if value.get(name) is not None), None)
    if other is not None:
        beside = _string(value.pop(other), other, where)
    return _complete(Row(text, beside, value, where), fields)


def _turns_row(value: dict[str, Any], where: str) -> Row:
    from ..text.library import messages_of

    try:
        turns = tuple(messages_of(value.pop("messages")))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return Row("\n".join(turn.content for turn in turns), None, value, where, turns)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field '{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: the field '{name}' is {json.dumps(value)[:60]}; it must be a text in quotes.")
    return value


def _whole_row(text: str, fields: Fields, where: str) -> Row:
    return _complete(Row(text, fields.given, {}, where), fields)


def _complete(row: Row, fields: Fields) -> Row:
    if fields.needed and row.beside is None:
        what = fields.beside[0]
        raise DataError(f"{row.where or 'text 1'} has no {what}: give one for all with --{what}, or rows as {_example(fields)}")
    for text in (row.text, row.beside or ""):
        # isascii is free; only other texts can hold half a character (a lone surrogate, as "\ud83d" in JSON)
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise DataError(f"{row.where} holds half a character (a lone surrogate), which no tokenizer reads. Write the character whole.")
    return row


def _example(fields: Fields) -> str:
    names = [fields.main[0], *fields.beside[:1]]
    return json.dumps(dict.fromkeys(names, "..."))


def tell(note: str) -> None:
    """A note to the user, beside the output."""
    print(f"quire: {note}", file=sys.stderr)
