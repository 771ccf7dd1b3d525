"""Many prompts with a decoder at once: the engine runs them together, and each answer is kept on the disk as soon as it is there.

With --out the answers stand in OUT.partial until all are there, so a run that was stopped goes on where it ended. Its first line says what
answers depend on beside their prompts (model, number types, kernels, sampling); a run in which any of it differs is refused, by name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import append_line, drop_unfinished, read_lines
from ..errors import CheckpointError, RecipeError
from ..types import Chunk, Completion, Message, Sampling, TokenLogprob
from .lines import tell

if TYPE_CHECKING:
    from ..engine.answers import Asked
    from ..engine.request import Request
    from ..model import Decoder

Answer = tuple[Completion, float]  # and the seconds from being put in line to its end


@dataclass(frozen=True)
class Ask:
    """What one row asks for: a text or a conversation to go on with, and how. own: what the row itself says of that, as it was given."""

    text: str
    sampling: Sampling
    asked: Asked
    turns: tuple[Message, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)


class Kept:
    """Answers on the disk, by the place of their prompts and what was asked. about: what they depend on beside that, by name.

    Raises CheckpointError for a file that no stopped run has left, RecipeError for one that differs in `about` or has none of these asks.
    """

    def __init__(self, out: Path | None, about: Mapping[str, Any], asks: Sequence[Ask]) -> None:
        self.path = None if out is None else out.with_name(out.name + ".partial")
        self._about = json.loads(json.dumps(about))
        self._keys = [_key(number, ask) for number, ask in enumerate(asks)] if self.path is not None else []
        self._rows: dict[str, dict[str, Any]] = {}
        self._begun = False
        if self.path is not None and self.path.exists():
            self._take(self.path)

    def _take(self, path: Path) -> None:
        """What a stopped run has left."""
        drop_unfinished(path)
        lines = read_lines(path)
        if not lines:
            return
        begun, self._begun = lines[0], True
        if not all(isinstance(line, dict) for line in lines) or "about" not in begun or not all("key" in line for line in lines[1:]):
            raise CheckpointError(f"{path} is not what a stopped run leaves behind. Move it away, or give another --out.")
        self._rows = {line["key"]: line for line in lines[1:]}
        was, now = begun["about"], self._about
        other = [f"{name} was {was.get(name)}, is {now.get(name)}" for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
        ways = "Give what that run was given, or another --out, or remove that file."
        if other:
            raise RecipeError(f"{path} holds {len(self._rows):,} answers of a run that was another: {'; '.join(other)}. {ways}")
        fit = sum(key in self._rows for key in self._keys)
        if self._rows and not fit:
            raise RecipeError(f"{path} holds {len(self._rows):,} answers, and none to one of these prompts. {ways}")
        if self._rows:
            tell(f"{path} holds {len(self._rows):,} answers of a run that was stopped; {fit:,} of them fit and are taken")

    def get(self, number: int) -> Answer | None:
        row = self._rows.get(self._keys[number]) if self._keys else None
        if row is None:
            return None
        logprobs = tuple(
            TokenLogprob(fact["id"], fact["text"], fact["logprob"], tuple((a, b, c) for a, b, c in fact["top"])) for fact in row["logprobs"]
        )
        made = Completion(row["text"], tuple(row["ids"]), row["finish_reason"], row["prompt_tokens"], logprobs, row["parsed"], row["valid"])
        return made, row["seconds"]

    def put(self, number: int, answer: Answer) -> None:
        if self.path is None:
            return
        if not self._begun:
            append_line(self.path, {"about": self._about})
            self._begun = True
        line = {"key": self._keys[number], **asdict(answer[0]), "seconds": answer[1]}
        append_line(self.path, line)
        self._rows[line["key"]] = line

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Where nothing went wrong, the answers are all where they belong."""
        if self.path is None:
            return
        if kind is None:
            self.path.unlink(missing_ok=True)
        elif self._rows:
            tell(f"{self.path} holds {len(self._rows):,} answers; the same command goes on from there")


def _key(number: int, ask: Ask) -> str:
    said = [number, [asdict(turn) for turn in ask.turns] if ask.turns else ask.text, ask.own]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def answers(model: Decoder, asks: Sequence[tuple[int, Ask]], kept: Kept, done: Callable[[int], None]) -> list[Answer]:
    """The answers to what is asked, (number of the row, ask), in their order. Refused before any work, as by `Engine.request`."""
    found = {number: answer for number, _ in asks if (answer := kept.get(number)) is not None}
    left = [(number, ask) for number, ask in asks if number not in found]
    with closing((_one_by_one if model.alone else _together)(model, left)) as answered:
        for number, answer in answered:
            found[number] = answer
            kept.put(number, answer)
            done(len(found))
    return [found[number] for number, _ in asks]


def _together(model: Decoder, asks: Sequence[tuple[int, Ask]]) -> Generator[tuple[int, Answer]]:
    engine = model.engine
    requests = {number: (ask, _request(model, ask)) for number, ask in asks}
    began = time.perf_counter()
    try:
        engine.add(*(request for _, request in requests.values()))
        while requests:
            engine.step()
            for number in [number for number, (_, request) in requests.items() if request.done]:
                ask, request = requests.pop(number)
                yield number, (ask.asked.read(engine.result(request)), round(time.perf_counter() - began, 6))
    finally:
        for _, request in requests.values():
            engine.abort(request)


def _one_by_one(model: Decoder, asks: Sequence[tuple[int, Ask]]) -> Generator[tuple[int, Answer]]:
    """With an adapter that no engine holds."""
    from ..decode.loop import complete, room

    starts = [_ids(model, ask) for _, ask in asks]
    for ids in starts:
        room(len(ids), model.config.context, "prompt")
    for (number, ask), ids in zip(asks, starts):
        began = time.perf_counter()
        answer = complete(stream(model, ask), len(ids))
        yield number, (ask.asked.read(answer), round(time.perf_counter() - began, 6))


def stream(model: Decoder, ask: Ask) -> Iterator[Chunk]:
    """What the answer to one row says, as it comes."""
    return model.said(_ids(model, ask), ask.sampling, ask.asked, _stop(model, ask))


def _request(model: Decoder, ask: Ask) -> Request:
    return model.engine.request(_ids(model, ask), ask.sampling, constraint=ask.asked.constraint(), stop_ids=_stop(model, ask))


def _ids(model: Decoder, ask: Ask) -> list[int]:
    return model.chat_ids(ask.turns) if ask.turns else model.contract.prompt(ask.text)


def _stop(model: Decoder, ask: Ask) -> Sequence[int]:
    return model.contract.turn_end if ask.turns else ()
