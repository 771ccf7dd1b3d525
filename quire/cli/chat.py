"""Talk with a model in the terminal.

A model with a chat template answers, with the conversation in mind. A base model knows no turns: it goes on with what you write.

/reset begins anew, /save FILE keeps the conversation, /help lists the rest; exit, quit or Ctrl-D ends.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from .. import durable
from ..errors import ContextError, QuireError, RecipeError, nearest
from ..progress import count
from ..types import Chunk, Message, Sampling
from .generate import footer
from .lines import Machine, MachineOption, parse
from .paint import paint, safe
from .sampling import SamplingOptions
from .uses import open_for

if TYPE_CHECKING:
    from ..model import Decoder

HELP = """  /reset       forget the conversation
  /save FILE   write the conversation to a JSON file
  /help        this list
  exit, quit   leave (so does Ctrl-D); Ctrl-C stops an answer"""
_COMMANDS = ["/reset", "/save", "/help", "/exit", "/quit"]


@dataclass(frozen=True)
class Chat:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder or a run folder."""
    system: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """Instructions that stand before the conversation."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Chat, "chat", argv, __doc__)
    model = open_for("chat", options.model, options.machine)
    from ..decode.sampler import check
    from ..model import Decoder

    assert isinstance(model, Decoder)  # `uses` gives this verb to no other kind
    sampling = options.sampling.over(model.defaults)
    check(sampling, model.config.vocab)
    if options.system and not model.chats:
        raise RecipeError(f"{model.folder} is a base model: it follows no instructions, so --system would do nothing. Leave it out.")
    talk = Talk(model, sampling, options.system) if model.chats else Continue(model, sampling)
    print(greeting(model))
    loop(talk, _prompt())
    return 0


def _prompt() -> str:
    """What stands before the cursor; with line editing and history where the system has them. Nothing in a pipe."""
    if not sys.stdin.isatty():
        return ""
    mark = paint("› ", "cyan")
    with contextlib.suppress(ImportError):
        import readline

        if mark != "› " and readline.__doc__:  # readline counts columns: tell it which characters take none
            return "\x01\x1b[36m\x02› \x01\x1b[0m\x02"
    return mark


def greeting(model: Decoder) -> str:
    size = f"{count(model.config.parameters())} parameters · context {model.config.context:,} tokens · {model.identity[:12]}"
    lines = [paint(str(model.folder), "bold") + paint(f"  {size}", "dim")]
    if not model.chats:
        lines.append("This is a base model: it was trained on plain text and knows no turns. It goes on with whatever you write;")
        lines.append("an empty line makes it go on with what it wrote last.")
    return "\n".join([*lines, paint("/help lists the commands; exit or Ctrl-D ends.", "dim")])


class Talk:
    """A conversation: the history is read anew with each question, as far as the context holds it."""

    def __init__(self, model: Decoder, sampling: Sampling, system: str = "") -> None:
        self.model, self.sampling = model, sampling
        self.first = [Message("system", system)] if system else []
        self.messages: list[Message] = []
        self.notes: list[str] = []  # what the user should know about the last question
        self._told = 0  # turns that were already reported as left out

    def reset(self) -> None:
        self.messages, self._told = [], 0

    def answer(self, text: str) -> Iterator[Chunk]:
        """Streams the answer and remembers both sides; a question that cannot be asked is forgotten again."""
        self.messages.append(Message("user", text))
        try:
            kept = self._fitting()
            chunks = self.model.stream_chat(kept, self.sampling)
        except QuireError:
            self.messages.pop()
            raise
        written = ""
        try:
            for chunk in chunks:
                written += chunk.text
                yield chunk
        finally:  # also when Ctrl-C stopped it: what was written is part of the conversation
            self.messages.append(Message("assistant", written))

    def _fitting(self) -> list[Message]:
        """The messages that fit with room for an answer, oldest turns left out first; says which."""
        context = self.model.config.context
        room = min(self.sampling.max_tokens, max(1, context // 4))
        start = 0
        while True:
            kept = self.first + self.messages[start:]
            used = len(self.model.chat_ids(kept))
            if used + room <= context or start + 1 >= len(self.messages):
                break
            start += 2  # a question with its answer
        if used + 1 > context:
            raise ContextError(f"that is {used:,} tokens; the model's context is {context:,}. Ask something shorter.")
        if start > self._told:
            first, last, gone = self._told // 2 + 1, start // 2, _short(self.messages[self._told].content)
            turns = f"turn {first} ({gone!r}) is" if first == last else f"turns {first} ({gone!r}) to {last} are"
            self.notes.append(f"the context of {context:,} tokens is full: {turns} left out")
            self._told = start
        return kept

    def transcript(self) -> list[Message]:
        return self.first + self.messages


class Continue:
    """A base model: each text is continued on its own."""

    def __init__(self, model: Decoder, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self.pieces: list[Message] = []
        self.notes: list[str] = []
        self.last = ""

    def reset(self) -> None:
        self.pieces, self.last = [], ""

    def answer(self, text: str) -> Iterator[Chunk]:
        """Streams the continuation of `text`, or, when it is empty, of the last one."""
        prompt = text or self._tail()
        chunks = self.model.stream(prompt, self.sampling)
        written = ""
        try:
            for chunk in chunks:
                written += chunk.text
                yield chunk
        finally:
            self.last = prompt + written
            self.pieces += [Message("user", text), Message("assistant", written)]

    def _tail(self) -> str:
        """The end of the last text that leaves half of the context to write in."""
        tokenizer, most = self.model.contract.tokenizer, self.model.config.context // 2
        pieces = tokenizer.pieces(self.last)
        if len(pieces.ids) <= most:
            return self.last
        start = pieces.offsets[-most][0]
        self.notes.append(f"the context is full: it goes on from the last {most:,} tokens")
        return self.last[start:]

    def transcript(self) -> list[Message]:
        return self.pieces


def loop(talk: Talk | Continue, prompt: str) -> None:
    """Reads lines until the end; errors of one question are shown and the next one is asked."""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            print()
            return
        text = line.strip()
        if text in ("exit", "quit", "/exit", "/quit"):
            return
        try:
            if text.startswith("/"):
                command(talk, text)
            elif text or (isinstance(talk, Continue) and talk.last):
                show(talk, text if isinstance(talk, Talk) else line)
        except QuireError as error:
            print(paint(str(error), "red"))


def command(talk: Talk | Continue, text: str) -> None:
    name, _, rest = text.partition(" ")
    if name == "/reset":
        talk.reset()
        print(paint("forgotten; a new conversation begins", "dim"))
    elif name == "/save":
        if not rest.strip():
            raise RecipeError("/save needs a file: /save talk.json")
        messages = [{key: value for key, value in asdict(message).items() if value} for message in talk.transcript()]
        durable.write_json(rest.strip(), {"model": talk.model.identity, "messages": messages})
        print(paint(f"{len(messages)} messages written to {rest.strip()}", "dim"))
    elif name == "/help":
        print(HELP)
    else:
        raise RecipeError(f"there is no command {name}.{nearest(name, _COMMANDS)} /help lists them.")


def show(talk: Talk | Continue, text: str) -> None:
    started, tokens, last = time.perf_counter(), 0, Chunk("")
    chunks = talk.answer(text)
    try:
        if isinstance(talk, Continue) and text:
            sys.stdout.write(paint(safe(text), "bold"))
        for chunk in chunks:
            for note in talk.notes:
                print(paint(f"({note})", "yellow"))
            talk.notes.clear()
            sys.stdout.write(safe(chunk.text))
            sys.stdout.flush()
            tokens, last = tokens + len(chunk.ids), chunk
    except KeyboardInterrupt:
        chunks.close()  # type: ignore[attr-defined]
    print()
    if sys.stdout.isatty():
        print(paint(footer(tokens, time.perf_counter() - started, last.finish_reason), "dim"))


def _short(text: str, most: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
