"""One tokenizer for training, serving and export: text to ids and back.

Three promises. Text never becomes a special token, whatever it spells (`definition.twin` says how). Nothing is cut silently: a text
that is too long is an error with numbers, or the number of tokens cut is returned. What `transformers` reads from the saved folder
gives the same ids.

Encoding is done by the `tokenizers` library; with the extra `fast`, byte-level BPE goes through tiktoken once equal ids are proven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import durable
from ..errors import ContextError, DataError
from . import definition as definitions
from .decoding import Piece, StreamDecoder, byte_level, join, piece_of
from .definition import Definition
from .library import check_text, engine, library_errors
from .rows import Encoded, PaddedBatch, pad_rows, real_places

if TYPE_CHECKING:
    import tokenizers

    from .fast import Fast


class Tokenizer:
    """Text <-> ids. Open one with `Tokenizer.open`, or train one with `quire.text.training.train`."""

    def __init__(self, definition: Definition, settings: Mapping[str, Any] | None = None) -> None:
        """settings: further values of tokenizer_config.json, kept when saved."""
        self.definition = definition
        self._settings = dict(settings or {})
        self._secret, self._engine = engine(definition)
        self._special_ids = frozenset(definition.special.values())
        self._piece: Piece | None = piece_of(definition)

    # -- opening and saving ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path | str) -> Tokenizer:
        """A file that holds a tokenizer, or a folder with one (and tokenizer_config.json for the parts of its special tokens).

        Formats: tokenizer.json; vocab.json + merges.txt; WordPiece's vocab.txt; SentencePiece's .model; tiktoken's ranks; Marian's folder.
        Raises ModelError for a file that is missing, damaged, too large, or that the library cannot run.
        """
        from .formats import read

        return cls(*read(Path(path)))

    @classmethod
    def from_json(cls, text: str, settings: Mapping[str, Any] | None = None) -> Tokenizer:
        """From the text of a tokenizer.json and the values of a tokenizer_config.json."""
        return cls(
            definitions.define(definitions.parse_json(text.encode("utf-8", "surrogatepass"), "tokenizer"), "tokenizer", settings), settings
        )

    def save(self, folder: Path | str, more: Mapping[str, Any] | None = None, over: Mapping[str, Any] | None = None) -> None:
        """Writes tokenizer.json and tokenizer_config.json; transformers' AutoTokenizer opens the folder with equal ids.

        more: values of tokenizer_config.json that hold where it does not say otherwise; over: whatever it says, None takes one out.
        Where text of the decoder's side is encoded in another way, that goes into tokenizer_target.json.
        """
        from .formats import JSON, TARGET

        folder = durable.make_folder(folder)
        for name, definition in ((JSON, self.definition), (TARGET, self.definition.target)):
            if definition is not None:
                durable.write_text(folder / name, json.dumps(definition.raw, ensure_ascii=False, indent=1) + "\n")
        values = {**(more or {}), **self.settings(), **(over := over or {})}
        durable.write_json(folder / "tokenizer_config.json", {k: v for k, v in values.items() if v is not None or k not in over})

    def settings(self) -> dict[str, Any]:
        """The values of tokenizer_config.json."""
        roles = self.definition.roles
        settings = {key: value for key, value in self._settings.items() if key not in _OWN_SETTINGS}
        settings |= {f"{role}_token": spelling for role, spelling in roles.items()}
        extra = [spelling for spelling in self.definition.special if spelling not in roles.values()]
        if extra:
            settings["additional_special_tokens"] = extra
        # The class that reads tokenizer.json as it stands, in transformers 4 and 5 alike; others rebuild parts of it.
        return settings | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}

    @cached_property
    def target(self) -> Tokenizer:
        """What encodes text of the decoder's side: this tokenizer, but for Marian's, whose two sides cut text in different ways.

        Ids and special tokens are the same on both sides, so either decodes what the other encoded.
        """
        return self if self.definition.target is None else Tokenizer(self.definition.target, self._settings)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the vocabulary, the rules and the special tokens; the same however the file is laid out."""
        return self.definition.hash()

    def __repr__(self) -> str:
        return f"Tokenizer({self.definition.kind}, {self.vocab_size:,} tokens, {self.hash[:12]})"

    # -- the vocabulary ----------------------------------------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.definition.spellings, default=-1) + 1

    @property
    def special(self) -> dict[str, str]:
        """{role: spelling}, for the roles bos, eos, pad, unk, cls, sep and mask that this tokenizer has."""
        return dict(self.definition.roles)

    @property
    def special_ids(self) -> dict[str, int]:
        """{role: id}"""
        return {role: self.definition.special[spelling] for role, spelling in self.definition.roles.items()}

    @property
    def special_tokens(self) -> dict[str, int]:
        """{spelling: id} of every special token, those without a role included."""
        return dict(self.definition.special)

    def _role(self, role: str) -> int | None:
        spelling = self.definition.roles.get(role)
        return None if spelling is None else self.definition.special[spelling]

    @property
    def bos(self) -> int | None:
        return self._role("bos")

    @property
    def eos(self) -> int | None:
        return self._role("eos")

    @property
    def pad(self) -> int | None:
        return self._role("pad")

    @property
    def unk(self) -> int | None:
        return self._role("unk")

    @property
    def mask(self) -> int | None:
        return self._role("mask")

    @property
    def cls(self) -> int | None:
        return self._role("cls")

    @property
    def sep(self) -> int | None:
        return self._role("sep")

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {spelling: id for id, spelling in self.definition.spellings.items()}
        return ids | {token.content: token.id for token in self.definition.added}

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, special tokens included; None when it is not there."""
        return self._ids.get(token)

    def token(self, id: int) -> str:
        """The spelling in the vocabulary. Raises DataError for an id that is not there."""
        try:
            return self.definition.spellings[id]
        except KeyError:
            raise DataError(f"there is no token {id}; ids go from 0 to {self.vocab_size - 1}") from None

    def is_special(self, id: int) -> bool:
        return id in self._special_ids

    @cached_property
    def _plain_added(self) -> frozenset[int]:
        """Added tokens of a byte-level vocabulary: written as they are, not in the alphabet of bytes."""
        decoder = self.definition.raw.get("decoder")
        byte = isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"
        return frozenset(token.id for token in self.definition.added) if byte else frozenset()

    def token_bytes(self, id: int) -> bytes:
        """The bytes that this token adds inside a text (for a word piece: without the space before a new word)."""
        token = self.token(id)
        if id in self._plain_added or self._piece is None:
            return token.encode("utf-8", "replace")
        if self.definition.raw.get("decoder") is None or self._decoder_type == "WordPiece":
            return self._piece(token.removeprefix(self._word_piece_prefix), True)
        return self._piece(token, False)

    @property
    def _decoder_type(self) -> str:
        return str((self.definition.raw.get("decoder") or {}).get("type", ""))

    @property
    def _word_piece_prefix(self) -> str:
        return str((self.definition.raw.get("decoder") or {}).get("prefix", "##")) if self._decoder_type == "WordPiece" else ""

    # -- text to ids -------------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with nothing added around it and no special token in it, whatever it spells."""
        if not isinstance(text, str):
            check_text(text)
        # Proving the fast path takes a moment, which one short text does not pay back.
        fast = self.fast if len(text) > 1 << 16 else self.__dict__.get("fast")
        if fast is not None:
            check_text(text)
            found: list[int] = fast.encode(text)
            return found
        return self._library_encode(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on as many threads as the machine grants."""
        if self.fast is not None:
            for text in texts:
                check_text(text)
            return self.fast.encode_batch(texts)
        return self.library_batch(texts)

    def library_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_batch` through the `tokenizers` library alone: what the fast path is measured and proven against."""
        texts = list(texts)
        for text in texts:
            check_text(text)
        with library_errors("encoding"):
            return [row.ids for row in self._engine.encode_batch_fast(texts, add_special_tokens=False)]

    def pieces(self, text: str) -> Encoded:
        """Ids of a text, and the characters and the word that each stands for."""
        row = self._library_encode(text)
        return Encoded(row.ids, row.offsets, row.word_ids)

    def _library_encode(self, text: str, offsets: bool = True) -> tokenizers.Encoding:
        check_text(text)
        with library_errors("encoding"):
            fast = self._engine.encode_batch_fast  # without offsets
            return self._engine.encode(text, add_special_tokens=False) if offsets else fast([text], add_special_tokens=False)[0]

    def encode_parts(self, parts: Sequence[str | int], offsets: bool = True) -> Encoded:
        """Ids of a text in which some places are special tokens by right: a chat template's own; without offsets in a third of the time.

        parts: strings, in which nothing becomes a special token, and ids of special tokens. Offsets count characters of the joined text, a
        special token as its spelling. The ids are those that the library gives the joined text, for strings that spell no special token:
        everything is encoded in one call, so what a special token does to its neighbours happens as it would there.
        """
        spelt, places = self._spell(parts)
        row = self._library_encode(spelt, offsets)
        found = [id for id in row.ids if id in self._special_ids and id != self.unk]
        wanted = [part for part in parts if isinstance(part, int) and part != self.unk]
        if found != wanted:
            # A token that asks for a word boundary around it (single_word) may not be accepted where the template put it.
            raise DataError(
                f"the special tokens {wanted} were asked for and {found} came out: this tokenizer does not accept one of them at its place"
            )
        return Encoded(row.ids, real_places(row.offsets, places) if offsets else [])

    def _spell(self, parts: Sequence[str | int]) -> tuple[str, list[tuple[int, int, int]]]:
        """The text with secret spellings; (start in it, its length there, start in the real text) for each special token."""
        out: list[str] = []
        places: list[tuple[int, int, int]] = []
        there = here = 0
        for part in parts:
            if isinstance(part, int):
                spelling = self.token(part)
                secret = self._secret.get(spelling)
                if secret is None:
                    raise DataError(f"token {part} ({spelling!r}) is not a special token of this tokenizer")
                places.append((there, len(secret), here))
                there, here = there + len(secret), here + len(spelling)
                out.append(secret)
            else:
                there, here = there + len(part), here + len(part)
                out.append(part)
        places.append((there, 0, here))
        return "".join(out), places

    def batch(
        self,
        texts: Sequence[str],
        length: int | None = None,
        *,
        pad_to: int = 0,
        side: Literal["right", "left"] = "right",
        long: Literal["error", "cut"] = "error",
        before: Sequence[int] = (),
        after: Sequence[int] = (),
    ) -> PaddedBatch:
        """Texts as rows of equal length.

        length: the most tokens a row may have, `before` and `after` (ids put around every text) included; None: no limit.
        pad_to: at least this many columns; the longest row decides beyond it. side: where the padding goes.
        long: what to do with a text that does not fit: "error" raises ContextError with numbers; "cut" keeps its beginning and counts.
        Padding is the pad token, or 0 where there is none; `keep` tells them apart.
        """
        room = None if length is None else length - len(before) - len(after)
        if room is not None and room < 0:
            raise ContextError(f"a length of {length} has no room for the {len(before) + len(after)} tokens put around each text")
        rows: list[Encoded] = []
        cut: list[int] = []
        for number, text in enumerate(texts):
            row = self.pieces(text)
            over = max(0, len(row.ids) - room) if room is not None else 0
            if over and long == "error":
                raise ContextError(
                    f"text {number} has {len(row.ids):,} tokens, {over:,} more than the {room:,} that fit. "
                    'Shorten it, raise the length, or say long="cut" to keep its beginning.'
                )
            kept = len(row.ids) - over
            rows.append(Encoded([*before, *row.ids[:kept], *after], [(0, 0)] * len(before) + row.offsets[:kept] + [(0, 0)] * len(after)))
            cut.append(over)
        return pad_rows(rows, cut, max([pad_to, *(len(row.ids) for row in rows)]), self.pad or 0, side)

    @cached_property
    def fast(self) -> Fast | None:
        """The tiktoken path, once its ids are proven equal; None otherwise, and `why_not_fast` says why."""
        from .fast import prepare

        found, self.why_not_fast = prepare(self)
        return found

    why_not_fast: str = ""

    def alone(self, id: int) -> list[int]:
        """What the model makes of one vocabulary entry, taken as a whole piece of text: itself, unless it cannot be reached."""
        with library_errors("encoding"):
            return [token.id for token in self._engine.model.tokenize(self.token(id))]

    # -- ids to text -------------------------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of ids. special: also write the special tokens. Bytes that are no UTF-8 become U+FFFD.

        An id without a token adds nothing: a model may have more rows than its tokenizer has tokens, and pick one (as in transformers).

        Byte-level BPE gives back exactly what was encoded; the other kinds as far as their rules keep it.
        """
        if self._piece is None:
            return self._library_decode(list(ids), special)
        pieces: list[bytes] = []
        for id in ids:
            piece = self._next_piece(int(id), not pieces, special)
            if piece is not None:
                pieces.append(piece)
        return join(pieces)

    def _next_piece(self, id: int, first: bool, special: bool) -> bytes | None:
        token = self.definition.spellings.get(id)
        if token is None or (not special and id in self._special_ids):
            return None
        if id in self._plain_added:
            return token.encode("utf-8", "replace")
        assert self._piece is not None
        return self._piece(token, first)

    def _library_decode(self, ids: list[int], special: bool) -> str:
        import tokenizers

        ids = [id for id in ids if id in self.definition.spellings]
        with library_errors("decoding"):
            whole: str = tokenizers.Tokenizer.from_str(json.dumps(self.definition.raw, ensure_ascii=False)).decode(
                ids, skip_special_tokens=not special
            )
        return whole

    def stream(self, special: bool = False) -> StreamDecoder:
        """A decoder for ids that arrive one by one; see `StreamDecoder`."""
        whole = (lambda ids: self._library_decode(ids, special)) if self._piece is None else None
        return StreamDecoder(lambda id, first: self._next_piece(id, first, special), whole)

    @property
    def exact(self) -> bool:
        """Does decoding give back every text as it was? True for byte-level vocabularies without a normaliser."""
        raw = self.definition.raw
        return self._decoder_type == "ByteLevel" and raw.get("normalizer") is None and not _adds_space(raw.get("pre_tokenizer"))

    @cached_property
    def byte_ids(self) -> dict[bytes, int]:
        """{bytes: id} of a byte-level vocabulary, without added tokens."""
        added = {token.id for token in self.definition.added}
        found = ((byte_level(token), id) for id, token in self.definition.spellings.items() if id not in added)
        return {key: id for key, id in found if key is not None}


_OWN_SETTINGS = {
    *(f"{role}_token" for role in definitions.ROLES),
    *("additional_special_tokens", "extra_special_tokens", "tokenizer_class", "added_tokens_decoder", "auto_map", "chat_template"),
}


def _adds_space(pre_tokenizer: Any) -> bool:
    if not isinstance(pre_tokenizer, dict):
        return False
    steps = pre_tokenizer.get("pretokenizers") if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    return any(
        isinstance(step, dict) and step.get("type") == "ByteLevel" and bool(step.get("add_prefix_space", True)) for step in steps or []
    )
