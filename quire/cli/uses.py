"""What a model is for: the verbs that it serves, from its records alone; and opening one for a verb, or saying what else it can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .lines import Files, Machine, Row
from .paint import flat, paint

if TYPE_CHECKING:
    from ..binding import Contract
    from ..model import Decoder, Encoder, Seq2Seq
    from ..nn.config import ModelConfig

    Opened = Decoder | Encoder | Seq2Seq

_LABELS = {"row": "classify", "token": "tag", "span": "answer", "next": "next-sentence"}
_GOES_ON = ("generate", "chat", "score", "fill", "eval")  # these read texts up to the model's context, however it was trained
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


def open_for(verb: str, path: str, machine: Machine) -> Opened:
    """The model at `path`, on the threads that the machine grants. Raises RecipeError naming its uses when `verb` is not among them."""
    import torch

    from ..machine import threads
    from ..model import load

    model = load(path, machine.dtype, machine.device, machine.verify, machine.quant, machine.adapter)
    check(verb, model.config, model.contract, str(model.folder))
    torch.set_num_threads(min(torch.get_num_threads(), threads()))
    return model


def check(verb: str, config: ModelConfig, contract: Contract, name: str) -> None:
    can = uses(config, contract)
    if verb not in can:
        raise RecipeError(f"{verb} needs another model: {name} is {describe(config)}; it can: {', '.join(can)}.")


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


def dry_run(verb: str, path: str, rows: Sequence[Row], files: Files, split: bool = False) -> int:
    """What a verb was given, in tokens of the model's own tokenizer; no weights are read. split: the verb divides what is too long."""
    from ..binding import Contract
    from ..families.folder import ModelFolder
    from ..hub import locate

    folder = locate(path)
    config, contract = ModelFolder.open(folder).model_config, Contract.open(folder)
    check(verb, config, contract, str(folder))
    around = len(contract.before) + len(contract.after)
    texts = contract.tokenizer.encode_batch([row.text for row in rows])
    for number, row in enumerate(rows):
        if row.turns and contract.template is not None:
            texts[number] = list(contract.template.encode(contract.tokenizer, row.turns, add_generation_prompt=True).ids)
    beside = contract.tokenizer.encode_batch([row.beside or "" for row in rows])
    counts = [len(text) + len(other) + around for text, other in zip(texts, beside)]
    most = config.context if verb in _GOES_ON else contract.limit(config.context)
    long = [row.where or "the text" for row, number in zip(rows, counts) if number > most]
    passed = sorted({name for row in rows for name in row.rest})
    facts: dict[str, Any] = {"verb": verb, "model": str(folder), "rows": len(rows), "tokens": sum(counts), "longest": max(counts)}
    facts |= {"context": most, "too_long": [] if split else long, "passed_through": passed}
    if files.json:
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    many = "s" * (len(rows) != 1)
    print(f"{len(rows):,} row{many}, {facts['tokens']:,} tokens, the longest {max(counts):,} of {most:,} that fit")
    if passed:
        print(f"passed through: {', '.join(map(flat, passed))}")
    if facts["too_long"]:
        told = "too long" if contract.long(None) == "error" else "too long, and cut as in training"
        print(paint(f"{told}: {len(long):,} ({', '.join(long[:5])}{' ...' if len(long) > 5 else ''})", "yellow"))
    return 0
