"""Train a tokenizer, report on one, encode and decode.

  quire tokenizer train SOURCE ... --out FOLDER   learn a vocabulary from files,
                                                  folders, globs or stdlib
  quire tokenizer report TOKENIZER [SOURCE ...]   bytes per token, tokens per
                                                  word, unknowns, by file type
  quire tokenizer encode TOKENIZER [TEXT ...]     ids of texts
  quire tokenizer decode TOKENIZER [ID ...]       the text of ids

Without a TEXT or ID, standard input is read. TOKENIZER is a tokenizer.json, or
a folder that holds one (a model folder, or a run's tokenizer folder). Each has
--help and --json.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import DataError, nearest
from .lines import Flag, parse
from .paint import paint, safe

if TYPE_CHECKING:
    from ..text.report import Report
    from ..text.tokenizer import Tokenizer

Sources = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...")]
Named = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TOKENIZER")]
_ON_TRAINING = 2**24  # bytes of text that a report on a freshly trained tokenizer looks at


@dataclass(frozen=True)
class Train:
    """Learn a vocabulary. The same text gives the same tokenizer."""

    sources: Sources
    """Files, folders, globs, or stdlib (the source of Python's standard library)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where tokenizer.json and tokenizer_config.json go."""
    kind: Literal["bpe", "wordpiece", "unigram", "word", "char"] = "bpe"
    """bpe restores any text exactly; wordpiece is BERT's; unigram is SentencePiece's; word and char explain themselves."""
    vocab: int = 4096
    """Tokens, special ones included."""
    task: Literal["causal", "masked", "denoise"] = "causal"
    """Whose special tokens: a decoder's, an encoder's, an encoder-decoder's."""
    lowercase: Flag = False
    """Make no difference between capital and small letters."""
    field: str = "text"
    """The field of JSONL, CSV and Parquet rows that holds the text."""
    json: Flag = False
    """The report as JSON."""


@dataclass(frozen=True)
class ReportOn:
    """What a tokenizer does to real text."""

    tokenizer: Named
    """A tokenizer.json, or a folder that holds one."""
    sources: Sources = ("stdlib",)
    """Files, folders, globs, or stdlib."""
    field: str = "text"
    """The field of JSONL, CSV and Parquet rows that holds the text."""
    json: Flag = False
    """The report as JSON."""


@dataclass(frozen=True)
class Encode:
    """Ids of a text. Nothing is added around it, and nothing in it becomes a special token."""

    tokenizer: Named
    """A tokenizer.json, or a folder that holds one."""
    text: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")] = ()
    """The text; without one, standard input is read."""
    pieces: Flag = False
    """A line for each token: its id, its place in the text, its bytes."""
    json: Flag = False
    """Ids, pieces and places as JSON."""


@dataclass(frozen=True)
class Decode:
    """The text of ids."""

    tokenizer: Named
    """A tokenizer.json, or a folder that holds one."""
    ids: Annotated[tuple[int, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...")] = ()
    """The ids; without any, they are read from standard input (numbers between anything that is none)."""
    special: Flag = False
    """Write special tokens too."""
    json: Flag = False
    """The text as a JSON string."""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    action, rest = argv[0], argv[1:]
    if action not in _ACTIONS:
        print(f"quire tokenizer: there is no '{action}'.{nearest(action, list(_ACTIONS))}\n\n{__doc__}", file=sys.stderr)
        return 2
    _ACTIONS[action](rest)
    return 0


def _train(argv: list[str]) -> None:
    options = parse(Train, "tokenizer train", argv, Train.__doc__)
    from ..data.sources import Tally, read
    from ..text.training import train

    tally = Tally()
    texts = (document.text for document in read(options.sources, options.field, tally=tally))
    tokenizer = train(options.kind, texts, options.vocab, lowercase=options.lowercase, special=options.task)
    tokenizer.save(options.out)
    found = _report(tokenizer, options.sources, options.field, _ON_TRAINING)
    if options.json:
        print(json.dumps({"folder": str(options.out), **_facts(tokenizer), "report": found.as_json()}, ensure_ascii=False))
        return
    print(f"{paint(str(options.out), 'bold')}  {_title(tokenizer)}")
    print(f"learned from {tally.documents:,} documents, {tally.bytes:,} bytes\n")
    print(found.table())
    print(f"\nTry it: quire tokenizer encode {options.out} 'some text' --pieces")


def _report_on(argv: list[str]) -> None:
    options = parse(ReportOn, "tokenizer report", argv, ReportOn.__doc__)
    tokenizer = _open(options.tokenizer)
    found = _report(tokenizer, options.sources, options.field, None)
    if options.json:
        print(json.dumps({**_facts(tokenizer), "report": found.as_json()}, ensure_ascii=False))
        return
    print(f"{paint(options.tokenizer, 'bold')}  {_title(tokenizer)}\n")
    print(found.table())


def _encode(argv: list[str]) -> None:
    options = parse(Encode, "tokenizer encode", argv, Encode.__doc__)
    tokenizer = _open(options.tokenizer)
    text = " ".join(options.text) if options.text else _standard_input()
    found = tokenizer.pieces(text)
    if options.json:
        pieces = [tokenizer.token_bytes(id).decode("utf-8", "backslashreplace") for id in found.ids]
        print(json.dumps({"ids": found.ids, "pieces": pieces, "offsets": found.offsets}, ensure_ascii=False))
    elif options.pieces:
        for id, (start, end) in zip(found.ids, found.offsets):
            print(f"{id:>8}  {start:>6}-{end:<6}  {_shown(tokenizer.token_bytes(id))}")
    else:
        print(" ".join(map(str, found.ids)))


def _decode(argv: list[str]) -> None:
    options = parse(Decode, "tokenizer decode", argv, Decode.__doc__)
    tokenizer = _open(options.tokenizer)
    ids = list(options.ids) if options.ids else [int(number) for number in re.findall(r"\d{1,9}", _standard_input())]
    for token in ids:
        tokenizer.token(token)  # one that is not there is a slip of the hand here
    text = tokenizer.decode(ids, special=options.special)
    # Into a pipe, exactly the text: with a line end of our own, encode and decode would not be each other's inverse.
    print(json.dumps(text, ensure_ascii=False) if options.json else safe(text), end="\n" if options.json or sys.stdout.isatty() else "")


_ACTIONS: dict[str, Callable[[list[str]], None]] = {"train": _train, "report": _report_on, "encode": _encode, "decode": _decode}


def _open(path: str) -> Tokenizer:
    from ..text.tokenizer import Tokenizer

    folder = Path(path)
    # A run folder keeps its tokenizer in a folder of its own.
    inside = folder / "tokenizer"
    return Tokenizer.open(inside if inside.is_dir() and not (folder / "tokenizer.json").exists() else folder)


def _report(tokenizer: Tokenizer, sources: tuple[str, ...], field: str, limit: int | None) -> Report:
    """The report by file type, on the first `limit` bytes."""
    from ..text.report import report_stream

    found = report_stream(tokenizer, _by_kind(sources, field, limit))
    if not found:
        raise DataError(f"there is no text in {', '.join(sources)}. Give files or folders that hold some.")
    return found


def _by_kind(sources: tuple[str, ...], field: str, limit: int | None) -> Iterator[tuple[str, str]]:
    from ..data.sources import read

    size = 0
    for document in read(sources, field):
        yield document.kind, document.text
        size += document.size
        if limit is not None and size >= limit:
            return


def _facts(tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "kind": tokenizer.definition.kind,
        "vocab_size": tokenizer.vocab_size,
        "hash": tokenizer.hash,
        "special": tokenizer.special_tokens,
    }


def _title(tokenizer: Tokenizer) -> str:
    special = ", ".join(list(tokenizer.special_tokens)[:6]) + (" ..." if len(tokenizer.special_tokens) > 6 else "")
    return f"{tokenizer.definition.kind}, {tokenizer.vocab_size:,} tokens, {tokenizer.hash[:12]}\nspecial: {special or 'none'}"


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text (byte {error.start}). Convert it, for example with iconv.") from None


def _shown(piece: bytes) -> str:
    """Bytes of a token so that every one can be seen."""
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece)
