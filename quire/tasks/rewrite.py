"""Text in, text out, with an encoder-decoder: translate, summarize, or whatever else its prompt asks for.

How it writes is what the caller says, or else what the model's folder says, read as transformers reads it: generation_config.json, in older
folders the same fields of config.json, and over them the `task_specific_params` of config.json for the task at hand (T5's prefix
"translate English to German: ", its beams and lengths). Nothing of it is dropped: a field that would change the text and is not understood
is refused by name, one that nobody knows is named in a warning. Ids that must begin, end or never be in a text hold whoever decides the
rest.

Sources are batched by length, the rows of one batch advance together, and a row leaves when it is finished.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..binding.contract import Contract
from ..binding.generation import GENERATION, OFF, UNDERSTOOD, fields
from ..decode.beam import check as check_beam
from ..decode.beam import search
from ..decode.rows import Weights, understands
from ..decode.sampler import check as check_sampling
from ..decode.together import Rules, write
from ..errors import ModelError, RecipeError
from ..nn.transformer import Transformer
from ..text.definition import parse_json, read_optional
from ..text.library import texts_of
from ..types import Beam, Completion, Sampling
from .lengths import batches
from .reading import TOKENS_A_BATCH, Long, Row, read

Task = Literal["translation", "summarization", "text2text"]
How = Sampling | Beam

_TRANSLATION = re.compile(r"translation_(.+)_to_(.+)")


@dataclass(frozen=True)
class Plan:
    """How one task is done: what stands before each text, how the answer is written, and what holds of every answer."""

    prefix: str
    how: How
    rules: Rules


def plan(
    folder: Path,
    vocab: int,
    task: Task,
    how: How | None,
    source: str | None,
    target: str | None,
    changed: Mapping[str, Any] | None = None,
) -> Plan:
    """What `how` (None: the folder) and the folder say. changed: fields of config.json that an adapter brings instead of the folder's.

    Raises ModelError and RecipeError naming the field.
    """
    config = _object(folder / "config.json") | dict(changed or {})
    return planned(config, _object(folder / GENERATION), folder, vocab, task, how, source, target)


def planned(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    folder: Path,
    vocab: int,
    task: Task,
    how: How | None = None,
    source: str | None = None,
    target: str | None = None,
) -> Plan:
    """`plan` for what the two files of `folder` hold, or will hold."""
    said = fields(config, generation)
    said |= {name: value for name, value in _task(config, task, source, target, folder).items() if value is not None}
    prefix = said.pop("prefix", None) or ""
    if not isinstance(prefix, str):
        raise ModelError(f"{folder}: the prefix is {prefix!r}; allowed is a text.")
    rules = _rules(said, vocab, folder)
    if how is None:
        _refuse(said, folder)
        how = _how(said, folder)
    if isinstance(how, Beam):
        how = replace(
            how,
            forced_first=rules.forced_first if how.forced_first is None else how.forced_first,
            forced_last=rules.forced_last if how.forced_last is None else how.forced_last,
            forbidden=tuple(dict.fromkeys((*how.forbidden, *rules.forbidden))),
        )
        check_beam(how, vocab)
    elif isinstance(how, Sampling):
        check_sampling(how, vocab)
    else:
        raise RecipeError(f"how is {how!r}; allowed: a Sampling, a Beam, or None for what the model's folder says.")
    return Plan(prefix, how, rules)


def rewrite(
    model: Transformer,
    contract: Contract,
    start: int,
    texts: Sequence[str],
    chosen: Plan,
    *,
    slots: int = 128,
    long: Long | None = None,
    cut: list[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """The answer to each text, in order.

    start: the id with which the decoder begins. slots: rows of one batch, beams counted. long, cut: as in `reading.read`; None is as in
    training. Raises ContextError for texts that are too long, before any work; RecipeError for beams with stop strings.
    """
    limit, asked = contract.limit(model.config.context), [chosen.prefix + text for text in texts_of(texts)]
    sources = read(contract, asked, limit, long, cut)
    return written(model, contract, start, sources, chosen, slots=slots, progress=progress)


def written(
    model: Transformer,
    contract: Contract,
    start: int,
    sources: Sequence[Row],
    chosen: Plan,
    *,
    slots: int = 128,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """The answer to each row of ids, in order; batched by length. Arguments and errors as in `rewrite`."""
    tokenizer = contract.tokenizer.target
    stops = [id for id in contract.stop_ids or () if id < model.config.vocab]
    how = chosen.how
    if isinstance(how, Sampling):
        how = replace(how, stop=(*how.stop, *contract.stop_strings))
    elif contract.stop_strings:
        raise RecipeError(f"this model stops at {contract.stop_strings!r}; beams end at ids alone. Give a Sampling instead.")

    width = how.width if isinstance(how, Beam) else 1
    weights = Weights(model, slots) if len(sources) * width >= slots and understands(model) else None

    def forward(batch: list[Row]) -> list[Completion]:
        prompts, ids = [[start]] * len(batch), [row.ids for row in batch]
        if isinstance(how, Sampling):
            return write(model, prompts, how, tokenizer, stop_ids=stops, sources=ids, rules=chosen.rules, weights=weights)
        found = search(model, prompts, how, stop_ids=stops, sources=ids, weights=weights)
        ends = frozenset(stops)
        return [
            Completion(tokenizer.decode(one.ids[:-1] if one.ids[-1] in ends else one.ids), one.ids, one.reason, len(row))
            for one, row in zip(found, batch)
        ]

    found: dict[int, Completion] = {}
    for batch in batches([len(row) for row in sources], TOKENS_A_BATCH):
        parts = -(-len(batch) * width // max(slots, width))
        for part in range(parts):
            numbers = batch[len(batch) * part // parts : len(batch) * (part + 1) // parts]
            found.update(zip(numbers, forward([sources[number] for number in numbers]), strict=True))
            if progress is not None:
                progress(len(found))
    return [found[number] for number in range(len(sources))]


# -- what the folder says --------------------------------------------------------------------------------------------------------


def _object(path: Path) -> dict[str, Any]:
    text = read_optional(path, 1 << 24)
    value = {} if text is None else parse_json(text.encode("utf-8"), str(path))
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object. Fetch it again.")
    return value


def _task(config: Mapping[str, Any], task: Task, source: str | None, target: str | None, folder: Path) -> Mapping[str, Any]:
    """The part of task_specific_params for this task. Raises RecipeError listing the translations when the choice is not clear."""
    tasks = config.get("task_specific_params") or {}
    if not isinstance(tasks, dict) or not all(isinstance(value, dict) for value in tasks.values()):
        raise ModelError(f"{folder / 'config.json'}: task_specific_params is {str(tasks)[:80]!r}; allowed is a table of tables, or null.")
    found: Mapping[str, Any]
    if task != "translation":
        found = tasks.get(task, {})
        return found
    pairs = {(match[1], match[2]): value for name, value in tasks.items() if (match := _TRANSLATION.fullmatch(name))}
    fit = {pair: value for pair, value in pairs.items() if (source is None or pair[0] == source) and (target is None or pair[1] == target)}
    if len(fit) == 1:
        return next(iter(fit.values()))
    if not pairs and source is None and target is None:
        found = tasks.get("translation", {})
        return found
    asked = f"source {source!r} and target {target!r}"
    if not pairs:
        raise RecipeError(f"{folder} names no languages to choose from, so {asked} mean nothing to it. Leave them out.")
    listed = ", ".join(f"{a} to {b}" for a, b in pairs)
    which = "none of its translations" if not fit else f"{len(fit)} of its translations"
    raise RecipeError(f"{asked} fit {which}. {folder} has: {listed}. Give source and target.")


def _rules(said: Mapping[str, Any], vocab: int, folder: Path) -> Rules:
    def one(name: str) -> int | None:
        value = said.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value is not None and not _is_id(value, vocab):
            raise ModelError(f"{folder}: {name} is {value!r}; allowed is one id from 0 to {vocab - 1}.")
        return value

    words = said.get("bad_words_ids") or []
    if not isinstance(words, list) or not all(isinstance(word, list) and len(word) == 1 and _is_id(word[0], vocab) for word in words):
        raise ModelError(
            f"{folder}: bad_words_ids is {str(words)[:80]}; allowed is a list of single ids ([[3], [7]]) from 0 to {vocab - 1}: "
            "words of several tokens cannot be forbidden."
        )
    return Rules(one("forced_bos_token_id"), one("forced_eos_token_id"), tuple(word[0] for word in words))


def _is_id(value: Any, vocab: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab


def _refuse(said: Mapping[str, Any], folder: Path) -> None:
    """Nothing that would change the text is passed over."""
    strange = []
    for name, value in said.items():
        if name in OFF and value is not False and value not in OFF[name]:
            raise ModelError(
                f"{folder} asks for {name} = {value!r}, which is not computed here: its texts would come out otherwise. "
                "Say how to write: a Sampling or a Beam."
            )
        if name not in OFF and name not in UNDERSTOOD:
            strange.append(name)
    if strange:
        warnings.warn(
            f"{folder}: {GENERATION} or task_specific_params has {', '.join(sorted(strange))}, which nothing here reads.",
            RuntimeWarning,
            stacklevel=4,
        )


def _how(said: Mapping[str, Any], folder: Path) -> How:
    """Greedy (a beam of one that ends at its first end), beams or sampling, as the folder says."""

    def whole(name: str, default: int) -> int:
        value = said.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{folder}: {name} is {value!r}; allowed is a whole number, 0 or more.")
        return value

    width, gram = max(1, whole("num_beams", 1)), whole("no_repeat_ngram_size", 0)
    # the reference counts the decoder's start id among max_length and min_length
    most = whole("max_new_tokens", 0) or max(1, whole("max_length", Beam().max_tokens + 1) - 1)
    least = whole("min_new_tokens", 0) or max(0, whole("min_length", 0) - 1)
    penalty = said.get("repetition_penalty", 1.0)
    if said.get("do_sample"):
        unfit = f"num_beams = {width}" if width > 1 else f"no_repeat_ngram_size = {gram}" if gram else ""
        if unfit:
            raise ModelError(
                f"{folder} asks for sampling with {unfit}, which is not computed here. Say how to write: a Sampling or a Beam."
            )
        same = {name: said[name] for name in ("temperature", "top_k", "top_p", "min_p", "typical_p") if name in said}
        return Sampling(max_tokens=most, min_tokens=least, repetition_penalty=penalty, **same)
    stopping = said.get("early_stopping", False)
    if not isinstance(stopping, bool):
        raise ModelError(f"{folder}: early_stopping is {stopping!r}; allowed is true or false. Say how to write: a Sampling or a Beam.")
    alone = width == 1
    power = 1.0 if alone else said.get("length_penalty", 1.0)
    return Beam(width, most, least, power, no_repeat_ngram=gram, repetition_penalty=penalty, early_stopping=stopping or alone)
