"""The contract: everything beside the weights that decides what a model reads and when it stops.

Tokenizer, chat template, special ids, stop rule and loss-mask rule are one object with one hash, used by the trainer, the evaluator, `load`
and every server alike. In other stacks these five live in five places, and most silent failures come from two of them disagreeing.

On disk it is what other tools read: tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json. The special ids
say also what is put around a plain text (`before`, `after`), which a tokenizer.json keeps in its post-processor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from .. import durable
from ..errors import DataError, ModelError, RecipeError
from ..text.definition import parse_json, read_optional
from ..text.gguf import definition
from ..text.template import CHATML, Template
from ..text.tokenizer import Tokenizer
from ..types import Long, Message
from . import gguf
from .generation import GENERATION, of_config
from .truncation import CONFIG, FIELD, LENGTH, Truncation

# What `Contract.save` may write.
FILES = ("tokenizer.json", "tokenizer_target.json", CONFIG, "chat_template.jinja", GENERATION)
_TYPED = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}  # transformers 5 leaves types out unless they are here
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_RULE = (*_IDS, "stop_strings", "transformers_version", "_from_model_config")  # not defaults for sampling: the rest are


def canonical(value: Any) -> str:
    """SHA-256 of a JSON value, the same however it was laid out."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Contract:
    """tokenizer, template (None: a base model), stop rule; the loss-mask rule follows from the template.

    stop_ids: None makes a new contract: the end-of-text token and what ends a turn of the template stop, and a tokenizer that says nothing
    about what stands around a text is told so (`framed`). decoder_start: the id with which an encoder-decoder begins to write.
    defaults: recommended sampling values; truncation: how long texts were in training, and how longer ones are cut. Both are recorded but
    not hashed: a temperature, or another cut, makes no other model.
    """

    tokenizer: Tokenizer
    template: Template | None = None
    stop_ids: tuple[int, ...] | None = None
    stop_strings: tuple[str, ...] = ()
    decoder_start: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    truncation: Truncation | None = None

    def __post_init__(self) -> None:
        if self.stop_ids is None:
            eos = self.tokenizer.eos
            object.__setattr__(self, "tokenizer", framed(self.tokenizer))
            object.__setattr__(self, "stop_ids", tuple(dict.fromkeys(([] if eos is None else [eos]) + list(self.turn_end))))

    @classmethod
    def open(cls, folder: Path | str) -> Contract:
        """From a model folder of ours or of anyone. generation_config.json decides where config.json says otherwise, as in transformers.

        A GGUF file holds all of it in itself. Raises ModelError for a file that is missing or damaged.
        """
        folder = Path(folder)
        if folder.is_file():
            return _of_gguf(folder)
        tokenizer = Tokenizer.open(folder)
        config, generation = _object(folder / "config.json"), _object(folder / GENERATION)
        rule = {name: _ids(source, name, folder) for source in (config, generation) for name in _IDS if source.get(name) is not None}
        stop = rule.get("eos_token_id", () if tokenizer.eos is None else (tokenizer.eos,))
        start = rule.get("decoder_start_token_id") or (rule.get("pad_token_id") if config.get("is_encoder_decoder") else None)
        strings = generation.get("stop_strings") or ()
        return cls(
            tokenizer,
            Template.open(folder, tokenizer),
            tuple(sorted(set(stop))),
            (strings,) if isinstance(strings, str) else tuple(map(str, strings)),
            start[0] if start else None,
            {name: value for name, value in (generation or of_config(config)).items() if name not in _RULE},
            Truncation.of(tokenizer.settings(), str(folder / CONFIG)),
        )

    def save(self, folder: Path | str, types: int | None = None) -> None:
        """Writes the four files, so that transformers reads the same tokenizer, template and stop rule.

        Which of a pair's texts a token is in is for models that have types. types: how many this one has; None is what a config.json says
        that is there already.
        """
        folder = durable.make_folder(folder)
        types = _object(folder / "config.json").get("type_vocab_size") if types is None else types
        typed = isinstance(types, int) and types > 1 and any(kind for _, kind in self.pair_layout)
        self.tokenizer.save(folder, _TYPED if typed else {}, self._cut())
        if self.template is not None:
            self.template.save(folder)
        tokenizer, stop = self.tokenizer, list(self.stop_ids or ())
        ids: dict[str, Any] = {
            "bos_token_id": tokenizer.bos,
            "eos_token_id": stop[0] if len(stop) == 1 else stop or None,
            "pad_token_id": tokenizer.pad,
            "decoder_start_token_id": self.decoder_start,
            "stop_strings": list(self.stop_strings) or None,
        }
        durable.write_json(folder / GENERATION, {name: value for name, value in ids.items() if value is not None} | dict(self.defaults))

    def _cut(self) -> dict[str, Any]:
        """How texts are cut, as tokenizer_config.json says it; a tokenizer of a tuned model may say it of another model's training."""
        if self.truncation is not None:
            return self.truncation.settings()
        return dict.fromkeys((FIELD, LENGTH)) if FIELD in self.tokenizer.settings() else {}

    # -- what is hashed ----------------------------------------------------------------------------------------------------------

    @property
    def mask_rule(self) -> str:
        """Which tokens a conversation trains: where the template marks them, where prefix rendering proves them, or, without one, all."""
        if self.template is None:
            return "every token"
        return "generation marks" if self.template.marks_generation else "prefix rendering"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The parts as JSON; `id` is their hash, and a difference is reported by the part that it is in."""
        template = None if self.template is None else self.template.canonical()
        return {
            "tokenizer": self.tokenizer.hash,
            "template": None if template is None else hashlib.sha256(template).hexdigest(),
            "special ids": {
                "roles": dict(sorted(self.tokenizer.special_ids.items())),
                "all": dict(sorted(self.tokenizer.special_tokens.items())),
                "before": list(self.before),
                "after": list(self.after),
                "decoder start": self.decoder_start,
            },
            "stop rule": {"ids": sorted(self.stop_ids or ()), "strings": list(self.stop_strings)},
            "loss-mask rule": self.mask_rule,
        }

    @cached_property
    def id(self) -> str:
        return canonical(self.facts)

    # -- what it is used for -----------------------------------------------------------------------------------------------------

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return around(self.tokenizer.definition.raw.get("post_processor"), self.tokenizer.special_tokens)

    @property
    def before(self) -> tuple[int, ...]:
        """Special ids that stand before a plain text (LLaMA's <s>, BERT's [CLS])."""
        return self._around[0]

    @property
    def after(self) -> tuple[int, ...]:
        """Special ids that close a whole text (BERT's [SEP], T5's </s>)."""
        return self._around[1]

    def limit(self, context: int) -> int:
        """Tokens of a row at most, of a model that reads `context`: as in training, or all of them."""
        return context if self.truncation is None else min(self.truncation.longest, context)

    def most(self, limit: int) -> str:
        """A `limit` that a text goes beyond, in words: what the model was tuned on is often less than what it could read."""
        tuned = self.truncation is not None and limit == self.truncation.longest
        return f"this model was tuned on texts of at most {limit:,} tokens" if tuned else f"this model reads {limit:,} at once"

    def long(self, asked: Long | None) -> Long:
        """What happens to a text that is too long: what was asked for, else as its training says, else it is an error.

        Raises RecipeError for a word that says nothing.
        """
        if asked is not None and asked not in get_args(Long):
            raise RecipeError(f"long is {asked!r}; allowed: {', '.join(get_args(Long))}.", field="long")
        return asked or (self.truncation.long if self.truncation is not None else "error")

    def prompt(self, text: str) -> list[int]:
        """Ids of a text to be continued. An empty one begins with the begin-of-text token, and is refused where there is none."""
        ids = [*self.before, *self.tokenizer.encode(text)]
        if ids:
            return ids
        if self.tokenizer.bos is None:
            raise DataError("the prompt is empty, and this tokenizer has no begin-of-text token to start from. Give a prompt.")
        return [self.tokenizer.bos]

    def whole(self, text: str) -> list[int]:
        """Ids of a text to be read as a whole (an encoder's side), with what belongs around it."""
        return [*self.before, *self.tokenizer.encode(text), *self.after]

    def pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """(ids, token types) of two texts that are read together, as the tokenizer's post-processor joins them."""
        return self.join(self.tokenizer.encode(first), self.tokenizer.encode(second))

    def join(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """The same, of ids that were made before: [CLS] A [SEP] B [SEP] and 0 0 0 1 1 for BERT, <s> A </s></s> B </s> for RoBERTa."""
        ids: list[int] = []
        types: list[int] = []
        for part, kind in self.pair_layout:
            more = [part] if isinstance(part, int) else first if part == "A" else second
            ids += more
            types += [kind] * len(more)
        return ids, types

    @cached_property
    def pair_layout(self) -> tuple[tuple[str | int, int], ...]:
        """What stands where in a pair, each with its token type: "A" is the first text, "B" the second, a number a special id."""
        return paired(self.tokenizer.definition.raw.get("post_processor"))

    @cached_property
    def turn_end(self) -> tuple[int, ...]:
        """The special ids with which the template ends an assistant's turn: they must stop a chat, listed as a stop rule or not."""
        if self.template is None:
            return ()
        try:
            turn = self.template.encode(self.tokenizer, [Message("user", "a"), Message("assistant", "b")])
        except (DataError, ModelError):
            return ()  # a template that wants other turns, or one where it cannot be told: the stop rule alone counts
        ends = [token for token, trained in zip(turn.ids, turn.trained) if trained and self.tokenizer.is_special(token)]
        return tuple(ends[-1:])


def chatml(tokenizer: Tokenizer) -> Template | None:
    """ChatML where the tokenizer has reserved its marks; None leaves a base model without a template."""
    if {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.special_tokens):
        return Template(CHATML, tokenizer.special)
    return None


def _of_gguf(path: Path) -> Contract:
    values = gguf.read(path).values
    tokenizer = Tokenizer(*definition(values, str(path)))
    source = values.get("tokenizer.chat_template")
    if source is not None and (not isinstance(source, str) or len(source) > 2**20):
        raise ModelError(f"{path}: tokenizer.chat_template must be a text of at most {2**20:,} characters.")
    stops = (values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))  # of a text, a turn, a message
    known = {token for token in stops if type(token) is int and 0 <= token < tokenizer.vocab_size}
    return Contract(
        tokenizer, Template(source, tokenizer.special, origin=f"the template in {path}") if source else None, tuple(sorted(known))
    )


def framed(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with a post-processor that puts around a text what training puts there, so that every tool does.

    [CLS] text [SEP] for an encoder; text </s> where there is an end-of-text token alone; otherwise the begin-of-text token before it: a
    document in training always begins behind a separator. A tokenizer that has a post-processor is left as it is.
    """
    if tokenizer.definition.raw.get("post_processor") is not None:
        return tokenizer
    names = tokenizer.special
    if "cls" in names and "sep" in names:
        single: list[str] = [names["cls"], "A", names["sep"]]
        pair = [*single, "B", names["sep"]]
    elif "bos" in names:
        single, pair = [names["bos"], "A"], [names["bos"], "A", "B"]
    elif "eos" in names:
        single, pair = ["A", names["eos"]], ["A", names["eos"], "B", names["eos"]]
    else:
        return tokenizer
    used = {spelling: tokenizer.special_tokens[spelling] for spelling in pair if spelling in tokenizer.special_tokens}

    def parts(listed: list[str]) -> list[dict[str, Any]]:
        second = listed.index("B") if "B" in listed else len(listed)
        kinds = [("Sequence" if word in ("A", "B") else "SpecialToken", word, int(place >= second)) for place, word in enumerate(listed)]
        return [{kind: {"id": word, "type_id": number}} for kind, word, number in kinds]

    post = {
        "type": "TemplateProcessing",
        "single": parts(single),
        "pair": parts(pair),
        "special_tokens": {spelling: {"id": spelling, "ids": [token], "tokens": [spelling]} for spelling, token in used.items()},
    }
    definition = replace(tokenizer.definition, raw={**tokenizer.definition.raw, "post_processor": post})
    return Tokenizer(definition, tokenizer.settings())


def around(post: Any, special: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, after) of one text, from the post-processor of a tokenizer.json. Raises ModelError for one that is not understood."""
    kind = post.get("type") if isinstance(post, dict) else None
    try:
        if post is None or kind == "ByteLevel":
            return (), ()
        if kind == "Sequence":
            before: tuple[int, ...] = ()
            after: tuple[int, ...] = ()
            for step in post["processors"]:
                more_before, more_after = around(step, special)
                before, after = more_before + before, after + more_after
            return before, after
        if kind in ("BertProcessing", "RobertaProcessing"):
            return (int(post["cls"][1]),), (int(post["sep"][1]),)
        if kind == "TemplateProcessing":
            ids: list[list[int]] = [[], []]
            side = 0
            for part in post["single"]:
                if "Sequence" in part:
                    side = 1
                else:
                    ids[side] += map(int, post["special_tokens"][part["SpecialToken"]["id"]]["ids"])
            return tuple(ids[0]), tuple(ids[1])
    except (KeyError, TypeError, IndexError, ValueError):
        pass
    raise ModelError(
        f"tokenizer.json: its post_processor (type {kind!r}) is not understood, so it is not known which ids stand around a text. "
        "Known: TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, and a Sequence of them."
    )


def paired(post: Any) -> tuple[tuple[str | int, int], ...]:
    """`Contract.pair_layout` from the post-processor of a tokenizer.json. Raises ModelError for one that is not understood."""
    kind = post.get("type") if isinstance(post, dict) else None
    plain: tuple[tuple[str | int, int], ...] = (("A", 0), ("B", 1))
    try:
        if post is None or kind == "ByteLevel":
            return plain
        if kind == "Sequence":
            found = [part for part in map(paired, post["processors"]) if part != plain]
            if len(found) < 2:
                return found[0] if found else plain
        if kind in ("BertProcessing", "RobertaProcessing"):
            cls, sep = int(post["cls"][1]), int(post["sep"][1])
            if kind == "BertProcessing":
                return (cls, 0), ("A", 0), (sep, 0), ("B", 1), (sep, 1)
            return (cls, 0), ("A", 0), (sep, 0), (sep, 0), ("B", 0), (sep, 0)
        if kind == "TemplateProcessing":
            layout: list[tuple[str | int, int]] = []
            for part in post["pair"]:
                (piece,) = part.values()
                if "Sequence" in part:
                    layout.append((str(piece["id"]), int(piece["type_id"])))
                else:
                    layout += [(int(token), int(piece["type_id"])) for token in post["special_tokens"][piece["id"]]["ids"]]
            if [part for part, _ in layout if isinstance(part, str)] == ["A", "B"]:
                return tuple(layout)
    except (KeyError, TypeError, IndexError, ValueError):
        pass
    raise ModelError(f"tokenizer.json: how its post_processor (type {kind!r}) joins two texts is not understood, so pairs cannot be read.")


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no file."""
    text = read_optional(path, 2**24)
    value = {} if text is None else parse_json(text.encode("utf-8"), str(path))
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object. Fetch it again.")
    return value


def _ids(source: dict[str, Any], name: str, folder: Path) -> tuple[int, ...]:
    value = source[name]
    listed = value if isinstance(value, list) else [value]
    if not all(type(token) is int and token >= 0 for token in listed):
        raise ModelError(f"{folder}: {name} is {value!r}; allowed is an id, or a list of ids, each 0 or more.")
    return tuple(listed)
