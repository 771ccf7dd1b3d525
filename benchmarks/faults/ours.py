"""The faults under Quire: the same tiny models and rows as its peers get, saved by transformers and opened here."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from quire.adapt import LoRA, attach, open_adapter, save_adapter
from quire.binding import Binding, Contract
from quire.families import ModelFolder
from quire.tasks.classify import classify

from . import peers
from .attempts import Runs, Seen, registry
from .seeds import EOS, PAD, SEEDS

OURS: Runs = {}
quire = registry(OURS)


@contextlib.contextmanager
def start(fault: str, kind: str = "CausalLM", family: str = "llama", *, pad: str = PAD, seed: int = 0, **more: object) -> Iterator[Path]:
    """The folder of a tiny model with the seed's template, bound."""
    with tempfile.TemporaryDirectory() as place:
        words = peers.tokenizer(SEEDS[fault].template, pad)
        words.save_pretrained(place)
        peers.model(words, kind, family, seed=seed, **more).save_pretrained(place)
        Binding.of(Path(place)).write(Path(place))
        yield Path(place)


def _answers(contract: Contract, fault: str) -> list[str]:
    """What is trained of each chat, as text."""
    assert contract.template is not None
    found = []
    for row in SEEDS[fault].rows:
        chat = contract.template.encode(contract.tokenizer, row["messages"], row.get("tools", ()))
        found.append(contract.tokenizer.decode([i for i, kept in zip(chat.ids, chat.trained, strict=True) if kept], special=True))
    return found


@quire("end-masked-as-padding")
def end_masked_as_padding() -> Seen:
    with start("end-masked-as-padding", pad=EOS) as folder:
        trained = _answers(Contract.open(folder), "end-masked-as-padding")
    ends = [text.count(EOS) for text in trained]
    return ends != [2] * len(ends), f"{sum(ends)} ends of {2 * len(ends)} answers are labels"


@quire("user-turns-trained")
def user_turns_trained() -> Seen:
    with start("user-turns-trained") as folder:
        trained = _answers(Contract.open(folder), "user-turns-trained")
    return any("what" in text or "then" in text for text in trained), f"of the first chat is trained: {trained[0]!r}"


@quire("earlier-turns-untrained")
def earlier_turns_untrained() -> Seen:
    with start("earlier-turns-untrained") as folder:
        trained = _answers(Contract.open(folder), "earlier-turns-untrained")
    return any(text.count("<think>") < 2 for text in trained), f"of the first chat is trained: {trained[0]!r}"


@quire("last-token-is-padding")
def last_token_is_padding() -> Seen:
    seen = []
    for family in ("llama", "gpt2"):
        with start("last-token-is-padding", "SequenceClassification", family, num_labels=3) as folder:
            model, contract = ModelFolder.open(folder).build(torch.float32), Contract.open(folder)
            texts = [row["text"] * (1 + n) for n, row in enumerate(SEEDS["last-token-is-padding"].rows[:4])]
            names = dict(enumerate("abc"))
            together, alone = (classify(model, contract, some, names, "softmax")[0] for some in (texts, texts[:1]))
            seen.append(max(abs(together[name] - alone[name]) for name in names.values()))
    return max(seen) > 1e-4, f"probabilities alone and in a batch differ by {seen[0]:.1e} (llama), {seen[1]:.1e} (gpt2)"


@quire("targets-match-nothing")
def targets_match_nothing() -> Seen:
    with start("targets-match-nothing") as folder:
        opened = ModelFolder.open(folder)
        adapted = attach(opened.build(torch.float32), LoRA(4, targets=SEEDS["targets-match-nothing"].recipe["adapt.targets"]), opened)
    return True, f"adapted: {adapted}"


@quire("other-base")
def other_base() -> Seen:
    with start("other-base") as one, start("other-base", seed=1) as other, tempfile.TemporaryDirectory() as place:
        opened = ModelFolder.open(one)
        model = opened.build(torch.float32)
        attach(model, LoRA(4), opened)
        save_adapter(f"{place}/adapter", model, opened, Binding.read(one))
        opened = ModelFolder.open(other)
        open_adapter(f"{place}/adapter", opened.build(torch.float32), opened, Binding.read(other))
    return True, "opened"
