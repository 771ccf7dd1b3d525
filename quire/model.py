"""`quire.load`: a model folder, ours or anyone's, as a small typed object: `Decoder`, `Encoder` or `Seq2Seq`.

Which one follows from the stacks that the folder's config describes. Every text goes through the folder's contract (tokenizer, template,
special ids, stop rule), and each object carries the binding id as its `identity`. Methods take texts and give the records of `types`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import machine
from .binding import Binding, Contract, bound
from .decode.loop import complete, decode, room
from .decode.sampler import logprobs
from .errors import DataError, ModelError, RecipeError, nearest
from .families.folder import ModelFolder
from .nn.batch import Batch
from .nn.config import ModelConfig
from .nn.transformer import Transformer
from .types import Chat, Chunk, Completion, Generator, Message, Sampling, Score, Scorer, TokenLogprob

DTypeName = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOKENS_A_FORWARD = 8192  # of scoring and hidden states, padding included


def load(path: Path | str, dtype: DTypeName = "auto", device: str = "auto", verify: bool = False) -> Decoder | Encoder | Seq2Seq:
    """Opens a model folder, or the model of a run folder.

    dtype: "auto" keeps the folder's where the device does it well, else fp32. verify: hash every file, not only stamp it.
    Raises ModelError (not there, unknown, pickled, weights that do not fit), BindingError (not the model that its binding names),
    RecipeError (a dtype or device that is not there).
    """
    folder = locate(path)
    opened = ModelFolder.open(folder)
    binding, contract = bound(folder, verify), Contract.open(folder)
    on = machine.device(device)
    model = opened.build(_dtype(dtype, opened, on), on)
    kinds: dict[str, type[Decoder] | type[Encoder] | type[Seq2Seq]] = {"decoder": Decoder, "encoder": Encoder, "seq2seq": Seq2Seq}
    return kinds[opened.model_config.kind](folder, model, contract, binding)


def locate(path: Path | str) -> Path:
    """The model folder at `path`: itself, or `model/` in it. Raises ModelError that names what is near and what to do."""
    path = Path(path).expanduser()
    for place in (path, path / "model"):
        if (place / "config.json").is_file():
            return place
    if path.is_file():
        raise ModelError(f"{path} is a file. A model is a folder with config.json and model.safetensors; give the folder.")
    if (path / "recipe.toml").is_file():
        raise ModelError(f"the run in {path} has no model yet. It is written when the run ends; go on with it: quire resume {path}")
    here = sorted(place.parent.parent for root in {path.parent, Path("runs")} for place in root.glob("*/model/config.json"))
    here += sorted(place.parent for place in path.parent.glob("*/config.json"))
    names = list(dict.fromkeys(map(str, here)))
    what = "holds no config.json" if path.is_dir() else "is not there"
    listed = f" Models near it: {', '.join(names[:6])}." if names else " Train one: quire quickstart"
    raise ModelError(f"no model at {path}: it {what}. Give a model folder or a run folder.{nearest(str(path), names)}{listed}")


def _dtype(name: str, opened: ModelFolder, device: torch.device) -> torch.dtype:
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise RecipeError(f"dtype is {name!r}; allowed: auto, {', '.join(_DTYPES)}")
    stored = {slot.dtype for slot in opened.slots.values()}
    good = machine.good_dtype(device)
    # A folder of 16 bits is not rounded to the other kind of 16 bits: what one cannot hold, fp32 can.
    return _DTYPES[good] if stored == {{"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[good]} else torch.float32


class _Local:
    """What the three kinds share."""

    def __init__(self, folder: Path, model: Transformer, contract: Contract, binding: Binding) -> None:
        self.folder = folder
        self.model = model
        self.contract = contract
        self.binding = binding
        self.identity: str = binding.id

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def defaults(self) -> Sampling:
        """How to sample when nothing is said: what the folder's generation_config.json recommends, else `Sampling()`."""
        given = self.contract.defaults
        if given.get("do_sample") is False:
            return Sampling(temperature=0.0)
        same = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
        chosen: dict[str, Any] = {name: given[name] for name in same if given.get("do_sample") and isinstance(given.get(name), int | float)}
        if isinstance(given.get("max_new_tokens"), int):
            chosen["max_tokens"] = given["max_new_tokens"]
        return Sampling(**chosen)

    def __repr__(self) -> str:
        size = f"{self.config.parameters():,} parameters, context {self.config.context}"
        return f"{type(self).__name__}({str(self.folder)!r}, {size}, {self.identity[:12]})"

    def _tensor(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Rows padded on the right: tokens (B, T), keep (B, T) or None where all are of one length."""
        device, longest = self.model.embed.weight.device, max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        if all(len(row) == longest for row in rows):
            return tokens, None
        return tokens, torch.tensor([[place < len(row) for place in range(longest)] for row in rows], device=device)


class _Writer(_Local):
    """Generation and scoring, for decoders and encoder-decoders."""

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        """(ids to continue, ids of the encoder's side)."""
        raise NotImplementedError

    @overload
    def generate(self, prompts: str, sampling: Sampling | None = None) -> Completion: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None) -> list[Completion]: ...
    def generate(self, prompts: str | Sequence[str], sampling: Sampling | None = None) -> Completion | list[Completion]:
        """Continues a text, or each of several. Every one draws from a generator of its own, so an answer does not depend on the others.

        sampling: None takes `defaults`. Raises ContextError for a prompt that is too long, RecipeError for a value outside its range.
        """
        if isinstance(prompts, str):
            return self._complete(*self._start(prompts), sampling)
        starts = [self._start(prompt) for prompt in prompts]
        for ids, source in starts:  # all of them before any work
            room(len(ids), self.config.context, "prompt")
            room(len(source or [0]), self.config.context, "source", spare=0)
        return [self._complete(ids, source, sampling) for ids, source in starts]

    def stream(self, prompt: str, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """A chunk a token; its text may be empty while a character or a stop string is not decided. The last one says why it ended."""
        return self._chunks(*self._start(prompt), sampling)

    def _chunks(
        self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None, stop_ids: Sequence[int] = ()
    ) -> Iterator[Chunk]:
        contract, sampling = self.contract, sampling or self.defaults
        sampling = replace(sampling, stop=tuple(sampling.stop) + contract.stop_strings)
        stops = [token for token in (*(contract.stop_ids or ()), *stop_ids) if token < self.config.vocab]
        return decode(self.model, ids, sampling, contract.tokenizer, stop_ids=stops, source=source)

    def _complete(self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None) -> Completion:
        return complete(self._chunks(ids, source, sampling), len(ids) if source is None else len(source))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Log-probability of each continuation behind its context, token by token; and whether greedy decoding would have written it.

        A token that holds the end of the context and the beginning of the continuation counts as continuation. Raises ContextError when a
        pair does not fit, DataError when a continuation has nothing before it.
        """
        rows = [self._row(context, continuation) for context, continuation in pairs]
        for ids, _, _, source in rows:
            room(max(len(ids), 1), self.config.context, "pair", spare=0)
            room(len(source or [0]), self.config.context, "source", spare=0)
        scores: list[Score] = [Score(0.0, (), True)] * len(rows)
        order = sorted((i for i, row in enumerate(rows) if len(row[0]) > row[1]), key=lambda i: len(rows[i][0]))
        while order:
            count = max(1, min(len(order), _TOKENS_A_FORWARD // len(rows[order[-1]][0])))
            chosen, order = order[-count:], order[:-count]
            for i, score in zip(chosen, self._score([rows[i] for i in chosen])):
                scores[i] = score
        return scores

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        """(ids, how many of them are context, texts of the others, the encoder's side)."""
        raise NotImplementedError

    @torch.inference_mode()
    def _score(self, rows: list[tuple[list[int], int, list[str], list[int] | None]]) -> list[Score]:
        tokens, _ = self._tensor([ids for ids, *_ in rows])  # padding lies behind: a causal stack never looks there
        memory = memory_keep = None
        if self.config.encoder is not None:
            sources, memory_keep = self._tensor([source or [] for *_, source in rows])
            memory = self.model.encode(Batch(sources, keep=memory_keep).tokens, _context(memory_keep))
        hidden = self.model.decode(tokens, None, memory, memory_keep)  # (B, T, D)
        assert self.model.head is not None
        found = []
        for i, (ids, known, texts, _) in enumerate(rows):
            # the position before a token predicts it
            scores = self.model.head(hidden[i, known - 1 : len(ids) - 1]).float().log_softmax(-1).cpu()  # (N, V)
            targets = torch.tensor(ids[known:])
            each = scores.gather(1, targets[:, None])[:, 0].tolist()
            greedy = bool((scores.argmax(-1) == targets).all())
            found.append(Score(sum(each), tuple(map(TokenLogprob, ids[known:], texts, each)), greedy))
        return found


class Decoder(_Writer):
    """A model that continues text (GPT-2, LLaMA ...)."""

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        return self.contract.prompt(prompt), None

    @property
    def chats(self) -> bool:
        """Whether this model was made to answer. A base model was not, though its tokenizer may have reserved the marks of turns."""
        task = self.binding.recorded.get("lineage", {}).get("task")
        return self.contract.template is not None and task != "causal"

    def chat_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The conversation as the model reads it, with the beginning of the answer. Raises ModelError for a base model."""
        template = self.contract.template
        if template is None:
            raise ModelError(
                f"{self.folder} is a base model: it has no chat template, so it does not know turns, only text to go on with. "
                "Use generate or stream, or `quire generate`; a model fine-tuned on conversations has a template."
            )
        return list(template.encode(self.contract.tokenizer, list(messages), list(tools), add_generation_prompt=True).ids)

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None, tools: Sequence[dict[str, Any]] = ()) -> Completion:
        """The answer to a conversation. Raises ModelError for a base model, ContextError when the conversation is too long."""
        ids = self.chat_ids(messages, tools)
        return complete(self._chunks(ids, None, sampling, self.contract.turn_end), len(ids))

    def stream_chat(
        self, messages: Sequence[Message], sampling: Sampling | None = None, tools: Sequence[dict[str, Any]] = ()
    ) -> Iterator[Chunk]:
        return self._chunks(self.chat_ids(messages, tools), None, sampling, self.contract.turn_end)

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        text = context + continuation
        pieces = self.contract.tokenizer.pieces(text)
        known = sum(1 for _, end in pieces.offsets if end <= len(context)) if context else 0
        before = list(self.contract.before)
        if not before and known == 0 and self.contract.tokenizer.bos is not None:
            before = [self.contract.tokenizer.bos]
        if continuation and len(before) + known == 0:
            raise DataError("the context is empty and this tokenizer has no begin-of-text token: nothing stands before the first token.")
        texts = [text[start:end] for start, end in pieces.offsets[known:]]
        return [*before, *pieces.ids], len(before) + known, texts, None


class Seq2Seq(_Writer):
    """A model that reads one text and writes another (T5 ...)."""

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        return [self._first()], self.contract.whole(prompt)

    def _first(self) -> int:
        if self.contract.decoder_start is None:
            raise ModelError(f"{self.folder} does not say with which id its decoder starts. Set decoder_start_token_id in its config.json.")
        return self.contract.decoder_start

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        pieces = self.contract.tokenizer.pieces(continuation)
        texts = [continuation[start:end] for start, end in pieces.offsets]
        return [self._first(), *pieces.ids], 1, texts, self.contract.whole(context)

    def fill(self, text: str, blank: str = "___", sampling: Sampling | None = None) -> list[str]:
        """What a model trained by span corruption writes into each `blank` of a text, greedily unless `sampling` says otherwise.

        Raises DataError when the text has no blank, or the tokenizer no sentinels for so many.
        """
        tokenizer = self.contract.tokenizer
        parts, marks = _split(text, blank), []
        for i in range(len(parts) - 1):
            mark = tokenizer.token_id(f"<extra_id_{i}>")
            if mark is None:
                raise DataError(f"{len(parts) - 1} blanks need <extra_id_{i}>, which this tokenizer does not have.")
            marks.append(mark)
        inside = [part for pair in zip(parts, [*marks, None]) for part in pair if part is not None]
        source = [*self.contract.before, *tokenizer.encode_parts(inside).ids, *self.contract.after]
        written = list(self._complete([self._first()], source, sampling or Sampling(temperature=0.0)).ids)
        fills = []
        for mark in marks:
            start = written.index(mark) + 1 if mark in written else len(written)
            end = next((i for i in range(start, len(written)) if tokenizer.is_special(written[i])), len(written))
            fills.append(tokenizer.decode(written[start:end]).strip())
        return fills


class Encoder(_Local):
    """A model that reads a text both ways (BERT ...)."""

    def hidden(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """The last hidden states of each text, (T, D) with what the tokenizer puts around it. Raises ContextError for one too long."""
        rows = [self.contract.whole(text) for text in texts]
        for ids in rows:
            room(len(ids), self.config.context, "text", spare=0)
        found: list[npt.NDArray[np.float32]] = [np.empty((0, self.config.width), dtype=np.float32)] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            count = max(1, min(len(order), _TOKENS_A_FORWARD // len(rows[order[-1]])))
            chosen, order = order[-count:], order[:-count]
            states = self._forward([rows[i] for i in chosen]).float().cpu().numpy()
            for i, state in zip(chosen, states):
                found[i] = state[: len(rows[i])].copy()
        return found

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> Tensor:
        tokens, keep = self._tensor(rows)
        return self.model.encode(tokens, _context(keep))

    def fill(self, text: str, blank: str = "___", top: int = 5) -> list[tuple[TokenLogprob, ...]]:
        """The `top` likeliest tokens for each `blank` of a text, best first. Raises DataError when there is no blank or no mask token."""
        tokenizer = self.contract.tokenizer
        if tokenizer.mask is None or not hasattr(self.model.head, "table"):
            raise DataError(f"{self.folder} has no mask token or no head that predicts words, so it cannot fill blanks.")
        parts = _split(text, blank)
        inside: list[str | int] = [parts[0]]
        for part in parts[1:]:
            inside += [tokenizer.mask, part]
        ids = [*self.contract.before, *tokenizer.encode_parts(inside).ids, *self.contract.after]
        room(len(ids), self.config.context, "text", spare=0)
        hidden = self._forward([ids])
        places = [i for i, token in enumerate(ids) if token == tokenizer.mask]
        with torch.inference_mode():
            assert self.model.head is not None
            rows = self.model.head(hidden[0, places]).float().cpu().numpy()  # (N, V)
        top = min(top, tokenizer.vocab_size)
        return [tuple(TokenLogprob(i, tokenizer.decode([i]), value) for i, value in logprobs(row, 0, top)[1]) for row in rows]


def _context(keep: Tensor | None) -> Any:
    from .nn.attention import AttnContext

    return AttnContext(keep=keep)


def _split(text: str, blank: str) -> list[str]:
    parts = text.split(blank) if blank else [text]
    if len(parts) == 1:
        raise DataError(f"the text has no blank: write {blank or '___'} where a word is to be filled in.")
    return parts


if TYPE_CHECKING:

    def _protocols(decoder: Decoder, seq2seq: Seq2Seq) -> tuple[Generator, Chat, Scorer, Generator, Scorer]:
        """What everything above a model knows it by."""
        return decoder, decoder, decoder, seq2seq, seq2seq
