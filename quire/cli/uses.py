"""What a model is for: the verbs that it serves, from its records alone; and opening one for a verb, or saying what else it can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ContextError, RecipeError
from ..progress import many
from ..types import Long
from .lines import Files, Machine, Row
from .paint import flat, paint

if TYPE_CHECKING:
    from pathlib import Path

    from ..binding import Contract
    from ..families import ModelFolder
    from ..model import Decoder, Encoder, Seq2Seq
    from ..nn.config import ModelConfig

    Opened = Decoder | Encoder | Seq2Seq

_LABELS = {"row": "classify", "token": "tag", "span": "answer", "next": "next-sentence"}
_GOES_ON = ("generate", "chat", "score", "fill", "eval")  # these read texts up to the model's context, however it was trained
_PAIRS = ("classify", "next-sentence", "answer")  # these join two texts as the tokenizer says
_VECTORS = ("embed", "similar", "cluster", "search")
_WRITTEN = {"row": "over whole texts", "token": "over tokens", "span": "where an answer begins and ends", "next": "whether a text follows"}


def uses(config: ModelConfig, contract: Contract) -> list[str]:
    """The verbs that a model serves, the most particular first; vectors of texts can be had from any."""
    from ..nn.config import LabelHead, LMHead, MLMHead

    head, words, verbs = config.head, contract.tokenizer, list[str]()
    if isinstance(head, LabelHead):
        verbs.append(_LABELS[head.over])
    if isinstance(head, MLMHead) and words.mask is not None:
        verbs += ["fill", "eval"]
    if isinstance(head, MLMHead) and head.next_sentence and words.sep is not None:
        verbs.append("next-sentence")
    if isinstance(head, LMHead) and config.kind == "seq2seq":
        verbs += ["translate", "summarize", "text2text", "generate", "score"]
        verbs += ["fill", "eval"] if words.token_id("<extra_id_0>") is not None else []
    if isinstance(head, LMHead) and config.kind == "decoder":
        verbs += ["generate", "chat", "score", "eval"]  # chat goes on with a base model's text
    return [*verbs, "embed", "similar", "cluster", "search"]


def describe(config: ModelConfig) -> str:
    """'an encoder without a head', 'a decoder with a label head over whole texts' ..."""
    from ..nn.config import LabelHead, LMHead, MLMHead

    head = config.head
    kind = {"encoder": "an encoder", "decoder": "a decoder", "seq2seq": "an encoder-decoder"}[config.kind]
    if isinstance(head, LabelHead):
        return f"{kind} with a label head {_WRITTEN[head.over]}"
    if isinstance(head, MLMHead):
        return f"{kind} that fills in masked words"
    return f"{kind} that writes text" if isinstance(head, LMHead) else f"{kind} without a head"


def trained_for(config: ModelConfig) -> str:
    """What somebody wanted who trained a model, or an adapter, of this head."""
    from ..nn.config import LabelHead, LMHead, MLMHead

    head = config.head
    if isinstance(head, LabelHead):
        return {"row": "labels of texts", "token": "labels of tokens", "span": "question answering", "next": "what follows what"}[head.over]
    if isinstance(head, MLMHead):
        return "words that are missing"
    return "writing text" if isinstance(head, LMHead) else "vectors of texts"


def open_for(verb: str, path: str, machine: Machine) -> Opened:
    """The model at `path`, on the threads that the machine grants. Raises RecipeError naming its uses when `verb` is not among them."""
    import torch

    from ..machine import threads
    from ..model import load

    model = load(path, machine.dtype, machine.device, machine.verify, machine.quant, machine.adapter)
    check(verb, model.config, model.contract, str(model.folder), machine.adapter)
    torch.set_num_threads(min(torch.get_num_threads(), threads()))
    return model


def check(verb: str, config: ModelConfig, contract: Contract, name: str, adapter: Path | None = None) -> None:
    """Raises RecipeError for a verb that a model does not serve. adapter: whose head `config` has, in place of the base's at `name`."""
    can = uses(config, contract)
    if verb in can:
        return
    if adapter is None:
        raise RecipeError(f"{verb} needs another model: {name} is {describe(config)}; it can: {', '.join(can)}.")
    raise RecipeError(
        f"{verb} needs another adapter: {adapter} was trained for {trained_for(config)}: use quire {can[0]}. With it, {name} is "
        f"{describe(config)}; it can: {', '.join(can)}."
    )


def opened_encoder(verb: str, path: str, machine: Machine) -> Encoder:
    from ..model import Encoder

    model = open_for(verb, path, machine)
    assert isinstance(model, Encoder)  # `uses` gives the verb to no other kind
    return model


def opened_seq2seq(verb: str, path: str, machine: Machine) -> Seq2Seq:
    from ..model import Seq2Seq

    model = open_for(verb, path, machine)
    assert isinstance(model, Seq2Seq)
    return model


def opened_writer(verb: str, path: str, machine: Machine) -> Decoder | Seq2Seq:
    from ..model import Encoder

    model = open_for(verb, path, machine)
    assert not isinstance(model, Encoder)
    return model


def dry_run(
    verb: str,
    path: str,
    rows: Sequence[Row],
    files: Files,
    machine: Machine,
    long: Long | None = None,
    windows: Callable[[ModelFolder, Contract, int], bool] = lambda opened, contract, context: False,
    as_read: Callable[[ModelFolder, Contract], Sequence[Row]] | None = None,
) -> int:
    """What a verb was given, in tokens of the model's own tokenizer, and what it would do with texts that are too long: the model is opened
    with its adapter, and no weights are read. windows: does the verb read a text that is too long in windows, with this context?
    as_read: the rows with the texts that this model reads, where those are others (a prefix, a prompt); they are what is counted.

    Raises ContextError, when all is said, where the verb would refuse a text.
    """
    from ..binding.truncation import ways
    from ..model import described

    opened, contract, context = described(path, machine.adapter)
    if machine.adapter:
        _proven(machine.adapter, opened)
    check(verb, opened.model_config, contract, str(opened.path), machine.adapter)
    counts = _counts(verb, contract, rows if as_read is None else as_read(opened, contract))
    most = context if verb in _GOES_ON else _most(verb, opened, contract, context)
    way = "windows" if windows(opened, contract, context) else "error" if verb in (*_GOES_ON, "tag") else contract.long(long)
    over = [(row.where or "the text", count - most) for row, count in zip(rows, counts) if count > most and way != "windows"]
    passed = sorted({name for row in rows for name in row.rest})
    facts: dict[str, Any] = {"verb": verb, "model": str(opened.path), "rows": len(rows), "tokens": sum(counts), "longest": max(counts)}
    facts |= {"context": most, "long": way, "too_long": [where for where, _ in over]}
    facts |= {"left_out": sum(count for _, count in over) if way != "error" else 0, "passed_through": passed}
    if files.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        _tell(facts)
    if over and way == "error":
        where, more = over[0]
        other = {"tag": ", or have it read in windows: --aggregation simple --stride 32", "search": ""}
        hint = other.get(verb, f", or say {ways('--long {}')}")
        raise ContextError(
            f"{where} has {most + more:,} tokens, and {most:,} are read at once. Shorten or divide it{'' if verb in _GOES_ON else hint}."
        )
    return 0


def _proven(adapter: Path, opened: ModelFolder) -> None:
    """Raises BindingError for an adapter of another base, as opening the two does."""
    from ..adapt.folder import proven, weights_hash
    from ..binding import bound

    proven(adapter, bound(opened.path), weights_hash(adapter), opened.path)


def _tell(facts: dict[str, Any]) -> None:
    longest = f"the longest {facts['longest']:,}; {facts['context']:,} are read at once"
    print(f"{many(facts['rows'], 'row')}, {facts['tokens']:,} tokens, {longest}")
    if facts["passed_through"]:
        print(f"passed through: {', '.join(map(flat, facts['passed_through']))}")
    if facts["long"] == "windows" and facts["longest"] > facts["context"]:
        print("what is longer is read in windows that overlap")
    if over := facts["too_long"]:
        what = "refused" if facts["long"] == "error" else f"cut ({facts['long']}), {facts['left_out']:,} tokens left out"
        print(paint(f"too long: {len(over):,} ({', '.join(over[:5])}{' ...' if len(over) > 5 else ''}): {what}", "yellow"))


def _counts(verb: str, contract: Contract, rows: Sequence[Row]) -> list[int]:
    """Tokens of each row: of its text, of what stands beside it, and of what is put around them."""
    texts = contract.tokenizer.encode_batch([row.text for row in rows])
    for number, row in enumerate(rows):
        if row.turns and contract.template is not None:
            texts[number] = list(contract.template.encode(contract.tokenizer, row.turns, add_generation_prompt=True).ids)
    beside = contract.tokenizer.encode_batch([row.beside or "" for row in rows])
    alone = len(contract.before) + len(contract.after)
    paired = sum(isinstance(part, int) for part, _ in contract.pair_layout) if verb in _PAIRS else alone
    around = [alone if row.beside is None else paired for row in rows]
    return [len(text) + len(other) + more for text, other, more in zip(texts, beside, around)]


def _most(verb: str, opened: ModelFolder, contract: Contract, context: int) -> int:
    """Tokens that a text may have where it is read whole; the folder of a sentence encoder may allow fewer for vectors."""
    most = contract.limit(context)
    if verb not in _VECTORS:
        return most
    from ..tasks.sentence import read

    return min(most, read(opened.path, opened.model_config.width, contract.tokenizer.settings()).limit or most)
