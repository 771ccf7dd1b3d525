"""Rows in, rows out, for every verb that does something with texts: arguments, a file or standard input; lines or JSONL.

A line ends at a line feed (a carriage return before it belongs to the ending); other separators of Unicode are text. A file is JSONL when
its name says so (.jsonl, .ndjson, .json), plain when its name says so (.txt), and otherwise JSONL when its first line is an object. Of an
object a verb reads its own fields; the others are passed through to the answer. A line that cannot be read is an error with its number.

Answers come in the order of the input, to standard output as they are found, or with --out into a file that appears whole or not at all.
"""

from __future__ import annotations

import inspect
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import tyro

from ..durable import storage, writing
from ..errors import ContextError, DataError, QuireError, RecipeError

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
PathOption = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Texts = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT ...]", help_behavior_hint="")]
Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Long = Literal["error", "cut"]

LARGEST_LINE = 1 << 24  # bytes: longer than any context, shorter than what makes a machine stand still
LARGEST_INPUT = 1 << 29
_JSONL = (".jsonl", ".ndjson", ".json")
_MARK = "\ufeff".encode()  # which some editors put at the beginning of a file
_PATIENCE = 1.0  # seconds before progress is shown
_SUSPECTS = 8
Found = TypeVar("Found")
Options = TypeVar("Options")


@dataclass(frozen=True)
class Files:
    """Where rows come from and go to."""

    file: PathOption = None
    """Read a file: one text a line, or JSONL; '-' is standard input."""
    out: PathOption = None
    """Write to a file, whole or not at all; a name that ends in .jsonl gets JSON lines."""
    json: Flag = False
    """JSON lines, with every field of the input that was not read."""
    dry_run: Flag = False
    """Read everything and count its tokens, and do no more."""

    @property
    def as_json(self) -> bool:
        return self.json or (self.out is not None and self.out.suffix in _JSONL)


@dataclass(frozen=True)
class Machine:
    """How a model is opened."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    verify: Flag = False
    """Hash every file of the model first."""


FilesOption = Annotated[Files, tyro.conf.arg(name="")]
MachineOption = Annotated[Machine, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Fields:
    """What a verb reads. A plain line is `main` (or an alias of it in JSONL); `beside` stands with it, from JSONL or from an option.

    given: the option's value for rows without a `beside` of their own. needed: a row without any is an error.
    """

    main: tuple[str, ...] = ("text", "source")
    beside: str | None = None
    given: str | None = None
    needed: bool = False


@dataclass(frozen=True)
class Row:
    """One thing to do: `text` and what stands `beside` it; `rest` are the fields that are passed through; `where` names it in errors."""

    text: str
    beside: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    where: str = ""


def parse(options: type[Options], verb: str, argv: list[str], description: str | None) -> Options:
    """The options of a verb; `--help` shows `description`, which may be a docstring, indented as docstrings are."""
    told = inspect.cleandoc(description or "")
    parsed: Options = tyro.cli(options, prog=f"quire {verb}", args=argv, description=told, config=(tyro.conf.FlagCreatePairsOff,))
    return parsed


# -- reading -------------------------------------------------------------------------------------------------------------------------


def read(texts: Sequence[str], files: Files, fields: Fields, verb: str, whole: bool = False) -> list[Row]:
    """The rows that a verb was given, in order. whole: plain text on standard input is one row, not one a line (`generate`).

    Raises RecipeError when nothing or two things were given, DataError for what cannot be read, StorageError for a file that is not there.
    """
    if files.file is not None:
        if texts:
            raise RecipeError(f"give a {fields.main[0]} or --file, not both")
        if str(files.file) != "-":
            return _rows(_bounded(files.file), str(files.file), files.file.suffix.lower(), fields)
        return _standard_input(fields, verb, False)
    if list(texts) not in ([], ["-"]):
        return [_whole_row(text, fields, f"text {number}" if len(texts) > 1 else "") for number, text in enumerate(texts, 1)]
    return _standard_input(fields, verb, whole)


def _standard_input(fields: Fields, verb: str, whole: bool) -> list[Row]:
    if sys.stdin.isatty():
        what = fields.main[0]
        raise RecipeError(f'there is no {what}. Give one: quire {verb} MODEL "a {what}", or --file PATH, or lines on standard input')
    raw = getattr(sys.stdin, "buffer", None)
    data = raw.read(LARGEST_INPUT + 1) if raw is not None else sys.stdin.read().encode("utf-8", "surrogateescape")
    if whole and not _is_jsonl(data, "", fields):
        text = _text(data.removeprefix(_MARK), "standard input")
        return [_whole_row(text, fields, "standard input")]
    return _rows(data, "standard input", "", fields)


def text_of(path: Path) -> str:
    """A whole file as one text. Raises DataError when it is no UTF-8 or too large."""
    data = _bounded(path)
    if len(data) > LARGEST_LINE:
        raise DataError(f"{path} has more than {LARGEST_LINE >> 20} MiB, too much for one text.")
    return _text(data.removeprefix(_MARK), str(path))


def _bounded(path: Path) -> bytes:
    with storage(path, "read"), path.open("rb") as file:
        return file.read(LARGEST_INPUT + 1)


def _rows(data: bytes, origin: str, suffix: str, fields: Fields) -> list[Row]:
    if len(data) > LARGEST_INPUT:
        raise DataError(f"{origin} has more than {LARGEST_INPUT >> 20} MiB; split it into parts.")
    jsonl = _is_jsonl(data, suffix, fields)
    rows, empty = [], 0
    for number, line in enumerate(_lines(data), 1):
        where = f"{origin}, line {number}"
        if len(line) > LARGEST_LINE:
            raise DataError(f"{where} has {len(line):,} bytes; allowed are {LARGEST_LINE:,}. Is it one text a line?")
        text = _text(line, where)
        if not text.strip():
            empty += 1
        else:
            rows.append(_object_row(text, fields, where) if jsonl else _whole_row(text, fields, where))
    if not rows:
        raise DataError(f"{origin} holds no text: it has no line with something in it.")
    if empty:
        tell(f"{empty} empty line{'s' * (empty > 1)} of {origin} left out")
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


def _is_jsonl(data: bytes, suffix: str, fields: Fields) -> bool:
    if suffix in (*_JSONL, ".txt"):
        return suffix != ".txt"
    first = next((line for line in _lines(data) if line.strip()), b"")
    if not first.lstrip().startswith(b"{") or len(first) > LARGEST_LINE:
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        # A line of code may begin with a brace; one that names our fields was meant as JSON, and its error is worth reading.
        return any(f'"{name}"'.encode() in first for name in (*fields.main, fields.beside or fields.main[0]))
    return isinstance(value, dict)


def _object_row(line: str, fields: Fields, where: str) -> Row:
    try:
        value = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise DataError(f"{where} is nested too deeply.") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}. Correct the line, or name the file .txt if its lines are plain text.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object; a row is one, as {_example(fields)}")
    main = next((name for name in fields.main if name in value), None)
    if main is None:
        found = ", ".join(map(str, list(value)[:8])) or "none"
        raise DataError(f"{where} has no field '{fields.main[0]}'; its fields are {found}. A row looks like {_example(fields)}")
    text, beside = _string(value.pop(main), main, where), fields.given
    if fields.beside is not None and value.get(fields.beside) is not None:
        beside = _string(value.pop(fields.beside), fields.beside, where)
    return _complete(Row(text, beside, value, where), fields)


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
        raise DataError(f"{row.where} has no {fields.beside}. Give one for all with --{fields.beside}, or rows as {_example(fields)}")
    for text in (row.text, row.beside or ""):
        # isascii is free; only other texts can hold half a character (a lone surrogate, as "\ud83d" in JSON)
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise DataError(f"{row.where} holds half a character (a lone surrogate), which no tokenizer reads. Write the character whole.")
    return row


def _example(fields: Fields) -> str:
    names = [fields.main[0], *([fields.beside] if fields.beside else [])]
    return json.dumps(dict.fromkeys(names, "..."))


# -- doing and writing ---------------------------------------------------------------------------------------------------------------

Result = dict[str, Any]


class Sink:
    """Where answers go: `row` writes one, as JSON with what is passed through or as the line that the verb made of it."""

    def __init__(self, files: Files, out: BinaryIO | None) -> None:
        self.json, self.out = files.as_json, out
        self.shows = out is None and not self.json and sys.stdout.isatty()  # somebody looks at it

    def row(self, row: Row, result: Result, line: Callable[..., str], *facts: Any) -> None:
        """`result` as JSON, else line(*facts)."""
        if not self.json:
            self.write(line(*facts))
            return
        # A field of the input that has the name of one of ours is kept under another one.
        self.write(dump({f"input_{name}" if name in result else name: value for name, value in row.rest.items()} | result))

    def write(self, text: str) -> None:
        if self.out is not None:
            self.out.write(text.encode("utf-8", "backslashreplace") + b"\n")
        else:
            print(text, flush=True)


def dump(value: Any) -> str:
    """One line of JSON, also for readers to whom more than a line feed ends a line; what UTF-8 cannot hold is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text.isascii():
        return text
    if any("\ud800" <= char <= "\udfff" for char in text):
        return json.dumps(value, allow_nan=False)
    return text.translate(_SEPARATORS)


_SEPARATORS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


@contextmanager
def sink(files: Files) -> Iterator[Sink]:
    """Opened before any work, so that a place which cannot be written to is named at once. A signal leaves nothing behind."""
    if files.out is None:
        yield Sink(files, None)
        return
    if files.out.is_dir():
        raise RecipeError(f"--out {files.out} is a folder; give the name of a file")
    with _terminated_as_interrupted(), writing(files.out) as file:
        yield Sink(files, file)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM unwinds as an exception does, so that the half-written file is taken away; the exit code is 143."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: whoever started us hears the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


AT_ONCE = 1024  # rows: enough to sort by length, few enough to see answers soon
Done = Callable[[int], None]


def each(
    rows: Sequence[Row], method: Callable[[list[Row], Done], Sequence[Found]], verb: str, to: Sink, at_once: int = AT_ONCE, more: int = 0
) -> Iterator[tuple[Row, Found]]:
    """(row, what `method` found for it), chunk by chunk in the order of the input; progress on standard error when it takes a while.

    method: rows and a callback that hears how many are done -> as many results. An error of the model names the row that it is about.
    more: texts beside the rows that `method` works on and counts (all rows at once then).
    """
    live = Later(len(rows) + more, verb)
    try:
        for start in range(0, len(rows), at_once):
            part = list(rows[start : start + at_once])
            found = _named(part, method, partial(_plus, live, start))
            live.update(start + len(part) + more)
            if to.shows:
                live.clear()
            yield from zip(part, found, strict=True)
    finally:
        live.close()


def _plus(live: Later, before: int, done: int) -> None:
    live.update(before + done)


class Later:
    """Progress that begins to show once there is something to wait for."""

    def __init__(self, total: int, label: str, unit: str = "rows") -> None:
        from ..progress import Progress

        self.unit = unit

        self.live = Progress(total, label)
        self.shown = False

    def update(self, done: int) -> None:
        waited = time.monotonic() - self.live.started
        self.shown = self.shown or (done < self.live.total and waited > _PATIENCE)
        if self.live.first is None:
            self.live.first = 0
        if self.shown:
            self.live.update(done, **{self.unit: f"{done:,}/{self.live.total:,.0f}"})

    def clear(self) -> None:
        if self.shown:
            self.live.clear()

    def close(self) -> None:
        if self.shown:
            self.live.close()


def _named(part: list[Row], method: Callable[[list[Row], Done], Sequence[Found]], done: Done) -> Sequence[Found]:
    try:
        return method(part, done)
    except (ContextError, DataError) as error:
        if len(part) == 1:
            raise _at(part[0], error) from None
        # A model refuses texts before it works on any, so asking again about the longest ones is quick.
        for row in sorted(part, key=lambda row: -len(row.text) - len(row.beside or ""))[:_SUSPECTS]:
            try:
                method([row], lambda _: None)
            except (ContextError, DataError) as own:
                raise _at(row, own) from None
            except QuireError:  # one row alone makes no sense to this method: the first error stands
                break
        raise


def _at(row: Row, error: ContextError | DataError) -> ContextError | DataError:
    """The error with the row's place, in the words of the command line. A number within one chunk says nothing to who reads it."""
    told = re.sub(r"^([Tt]he )?(text|pair|prompt|row) \d+ ", r"this \2 ", str(error))
    told = told.replace('long="cut"', "--long cut").replace("give a stride (32, say)", "give --stride 32")
    told = re.sub(r"^the question of pair \d+ ", "the question ", told)
    return type(error)(f"{row.where}: {told}" if row.where else told)


def tell(note: str) -> None:
    """A note to the user, beside the output."""
    print(f"quire: {note}", file=sys.stderr)


def tell_cut(cut: Sequence[int]) -> None:
    """Says how many texts were cut, where --long cut has asked for it. cut: how many tokens of each were left out."""
    texts = sum(1 for tokens in cut if tokens)
    if texts:
        many = "texts were" if texts > 1 else "text was"
        tell(f"{texts:,} {many} too long: {sum(cut):,} tokens left out")
