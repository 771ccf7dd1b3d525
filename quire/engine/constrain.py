"""Answers of a given form: which tokens may come next so that the text will be JSON of a schema, match a regex, be one of a list.

    grammar = json_schema(tokenizer, {"type": "object", ...}, vocab=model.config.vocab)
    request = engine.submit(prompt, sampling, constraint=grammar)
    ...
    parsed = grammar.read(engine.result(request))       # valid, and the value

The work is llguidance's (https://github.com/guidance-ai/llguidance): a lexer of derivatives and an Earley parser walk over the trie of the
vocabulary's bytes. Three points. A special token is never text, so no grammar allows one. Every request has a matcher of its own: a copy
would share the lexer's states, and one request could use up another's. A text that was cut is never valid, even where it could be read.
"""

from __future__ import annotations

import json
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, ParamSpec

import numpy as np

from ..errors import DataError, ExtraError, RecipeError
from ..text.tokenizer import Tokenizer
from ..types import Completion
from .grammars import Limits, check_depth, check_keywords, check_size, closed, exact_formats
from .request import Allowed
from .trial import Trial, first_line, library_limits

P = ParamSpec("P")
LIMITS = Limits()
_KEPT, _KEPT_SIZE = 256, 64 << 20  # grammars whose compiled form is remembered, and their characters


@dataclass(frozen=True)
class Parsed:
    """What an answer holds. valid: it is whole and follows the grammar. value: as JSON or a class reads it. why: it is not valid."""

    valid: bool
    value: Any = None
    why: str = ""


class Grammar:
    """A form that one answer must have (a `request.Constraint`). It follows one request; `fresh` gives another at its beginning."""

    def __init__(
        self, tokenizer: Tokenizer, source: str, what: str, vocab: int | None, limits: Limits, reader: Callable[[str], Any] = str
    ) -> None:
        """source: in llguidance's form, as `Trial.compile` gave it. Raises RecipeError where this vocabulary cannot begin it."""
        self._made = (tokenizer, source, what, vocab, limits, reader)
        self.tokenizer, self.what, self._reader = tokenizer, what, reader
        self.vocab = tokenizer.vocab_size if vocab is None else vocab  # the mask has so many places: the rows of the model's head
        self._special = [token for token in tokenizer.special_tokens.values() if token < self.vocab]
        self._matcher = self._begin()
        self._mask: Allowed | None = None
        self._check()
        self.allowed()

    def _begin(self) -> Any:
        tokenizer, source, *_ = self._made
        return _library().LLMatcher(vocabulary(tokenizer), source, log_level=0, limits=library_limits(self._made[4]))

    def fresh(self) -> Grammar:
        return Grammar(*self._made)

    # -- what the engine asks ------------------------------------------------------------------------------------------------------

    def allowed(self) -> Allowed:
        """(V,): may this token come next? Raises RecipeError where none may and the answer is not whole."""
        if self._mask is None:
            mask = np.zeros(self.vocab, np.bool_)
            if not self._matcher.is_stopped():
                bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
                size = min(self.vocab, self.tokenizer.vocab_size)
                mask[:size] = np.unpackbits(bits, count=size, bitorder="little")
            self._check()
            mask[self._special] = False
            if not self.complete and not mask.any():
                raise RecipeError(
                    f"{self.what} cannot be followed: no token of this vocabulary continues the text, which is not whole yet."
                )
            self._mask = mask
        return self._mask

    def accept(self, token: int) -> None:
        if not self.allowed()[token]:
            raise RecipeError(f"the token {token} does not follow {self.what} at this place.")
        self._mask = None
        if not self._matcher.consume_token(token):
            self._check()

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def closed(self) -> bool:
        return self.complete and bool(self._matcher.is_stopped())

    def _check(self) -> None:
        """llguidance keeps its errors instead of raising them."""
        if self._matcher.is_error() and "NoExtension" in self._matcher.get_error():
            raise self._stuck()
        if self._matcher.is_error():
            raise RecipeError(f"{self.what} is too complex to follow: {first_line(self._matcher.get_error())}. Make it simpler.")

    def _stuck(self) -> RecipeError:
        return RecipeError(f"{self.what} cannot be followed: no token of this vocabulary continues the text, which is not whole yet.")

    # -- what the reader asks ------------------------------------------------------------------------------------------------------

    def accepts(self, text: str) -> bool:
        """Whether a whole text has this form, however it came about."""
        matcher, known = self._begin(), vocabulary(self.tokenizer)
        ids = known.greedy_tokenize(text)
        if known.decode_bytes(ids) != text.encode("utf-8", "surrogatepass"):
            return False  # this vocabulary cannot spell it
        return bool(matcher.consume_tokens(ids) and matcher.is_accepting())

    def read(self, answer: Completion) -> Parsed:
        """The value of an answer. One that a limit cut is not valid, whatever it holds."""
        if answer.finish_reason != "stop":
            limit = "max_tokens" if answer.finish_reason == "length" else "the model's context"
            return Parsed(False, why=f"the answer was cut by {limit} after {len(answer.ids)} tokens; it is not whole.")
        return self.read_text(answer.text)

    def read_text(self, text: str) -> Parsed:
        if not self.accepts(text):
            return Parsed(False, why=f"the text does not follow {self.what}: {text[:80]!r}")
        try:
            return Parsed(True, self._reader(text))
        except (
            Exception
        ) as error:  # a class asks for more than its schema says, and its validators raise what they like; JSON: fewer digits
            return Parsed(False, why=f"{type(error).__name__}: {error}")


# -- forms -------------------------------------------------------------------------------------------------------------------------


def json_object(tokenizer: Tokenizer, *, vocab: int | None = None, limits: Limits = LIMITS) -> Grammar:
    """Any JSON object."""
    return compiled(tokenizer, "schema", '{"type": "object"}', "a JSON object", vocab, limits, json.loads)


def json_schema(tokenizer: Tokenizer, schema: Any, *, vocab: int | None = None, limits: Limits = LIMITS) -> Grammar:
    """JSON of a schema: a dictionary, or a Pydantic class, and then the value read is one of its objects (with its fields alone, unless the
    class allows extra ones).

    Keywords that cannot be held to are refused by name, never left out. At most one space stands behind a comma or a colon.
    """
    reader: Callable[[str], Any] = json.loads
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        model: Any = schema
        reader, schema = model.model_validate_json, closed(model.model_json_schema())
    if not isinstance(schema, Mapping):
        raise RecipeError(f"a JSON schema is a dictionary or a Pydantic class, not {schema!r:.80}")
    check_depth(schema, limits.depth, "the JSON schema")
    check_keywords(schema, "the JSON schema")
    try:
        text = json.dumps(exact_formats(schema), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RecipeError(f"the JSON schema is no JSON: {error}.") from error
    return compiled(tokenizer, "schema", check_size(text, limits.size, "the JSON schema"), "the JSON schema", vocab, limits, reader)


def regex(tokenizer: Tokenizer, pattern: str, *, vocab: int | None = None, limits: Limits = LIMITS) -> Grammar:
    """A text that the pattern matches from its beginning to its end. Rust's syntax: no look-around, no references back."""
    return compiled(tokenizer, "regex", check_size(pattern, limits.pattern, "the regex"), "the regex", vocab, limits)


def choice(tokenizer: Tokenizer, texts: Sequence[str], *, vocab: int | None = None, limits: Limits = LIMITS) -> Grammar:
    """One of some texts."""
    if isinstance(texts, str) or not texts or any(not isinstance(text, str) or not text for text in texts):
        raise RecipeError(f"a choice is a list of texts, none of them empty, not {texts!r:.80}")
    if len(texts) > limits.choices:
        raise RecipeError(f"the choice has {len(texts):,} texts; at most {limits.choices:,} are allowed.")
    check_size("".join(texts), limits.size, "the choice")
    pattern = "|".join("".join(map(_literal, text)) for text in dict.fromkeys(texts))
    return compiled(tokenizer, "regex", pattern, "the choice", vocab, limits)


def _literal(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}"


def grammar(tokenizer: Tokenizer, text: str, *, vocab: int | None = None, limits: Limits = LIMITS) -> Grammar:
    """Rules in Lark's syntax as llguidance has it, beginning at `start`, or in llama.cpp's GBNF, beginning at `root`."""
    check_size(text, limits.size, "the grammar")
    return compiled(tokenizer, "gbnf" if "::=" in text else "lark", text, "the grammar", vocab, limits)


def later(make: Callable[P, Grammar], *args: P.args, **options: P.kwargs) -> Future[Grammar]:
    """One of the functions above, on another thread: a loop that serves others does not wait for it."""
    return _pool().submit(make, *args, **options)


# -- the library -------------------------------------------------------------------------------------------------------------------


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "quire-grammars")


@cache
def _trial() -> Trial:
    return Trial()


_compiled: OrderedDict[tuple[str, str, Limits], str] = OrderedDict()
_trees: weakref.WeakKeyDictionary[Tokenizer, Any] = weakref.WeakKeyDictionary()
_lock = Lock()


def compiled(
    tokenizer: Tokenizer, kind: str, text: str, what: str, vocab: int | None, limits: Limits, reader: Callable[[str], Any] = str
) -> Grammar:
    """A grammar of a kind that `trial` knows: schema, regex, lark or gbnf. what: how messages call it."""
    _library()
    with _lock:
        source = _compiled.get((kind, text, limits))
    if source is None:
        source = _trial().compile(kind, text, limits, what)
    with _lock:
        _compiled[kind, text, limits] = source
        _compiled.move_to_end((kind, text, limits))
        while len(_compiled) > _KEPT or sum(len(key[1]) + len(made) for key, made in _compiled.items()) > _KEPT_SIZE:
            _compiled.popitem(last=False)
    return Grammar(tokenizer, source, what, vocab, limits, reader)


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ExtraError("llguidance", "structured", "structured output") from error
    return llguidance


class _Vocabulary:
    """A tokenizer as llguidance asks for one. Its end of text is a token of our own behind all others: ours is the engine's to decide."""

    bos_token_id, is_tokenizer_wrapper = None, True

    def __init__(self, tokenizer: Tokenizer) -> None:
        size = tokenizer.vocab_size
        self.tokens = [*(_bytes(tokenizer, token) for token in range(size)), b"<end of the answer>"]
        self.eos_token_id = size
        self.special_token_ids = [*sorted(tokenizer.special_tokens.values()), size]
        self._tokenizer = weakref.ref(tokenizer)
        special = set(self.special_token_ids)
        self._ids = {spelt: token for token, spelt in reversed(list(enumerate(self.tokens))) if token not in special and spelt}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of what must come next: those the tokenizer gives, where they spell just that, else the longest pieces there are."""
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        tokenizer = self._tokenizer()
        try:
            ids = tokenizer.encode(data.decode()) if tokenizer is not None else []
        except (UnicodeDecodeError, DataError):
            ids = []
        if b"".join(self.tokens[token] for token in ids) == data:
            return ids
        ids, at = [], 0
        while at < len(data):
            sizes = range(min(self._longest, len(data) - at), 0, -1)
            size = next((size for size in sizes if data[at : at + size] in self._ids), 0)
            if not size:
                break
            ids.append(self._ids[data[at : at + size]])
            at += size
        return ids


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    try:
        return tokenizer.token_bytes(token)
    except DataError:
        return b""  # ids without a token


def vocabulary(tokenizer: Tokenizer) -> Any:
    """The trie of a tokenizer's bytes, made once and kept as long as the tokenizer."""
    with _lock:
        found = _trees.get(tokenizer)
        if found is None:
            adapter = _Vocabulary(tokenizer)
            found = _trees[tokenizer] = _library().LLTokenizer(adapter, eos_token=adapter.eos_token_id)
        return found
