"""Many prompts with a decoder at once: the engine runs them together, and each answer is kept on the disk as soon as it is there.

With --out the answers stand in OUT.partial until all are there, so a run that was stopped goes on where it ended: what was answered with
the same model and the same sampling is not asked again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import append_line, read_lines
from ..types import Completion, Sampling, TokenLogprob
from .lines import tell

if TYPE_CHECKING:
    from ..engine.request import Request
    from ..model import Decoder

Answer = tuple[Completion, float]  # and the seconds from being put in line to its end


class Kept:
    """Answers on the disk, by the place and text of their prompts. about: what they depend on beside the prompt."""

    def __init__(self, out: Path | None, about: Any) -> None:
        self.path = None if out is None else out.with_name(out.name + ".partial")
        self.about = json.dumps(about, sort_keys=True)
        self._rows = {row["key"]: row for row in read_lines(self.path)} if self.path is not None else {}
        if self._rows:
            tell(f"{self.path} holds {len(self._rows):,} answers of a run that was stopped; those that fit are taken")

    def _key(self, number: int, text: str) -> str:
        return hashlib.sha256(json.dumps([number, text, self.about]).encode()).hexdigest()

    def get(self, number: int, text: str) -> Answer | None:
        row = self._rows.get(self._key(number, text))
        if row is None:
            return None
        logprobs = tuple(
            TokenLogprob(fact["id"], fact["text"], fact["logprob"], tuple((a, b, c) for a, b, c in fact["top"])) for fact in row["logprobs"]
        )
        return Completion(row["text"], tuple(row["ids"]), row["finish_reason"], row["prompt_tokens"], logprobs), row["seconds"]

    def put(self, number: int, text: str, answer: Answer) -> None:
        if self.path is not None:
            append_line(self.path, {"key": self._key(number, text), **asdict(answer[0]), "seconds": answer[1]})

    def close(self) -> None:
        """The answers are all where they belong."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def answers(model: Decoder, texts: Sequence[str], first: int, sampling: Sampling, kept: Kept, done: Callable[[int], None]) -> list[Answer]:
    """The answers to texts, which are prompts number `first` and so on, in their order. Refused before any work: errors as `submit`'s."""
    engine = model.engine
    found = [kept.get(first + number, text) for number, text in enumerate(texts)]
    requests: dict[int, Request] = {number: engine.request(text, sampling) for number, text in enumerate(texts) if found[number] is None}
    began = time.perf_counter()
    try:
        for request in requests.values():
            engine.add(request)
        while requests:
            engine.step()
            for number in [number for number, request in requests.items() if request.done]:
                answer = engine.result(requests.pop(number)), round(time.perf_counter() - began, 6)
                kept.put(first + number, texts[number], answer)
                found[number] = answer
            done(len(texts) - len(requests))
    finally:
        for request in requests.values():
            engine.abort(request)
    return [answer for answer in found if answer is not None]
