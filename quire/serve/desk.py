"""Asks in a worker: each is prepared (template, ids, form), goes through the engine beside all others, and what it says is collected.

Preparing may take long (a megabyte of text, a large schema), so it happens on threads of its own; the engine belongs to the one thread that
calls `begin`, `step` and `abort`. What is wrong with one ask is told to that one alone.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..engine.answers import Asked, form, tools
from ..engine.calls import Reader
from ..engine.encoder import EncoderEngine, Reading
from ..engine.engine import Engine
from ..engine.request import Request
from ..errors import ContextError, ModelError, QuireError, RecipeError, about
from ..model import Decoder, Encoder, Seq2Seq
from ..nn.config import LabelHead
from ..tasks import classify, embed
from ..text.infill import infill
from ..text.tokenizer import Tokenizer
from ..types import Message, Sampling, TokenLogprob
from .asks import Read, Tokens, Write
from .known import NO_TEMPLATE, longest, unfit

Said = list[Any]  # [id of the ask, what: begun piece end found error, its values ...]
_NEVER = -9999.0  # the logarithm of no chance at all, as OpenAI writes it


@dataclass(eq=False)
class Writing:
    """An ask to write: a request for each answer."""

    id: int
    asked: Asked
    requests: list[Request]
    readers: list[Reader | None]
    told: list[int] = field(default_factory=list)  # chunks of each that were said
    pieces: list[str] = field(default_factory=list)  # of the prompt's text, where it is to be told
    open: int = 0  # answers that go on


@dataclass(eq=False)
class Whole:
    """An ask to read texts whole."""

    id: int
    ask: Read
    readings: list[Reading]


class Desk:
    """All asks of one model."""

    def __init__(self, model: Decoder | Encoder | Seq2Seq, options: Mapping[str, Any]) -> None:
        """options: of `Engine`. Raises its errors."""
        self.model = model
        writes = not isinstance(model, Encoder)
        self.engine = Engine(model, **options) if writes else None
        self.reader = EncoderEngine(model)
        template = model.contract.template
        for one in () if template is None else (template, *template.named.values()):
            one.origin = "the model's chat template"  # clients are told of what it refuses, and not of this machine's folders
        self._able = {"kind": model.config.kind, "writes": writes, "chats": isinstance(model, Decoder) and template is not None}
        self._writing: dict[int, Writing] = {}
        self._reading: dict[int, Whole] = {}

    # -- preparing: on any thread --------------------------------------------------------------------------------------------------

    def prepare(self, number: int, ask: Write | Read | Tokens) -> Writing | Whole | Said:
        """Raises QuireError for what cannot be done, with the field of the ask that it is about. A `Tokens` ask is answered at once."""
        wrong = unfit(self._able, ask)
        if wrong is not None:
            raise ModelError(f"{wrong} It {self._does()}." if wrong is NO_TEMPLATE else wrong, field="model")
        if isinstance(ask, Write):
            with about("prompt"):
                return self._write(number, ask)
        if isinstance(ask, Read):
            with about("texts"):
                return self._read(number, ask)
        with about("prompt" if ask.messages is None else "messages"):
            return self._tokens(number, ask)

    def _write(self, number: int, ask: Write) -> Writing:
        assert self.engine is not None
        if ask.prompt is not None and not isinstance(ask.prompt, str):
            self._in_vocabulary("prompt", ask.prompt)
        self._in_vocabulary("logit_bias", [id for id, _ in ask.sampling.get("logit_bias", ())])
        ids, stop_ids, asked = self._start(ask)
        if ask.most_input is not None and len(ids) > ask.most_input:
            raise ContextError(f"the prompt has {len(ids):,} tokens; this key may send {ask.most_input:,}. Shorten it.")
        how = replace(self.model.defaults, **{"max_tokens": self.model.config.context, **_tuples(ask.sampling)})
        if ask.longest is not None:
            read = len(ids) if isinstance(self.model, Decoder) else 1  # an encoder-decoder's answer begins with a token of its own
            if read >= ask.longest:
                said = f"the prompt has {read:,} tokens; {ask.longest:,} with the answer leave none for it. Ask for more."
                raise ContextError(said, field="longest")
            how = replace(how, max_tokens=min(how.max_tokens, ask.longest - read))
        requests: list[Request] = []
        for choice in range(ask.n):
            seeded = how if how.seed is None else replace(how, seed=how.seed + choice)
            requests.append(
                self.engine.request(
                    ids,
                    seeded,
                    constraint=asked.constraint(),
                    tenant=ask.tenant,
                    stop_ids=stop_ids,
                    prompt_logprobs=ask.prompt_logprobs if choice == 0 else None,
                    after=requests[0] if requests else None,
                )
            )
        for request in requests if ask.continued else ():
            stream = self.model.contract.tokenizer.stream()
            stream.behind()
            request.stream = stream
        readers = [None if asked.calling is None else asked.calling.reader() for _ in requests]
        pieces = _pieces(self.model.contract.tokenizer, ids, not isinstance(ask.prompt, str)) if ask.echo else []
        return Writing(number, asked, requests, readers, [0] * len(requests), pieces, len(requests))

    def _in_vocabulary(self, field: str, ids: Sequence[int]) -> None:
        wrong = next((id for id in ids if not 0 <= id < self.model.config.vocab), None)
        if wrong is not None:
            raise RecipeError(f"'{field}' holds the id {wrong}; this model's ids go from 0 to {self.model.config.vocab - 1}.", field=field)

    def _start(self, ask: Write) -> tuple[list[int], Sequence[int], Asked]:
        """What is to be continued, the ids that end a turn, and what the answer must be."""
        contract, vocab = self.model.contract, self.model.config.vocab
        if ask.messages is None:
            if ask.prompt is None:
                raise RecipeError("there is neither a prompt nor messages. Give one of them.")
            asked = form(contract, vocab, ask.forms)
            if ask.suffix is not None:
                with about("suffix"):
                    ids, ends = infill(contract.tokenizer, ask.prompt, ask.suffix)
                return [*contract.before, *ids], ends, asked
            if not isinstance(ask.prompt, str):
                return list(ask.prompt), (), asked
            return (contract.prompt(ask.prompt) if isinstance(self.model, Decoder) else contract.whole(ask.prompt)), (), asked
        assert isinstance(self.model, Decoder)
        shown = [] if ask.tool_choice == "none" else [dict(tool) for tool in ask.tools]
        asked = tools(contract, vocab, shown, ask.tool_choice, ask.parallel, ask.forms)  # type: ignore[arg-type]
        if ask.continued and (shown or ask.forms):
            raise RecipeError(
                "the last message is the beginning of the answer, so there can be no tools and no form: those hold a whole one."
            )
        ids = self.model.chat_ids(messages(ask.messages), shown, continued=ask.continued)
        return ids + (asked.calling.prefix if asked.calling is not None else []), contract.turn_end, asked

    def _read(self, number: int, ask: Read) -> Whole:
        texts: Sequence[Any] = [tuple(text) if isinstance(text, list) and text and isinstance(text[0], str) else text for text in ask.texts]
        head = self.model.config.head
        by_label = ask.use == "classify" or (ask.use == "rerank" and isinstance(head, LabelHead))
        if by_label and not (isinstance(head, LabelHead) and head.over == "row"):
            raise ModelError(f"this model gives no labels of texts. It {self._does()}.", field="model")
        if ask.use != "rerank":
            readings = self.reader.readings(texts, ask.use, ask.kind, ask.long, limit=ask.limit, dimensions=ask.dimensions)
        elif by_label:
            classify.one_of(self.model.labels, ask.label)  # before any work
            pairs = [(ask.query or "", text) for text in texts]
            readings = self.reader.readings(pairs, "classify", None, ask.long, limit=ask.limit)
        else:
            classify.none_of(ask.label)
            with about("query"):
                readings = self.reader.readings([ask.query or ""], "embed", "query", ask.long, limit=ask.limit)
            readings += self.reader.readings(texts, "embed", "document", ask.long, limit=ask.limit)
        longest = max((len(one.row) for one in readings), default=0)
        if ask.most_input is not None and longest > ask.most_input:
            raise ContextError(f"a text has {longest:,} tokens with those around it; this key may send {ask.most_input:,}. Shorten it.")
        return Whole(number, ask, readings)

    def _does(self) -> str:
        """What this model does, by the routes for it."""
        head = self.model.config.head
        can = ["makes vectors (/v1/embeddings)", "ranks texts by them (/rerank)"]
        if isinstance(head, LabelHead) and head.over == "row":
            can = ["labels texts (/classify)", "ranks texts by a label (/rerank)", can[0]]
        if self.engine is not None:
            can.append("writes (/v1/completions)")
        if isinstance(self.model, Decoder) and self.model.contract.template is not None:
            can.append("answers (/v1/chat/completions)")
        return ", ".join(can)

    def _tokens(self, number: int, ask: Tokens) -> Said:
        contract = self.model.contract
        if ask.ids is not None:
            self._in_vocabulary("tokens", ask.ids)
            return [number, "found", contract.tokenizer.decode(ask.ids, special=True), len(ask.ids)]
        if ask.messages is not None and ask.tool_choice is not None:
            write = Write(messages=ask.messages, tools=ask.tools, tool_choice=ask.tool_choice, continued=ask.continued)
            ids, *_ = self._start(write)
            assert not isinstance(ids, str)
        elif ask.messages is not None:
            assert isinstance(self.model, Decoder)
            ids = self.model.chat_ids(messages(ask.messages), [dict(tool) for tool in ask.tools], continued=ask.continued)
        elif not ask.whole:
            ids = contract.tokenizer.encode(ask.text or "")
        else:
            ids = contract.prompt(ask.text or "") if isinstance(self.model, Decoder) else contract.whole(ask.text or "")
        if ask.spelled:
            return [number, "found", [[id, contract.tokenizer.token(id)] for id in ids], len(ids)]
        return [number, "found", ids, len(ids)]

    # -- computing: on the engine's thread -----------------------------------------------------------------------------------------

    def begin(self, prepared: Writing | Whole) -> list[Said]:
        """Puts an ask in line; what there is to say of it."""
        if isinstance(prepared, Whole):
            self._reading[prepared.id] = prepared
            self.reader.add(prepared.readings)
            return []
        assert self.engine is not None
        self._writing[prepared.id] = prepared
        for request in prepared.requests:
            self.engine.add(request)
        return [[prepared.id, "begun", len(prepared.requests[0].source or prepared.requests[0].prompt), prepared.pieces]]

    def abort(self, number: int) -> None:
        """Frees what an ask holds; nothing happens to one that is not there."""
        writing, reading = self._writing.pop(number, None), self._reading.pop(number, None)
        for request in writing.requests if writing is not None else ():
            assert self.engine is not None
            self.engine.abort(request)
        if reading is not None:
            self.reader.abort(*reading.readings)

    @property
    def busy(self) -> bool:
        return bool(self._writing or self._reading)

    def step(self) -> list[Said]:
        """One step of all; what was said in it."""
        said: list[Said] = []
        if self.engine is not None and self._writing:
            self.engine.step()
            for writing in list(self._writing.values()):
                said += self._say(writing)
        if self._reading:
            self.reader.step()
            for reading in list(self._reading.values()):
                if all(one.done for one in reading.readings):
                    said.append(self._result(reading))
                    self.abort(reading.id)
        return said

    def _say(self, writing: Writing) -> list[Said]:
        said: list[Said] = []
        try:
            for choice, request in enumerate(writing.requests):
                if writing.told[choice] < 0:
                    continue
                for chunk in request.chunks[writing.told[choice] :]:
                    text, calls, reader = chunk.text, [], writing.readers[choice]
                    if reader is not None:
                        deltas = reader.push(chunk)
                        text = "".join(delta.get("content", "") for delta in deltas)
                        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
                    said.append([writing.id, "piece", choice, text, chunk.ids, [*map(self._fact, chunk.logprobs)], calls])
                writing.told[choice] = len(request.chunks)
                if request.done:
                    said.append(self._end(writing, choice))
                    writing.told[choice], writing.open = -1, writing.open - 1
        except Exception as error:  # whatever it is, it is of this ask alone
            said.append(told(writing.id, error))
            writing.open = 0
        if writing.open == 0:
            self.abort(writing.id)
        return said

    def _end(self, writing: Writing, choice: int) -> Said:
        assert self.engine is not None
        request = writing.requests[choice]
        answer, reader = self.engine.result(request), writing.readers[choice]
        facts = [None if fact is None else self._fact(fact) for fact in request.prompt_facts]
        last = [request.held.found, request.cached, facts]
        if reader is None:
            answer = writing.asked.read(answer)
            return [writing.id, "end", choice, answer.finish_reason, len(answer.ids), answer.text, [], False, answer.valid, *last]
        turn = reader.turn()  # of the reader that told the pieces, so they add up to it
        cut, valid = len(turn.told) > len(turn.tool_calls), answer.finish_reason == "stop" and not turn.broken
        reason = answer.finish_reason if cut else turn.finish_reason
        return [writing.id, "end", choice, reason, len(answer.ids), turn.content or "", turn.told, cut, valid, *last]

    def _fact(self, fact: TokenLogprob) -> list[Any]:
        # What the form of an answer forbids has no chance at all, and JSON has no number for its logarithm: it is no alternative.
        top = [other for other in fact.top if other[2] >= _NEVER]
        named = [(fact.id, fact.text), *((id, text) for id, text, _ in top)]
        odd = {id for id, text in named if "\ufffd" in text}  # bytes that are no text
        words = self.model.contract.tokenizer
        return [fact.id, fact.text, max(fact.logprob, _NEVER), top, {id: words.token_bytes(id).hex() for id in odd}]

    def _result(self, whole: Whole) -> Said:
        ask, readings = whole.ask, whole.readings
        error = next((one.error for one in readings if one.error is not None), None)
        if error is not None:
            return told(whole.id, error)
        values, count, cut = [one.value for one in readings], sum(len(one.row) for one in readings), [one.cut for one in readings]
        if ask.use == "classify":
            return [whole.id, "found", [list(value.items()) for value in values], count, cut]
        if ask.use == "embed":
            return [whole.id, "found", [base64.b64encode(value.astype("<f4").tobytes()).decode() for value in values], count, cut]
        if isinstance(self.model.config.head, LabelHead):
            label = classify.one_of(self.model.labels, ask.label)
            scores = [value[label] for value in values]
        else:
            scores = embed.near(self.model.sentence, values[0][None], np.stack(values[1:]))[0].tolist()
        return [whole.id, "found", classify.ranked(scores), count, cut]

    def facts(self) -> dict[str, Any]:
        """What the front must know of the model."""
        model = self.model
        head = model.config.head
        return {
            "identity": model.identity,
            **self._able,
            "context": longest(model.config, model.contract, model.folder),
            "vocab": model.config.vocab,
            "parameters": model.config.parameters(),
            "size": embed.size(model.model, model.sentence),
            "labels": list(model.labels.values()) if isinstance(head, LabelHead) and head.over == "row" else [],
            "special": model.contract.tokenizer.special_ids,
            "defaults": dataclasses.asdict(model.defaults),
        }

    def counts(self) -> dict[str, float]:
        """Gauges and counters for the metrics."""
        if self.engine is None:
            return {"running": float(len(self.reader.waiting))}
        scheduler, blocks = self.engine.scheduler, self.engine.blocks
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "preemptions": scheduler.preemptions,
            "blocks": blocks.count,
            "blocks_free": blocks.free,
            "blocks_findable": blocks.findable,
            "hits": blocks.hits,
            "evictions": blocks.evictions,
        }


def messages(rows: Sequence[Mapping[str, Any]]) -> list[Message]:
    return [Message(row["role"], row["content"], tuple(row.get("tool_calls") or ()), row.get("tool_call_id")) for row in rows]


def _pieces(tokenizer: Tokenizer, ids: Sequence[int], special: bool) -> list[str]:
    """What each id adds to the text of all."""
    stream = tokenizer.stream(special)
    pieces = [stream.push(id) for id in ids]
    return [*pieces[:-1], pieces[-1] + stream.end()] if pieces else []


def told(number: int, error: Exception) -> Said:
    """An error as the front hears it. What is no `QuireError` may hold anything, so its text stays here."""
    if isinstance(error, QuireError):
        return [number, "error", type(error).__name__, str(error), error.field]
    return [number, "error", "", f"{type(error).__name__}: {error}"]


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `Sampling` from JSON, where tuples are lists."""
    known = {field.name for field in dataclasses.fields(Sampling)}
    wrong = next((name for name in given if name not in known), None)
    if wrong is not None:
        raise RecipeError(f"there is no '{wrong}' in Sampling.")
    return {
        name: tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list) else value
        for name, value in given.items()
    }
