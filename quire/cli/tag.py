"""Names, places, words of a kind ... that a model marks in a text.

quire tag MODEL "Angela Merkel was born in Hamburg."

quire tag MODEL --file letters.txt --json

In a terminal what was found is coloured in the text; in a pipe it stands in brackets, and --json has the places in characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..types import Entity
from .lines import Fields, Files, FilesOption, Machine, MachineOption, Model, Row, Texts, at_least, parse, read
from .paint import flat, paint
from .results import Done, Sink, each, of_windows, sink
from .uses import dry_run, open_for

if TYPE_CHECKING:
    from ..binding import Contract
    from ..families import ModelFolder
    from .uses import Opened

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


@dataclass(frozen=True)
class Tag:
    model: Model
    """A model folder."""
    texts: Texts = ()
    """Texts; '-' or nothing reads standard input, one a line."""
    aggregation: Annotated[Literal["none", "simple", "first", "average", "max", "words"] | None, tyro.conf.arg(help_behavior_hint="")] = (
        None
    )
    """How tokens become entities: none keeps every token; first, average and max decide over whole words; words divides the text itself, at
    spaces and punctuation. Without it: what the model's folder says (words, where it was tuned here), else simple."""
    stride: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Read a text that is too long in windows that share so many tokens; else as in training, and an error where that is not known."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Tag, "tag", argv, __doc__)
    at_least("--stride", options.stride, 0)
    rows = read(options.texts, options.files, Fields(), "tag")
    if options.files.dry_run:
        return count(rows, options)
    model = open_for("tag", options.model, options.machine)
    colours: dict[str, str] = {}

    def method(part: list[Row], done: Done) -> list[list[Entity]]:
        texts = [row.text for row in part]
        heard = of_windows(done, len(part), lambda: windows(model, texts, options))
        return model.tag(texts, options.aggregation, stride=options.stride, progress=heard)

    with sink(options.files) as to:
        for row, entities in each(rows, method, "tag", to):
            to.row(row, {"text": row.text, "entities": [asdict(entity) for entity in entities]}, line, row, entities, to, colours)
    return 0


def windows(model: Opened, texts: Sequence[str], options: Tag) -> int:
    """How many windows all texts are read in."""
    from ..tasks import tag

    way = options.aggregation or model.aggregation
    room, stride = tag.window(model.contract, model.config.context, options.stride, way)
    rows = model.contract.tokenizer.encode_batch([tag.as_read(text, way) for text in texts])
    return sum(len(tag.windows(len(ids), room, stride or 0)) for ids in rows)


def count(rows: Sequence[Row], options: Tag) -> int:
    """A dry run, in tokens of what is read; a text that is too long is named where it would be refused, not read in windows."""
    from ..tasks import tag

    def way(opened: ModelFolder) -> str:
        return options.aggregation or tag.aggregation_of(opened.config)

    def as_read(opened: ModelFolder, _: Contract) -> list[Row]:
        return [replace(row, text=tag.as_read(row.text, way(opened))) for row in rows]

    def divides(opened: ModelFolder, contract: Contract, context: int) -> bool:
        return tag.window(contract, context, options.stride, way(opened))[1] is not None

    return dry_run("tag", options.model, rows, options.files, options.machine, windows=divides, as_read=as_read)


def line(row: Row, entities: Sequence[Entity], to: Sink, colours: dict[str, str]) -> str:
    """The text with its entities marked; where somebody looks in colour, each label in one of its own."""
    parts, place = [], 0
    for entity in sorted(entities, key=lambda entity: entity.start):
        if entity.start < place:  # inside another one: it cannot be drawn twice
            continue
        label, words = flat(entity.label), flat(row.text[entity.start : entity.end])
        parts.append(flat(row.text[place : entity.start]))
        if to.shows:
            colour = colours.setdefault(label, _COLOURS[len(colours) % len(_COLOURS)])
            parts.append(f"{paint(words, f'underline {colour}')} {paint(f'{label} {entity.score:.0%}', 'dim')}")
        else:
            parts.append(f"[{words}]({label})")
        place = entity.end
    return "".join([*parts, flat(row.text[place:])])
