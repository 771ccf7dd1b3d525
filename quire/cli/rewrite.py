"""`quire translate`, `quire summarize`, `quire text2text`: a text in, a text out, with an encoder-decoder.

How it is written (beams, lengths, penalties, what stands before the text) is what the model's folder says; each of it can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import RecipeError
from ..types import Beam, Completion, Sampling
from .lines import Fields, Files, FilesOption, Long, Machine, MachineOption, Model, Row, Text, Texts, parse, read, tell, ways_to_cut
from .paint import flat, paint, safe, short
from .results import Done, Sink, each, sink, tell_cut
from .sampling import Number, SamplingOptions, Whole
from .uses import dry_run, opened_seq2seq

if TYPE_CHECKING:
    from ..binding import Contract
    from ..families import ModelFolder

_AT_ONCE = 128  # rows: writing is slow, and answers are wanted as they come
_EITHER = ("max_tokens", "min_tokens", "repetition_penalty")  # what sampling and beams both have

Task = Literal["translation", "summarization", "text2text"]
_CALLED = {"translation": "translation", "summarization": "summary", "text2text": "answer"}  # the field of an answer


@dataclass(frozen=True)
class Writing:
    """How an answer is written; what is not given is decided by the model's folder."""

    beams: Whole = None
    """Beam search: the likeliest text found with so many in the race; 1 takes the likeliest token each time."""
    length_penalty: Number = None
    """Of beams: above 0 favours longer texts, below 0 shorter ones."""
    no_repeat_ngram: Whole = None
    """Of beams: no run of so many tokens is written twice; 0: off."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)

    def over(self, folder: Sampling | Beam) -> Sampling | Beam:
        """What the folder says, with what was given in its place. Raises RecipeError for options that contradict one another."""
        drawn = {one.name: getattr(self.sampling, one.name) for one in fields(self.sampling)}
        drawn = {name: value for name, value in drawn.items() if value not in (None, ())}
        either = {name: drawn.pop(name) for name in _EITHER if name in drawn}
        beam: dict[str, Any] = {"width": self.beams, "length_penalty": self.length_penalty, "no_repeat_ngram": self.no_repeat_ngram}
        beam = {name: value for name, value in beam.items() if value is not None}
        if drawn and beam:
            names = " and ".join(f"--{name.replace('_', '-').replace('width', 'beams')}" for name in (next(iter(beam)), next(iter(drawn))))
            raise RecipeError(f"{names} do not go together: beams look for the likeliest text, sampling draws one")
        kept = {name: getattr(folder, name) for name in _EITHER}
        if beam and not isinstance(folder, Beam) and "width" not in beam:
            raise RecipeError(
                f"--{next(iter(beam)).replace('_', '-')} is for beams, which this model's folder does not ask for; add --beams 4"
            )
        if beam and not isinstance(folder, Beam):
            folder = Beam(**kept)
        if drawn and not isinstance(folder, Sampling):
            folder = Sampling(**kept)
        if isinstance(folder, Beam) and folder.width == 1 < beam.get("width", 1):
            folder = replace(folder, early_stopping=False)  # a race of one ends with the first; wider ones go on while they can get better
        return replace(folder, **either, **(beam if isinstance(folder, Beam) else drawn))


WritingOption = Annotated[Writing, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Rewrite:
    model: Model
    """A folder of an encoder-decoder."""
    texts: Texts = ()
    """Texts; '-' or nothing reads standard input, one a line."""
    long: Long = ""
    """A text that is too long is an error, loses its end (cut), or its middle (head-tail); else as the model was tuned, or an error."""
    writing: WritingOption = field(default_factory=Writing)
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


@dataclass(frozen=True)
class Translate(Rewrite):
    source: Text = None
    """The language of the texts, as the model spells it (en); for models that are told in words, as T5."""
    target: Text = None
    """The language to translate into (de)."""


def translate(argv: list[str]) -> int:
    """Texts in another language.

    quire translate MODEL "The house is small."

    quire translate T5_MODEL --source en --target de --file texts.txt --out texts.de.txt --beams 4
    """
    options = parse(Translate, "translate", argv, translate.__doc__)
    return run("translate", "translation", options, options.source, options.target)


def summarize(argv: list[str]) -> int:
    """Texts made short.

    quire summarize MODEL --file articles.jsonl --out summaries.jsonl --max-tokens 80
    """
    return run("summarize", "summarization", parse(Rewrite, "summarize", argv, summarize.__doc__))


def text2text(argv: list[str]) -> int:
    """Texts that a model makes of texts, as its prompt asks for.

    quire text2text MODEL "Is the following review positive or negative? I loved it."
    """
    return run("text2text", "text2text", parse(Rewrite, "text2text", argv, text2text.__doc__))


def run(verb: str, task: Task, options: Rewrite, source: str | None = None, target: str | None = None) -> int:
    long = ways_to_cut(options.long)
    rows = read(options.texts, options.files, Fields(("text", "source")), verb)
    from ..tasks.rewrite import plan

    if options.files.dry_run:

        def as_read(opened: ModelFolder, _: Contract) -> list[Row]:
            prefix = plan(opened.path, opened.model_config.vocab, task, None, source, target, opened.changed).prefix
            return [replace(row, text=prefix + row.text) for row in rows]

        return dry_run(verb, options.model, rows, options.files, options.machine, long, as_read=as_read)
    if options.writing.sampling.logprobs and not options.files.as_json:
        raise RecipeError("--logprobs are written with --json; add it, or leave --logprobs out")
    model = opened_seq2seq(verb, options.model, options.machine)
    told = plan(model.folder, model.config.vocab, task, None, source, target, model.changed).how
    how = options.writing.over(told)
    cut: list[int] = []
    ways: dict[str, Any] = {"source": source, "target": target} if task == "translation" else {}

    def method(part: list[Row], done: Done) -> list[Completion]:
        found: list[Completion] = getattr(model, verb)([row.text for row in part], how, long=long, cut=cut, progress=done, **ways)
        return found

    ended = 0
    with sink(options.files) as to:
        for number, (row, found) in enumerate(each(rows, method, verb, to, _AT_ONCE)):
            ended += found.finish_reason != "stop"
            result = {"text": row.text, _CALLED[task]: found.text, **_facts(found)}
            to.row(row, result, line, row, found, to, len(rows) > 1, number)
    tell_cut(cut)
    if ended:
        tell(f"{ended:,} of {len(rows):,} texts ended at {how.max_tokens:,} tokens; --max-tokens allows more")
    return 0


def _facts(found: Completion) -> dict[str, Any]:
    facts: dict[str, Any] = {"finish_reason": found.finish_reason, "ids": found.ids, "prompt_tokens": found.prompt_tokens}
    if found.logprobs:
        facts["logprobs"] = [[token.text, token.logprob, [list(other) for other in token.top]] for token in found.logprobs]
    return facts


def line(row: Row, found: Completion, to: Sink, several: bool, number: int) -> str:
    """The answer on one line; where somebody looks, as it was written, below what it was made of."""
    if not to.shows:
        return flat(found.text)
    if not several:
        return safe(found.text)
    return f"{chr(10) * (number > 0)}{paint(short(row.text), 'dim')}\n{safe(found.text)}"
