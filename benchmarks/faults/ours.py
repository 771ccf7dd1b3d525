"""The faults under Quire: the same tiny models and rows as its peers get, saved by transformers and trained here by a recipe.

What is refused is refused by `quire train` itself. What is impossible is measured; what is detected is brought about in a running job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from quire import recipe as recipes
from quire.adapt import LoRA, attach, open_adapter, save_adapter
from quire.binding import Binding, Contract
from quire.errors import QuireError, TrainingError
from quire.families import ModelFolder
from quire.nn.transformer import Transformer
from quire.tasks.classify import classify
from quire.tasks.score import evaluating
from quire.train import tuning
from quire.train.meters import Meters
from quire.train.parallel import compute
from quire.train.recipe import TrainRecipe
from quire.train.run import RunFolder, resume, train
from quire.train.trainer import Trainer

from . import peers
from .attempts import Detected, Runs, Seen, registry
from .seeds import BOS, EOS, OTHER, PAD, SEEDS, WITH_TOOLS, Row

OURS: Runs = {}
quire = registry(OURS, QuireError, strict=True)
USUAL: dict[str, object] = {
    "data.held_out": 0.0,
    "optim.lr": 1e-3,
    "train.steps": 2,
    "train.batch": 4,
    "train.threads": 1,
    "train.dtype": "fp32",
    "train.device": "cpu",
    "train.compile": "off",
}
HEADS = {"tag": ("MaskedLM", "bert"), "answer": ("MaskedLM", "bert"), "embed": ("MaskedLM", "bert"), "rewrite": ("Seq2SeqLM", "t5")}


# A start model, a recipe and the parts of a run


@contextlib.contextmanager
def start(
    fault: str, kind: str = "CausalLM", family: str = "llama", *, pad: str = PAD, seed: int = 0, template: str = "", **more: object
) -> Iterator[Path]:
    """The folder of a tiny model with the seed's template, or another, bound."""
    with tempfile.TemporaryDirectory() as place:
        words = peers.tokenizer(template or SEEDS[fault].template, pad)
        if family == "bert":  # what stands around its texts can say that there is no answer
            words.cls_token, words.sep_token = BOS, EOS
        words.save_pretrained(place)
        peers.model(words, kind, family, seed=seed, **more).save_pretrained(place)
        Binding.of(Path(place)).write(Path(place))
        yield Path(place)


def jsonl(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def recipe(values: dict[str, object]) -> TrainRecipe:
    """A recipe of dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[name] = list(value) if isinstance(value, tuple) else value
    return recipes.from_dict(TrainRecipe, nested)


@contextlib.contextmanager
def seeded(fault: str, model: Path, **over: object) -> Iterator[TrainRecipe]:
    """The recipe of a fault on a model, its rows written; `over`: keys with '__' for the dot."""
    seed = SEEDS[fault]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        values = USUAL | {"out": str(folder / "run"), "model.start": str(model), "task.name": seed.task}
        values["data.sources"] = (jsonl(folder / "rows.jsonl", seed.rows),)
        if seed.held:
            values["data.eval"] = (jsonl(folder / "held.jsonl", seed.held),)
        yield recipe(values | dict(seed.recipe) | {key.replace("__", "."): value for key, value in over.items()})


@contextlib.contextmanager
def tuned(fault: str, model: Path | None = None, **over: object) -> Iterator[Path]:
    """The run folder of a fault."""
    kind, family = HEADS.get(SEEDS[fault].task, ("CausalLM", "llama"))
    with contextlib.nullcontext(model) if model else start(fault, kind, family) as folder, seeded(fault, folder, **over) as settled:
        assert folder is not None
        yield train(settled).folder


@contextlib.contextmanager
def parts(fault: str, **over: object) -> Iterator[tuple[TrainRecipe, tuning.Tuned]]:
    """What a run has in hand before its first step."""
    with start(fault) as folder, seeded(fault, folder, **over) as settled:
        run = RunFolder.fresh(settled.out)
        with run.lock():
            yield settled, tuning.prepare(run, settled, compute(settled.train), lambda line: None)


@contextlib.contextmanager
def trainer(fault: str, meddle: Callable[[Trainer], object] = lambda made: None, **over: object) -> Iterator[Trainer]:
    """The trainer of a fault; `meddle` changes it once its optimizer is planned. What training says of itself is a detection."""
    with parts(fault, **over) as (settled, found):
        place = RunFolder(Path(settled.out))
        lines = Meters(place.path)
        made = Trainer(place, settled, found.model, found.objective, found.loader, compute(settled.train), lines, None, 0, found.base)
        made.settle(settled)
        meddle(made)
        try:
            yield made
        except TrainingError as error:
            raise Detected(str(error)) from error


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().float() for weight in model.parameters()])


def gradients(task: Any, model: Transformer, batches: Sequence[Any]) -> tuple[float, torch.Tensor]:
    """The summed loss of some batches and its gradient."""
    model.eval()
    model.zero_grad()
    total = sum(next(iter(task.terms(model, batch).values()))[0] for batch in batches)
    total.backward()
    return float(total), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def refused(fault: str) -> Callable[[], Seen]:
    """A fault that `quire train` should not begin with."""

    def run() -> Seen:
        with tuned(fault):
            return True, "a run was finished"

    return run


# What `quire train` refuses, each with words that its message must have: another refusal would not be about the fault.
for _fault, _word in {
    "nothing-trained": "nothing of its answer is left",
    "end-never-trained": "would go on and on",
    "bos-twice": "bos-twice",
    "earlier-turns-untrained": "turns-dropped",
    "turns-dropped": "turns-dropped",
    "answers-cut": "answers-cut",
    "label-unknown": "label-unknown",
    "label-spellings": "label-spellings",
    "tags-misaligned": "each word has one",
    "answer-offset": "is not at character",
    "test-rows-leak": "test-rows-leak",
    "near-copies-leak": "near-copies-leak",
    "targets-match-nothing": "qv_proj",
    "rate-zero": "optim.lr",
}.items():
    quire(_fault, _word)(refused(_fault))


# What is trained


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
    with start("end-masked-as-padding", pad=EOS) as folder, seeded("end-masked-as-padding", folder) as settled:
        train(settled)
        trained = _answers(Contract.open(folder), "end-masked-as-padding")
    ends = [text.count(EOS) for text in trained]
    return ends != [2] * len(ends), f"{sum(ends)} ends of {2 * len(ends)} answers are labels"


@quire("template-differs")
def template_differs() -> Seen:
    """Trained with another template than is usual: is it the one that is served?"""
    turns = SEEDS["template-differs"].rows[0]["messages"]
    with tuned("template-differs") as run, start("template-differs") as folder:
        trained, served = Contract.open(folder), Contract.open(run / "model")
        assert trained.template is not None and served.template is not None
        ids = [one.template.encode(one.tokenizer, turns).ids for one in (trained, served) if one.template]
        unlike = ids[0] != ids[1] or served.template.source != OTHER or trained.id != served.id
    return unlike, f"the served model makes the {len(ids[1])} ids that were trained; contract {served.id[:12]} is the same"


@quire("user-turns-trained")
def user_turns_trained() -> Seen:
    with start("user-turns-trained") as folder:
        trained = _answers(Contract.open(folder), "user-turns-trained")
    return any("what" in text or "then" in text for text in trained), f"of the first chat is trained: {trained[0]!r}"


@quire("padding-trained")
def padding_trained() -> Seen:
    with parts("padding-trained") as (_, found):
        examples = found.loader.examples
        together, alone = ([found.task.batch(some) for some in groups] for groups in ([examples], [[one] for one in examples]))
        (loss, whole), (other, apart) = (gradients(found.task, found.model, batches) for batches in (together, alone))
    unlike = float((whole - apart).abs().max() / whole.abs().max())
    return unlike > 1e-4, f"loss {loss:.4f} in one batch, {other:.4f} row by row; gradients differ by {unlike:.1e} of the largest"


@quire("packed-rows-mix")
def packed_rows_mix() -> Seen:
    from quire.tasks.tuning.example import join

    with parts("packed-rows-mix", data__pack=True, data__longest=256) as (_, found):
        examples = found.loader.examples
        packed, alone = found.task.batch([join(examples)]), [found.task.batch([one]) for one in examples]
        (loss, whole), (other, apart) = (gradients(found.task, found.model, batches) for batches in ([packed], alone))
    unlike = float((whole - apart).abs().max() / whole.abs().max())
    return unlike > 1e-4, f"loss {loss:.4f} packed, {other:.4f} apart; gradients differ by {unlike:.1e} of the largest"


# Labels and heads


@quire("label-order")
def label_order() -> Seen:
    """The figure of the run against one made by name with the saved model."""
    seed = SEEDS["label-order"]
    with tuned("label-order", train__steps=6) as run:
        opened, contract = ModelFolder.open(run / "model"), Contract.open(run / "model")
        names = {int(number): name for number, name in opened.config["id2label"].items()}
        found = classify(opened.build(torch.float32), contract, [row["text"] for row in seed.held], names, "softmax")
        figure = json.loads((run / "evaluation.json").read_text())["held_out"]["accuracy"]
    right = sum(max(one, key=lambda name: one[name]) == row["label"] for one, row in zip(found, seed.held, strict=True)) / len(found)
    unlike = abs(figure - right) > 1e-9 or list(names.values()) != sorted(names.values())
    return unlike, f"accuracy {figure:.4f} in the run, {right:.4f} by the names in the saved model"


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


@quire("head-not-saved")
def head_not_saved() -> Seen:
    """The saved adapter on the base, against the model that was trained and merged."""
    with start("head-not-saved") as base, tuned("head-not-saved", base, adapt__targets=("q_proj",)) as run:
        opened = ModelFolder.open(run / "model")
        head = {name: opened.config[name] for name in ("architectures", "id2label", "label2id") if name in opened.config}
        again = ModelFolder.open(base).with_head(head)
        model = again.build(torch.float32, seed=7)
        open_adapter(run / "adapter", model, again, Binding.read(base))
        tokens = torch.arange(1, 25).reshape(2, 12)
        with evaluating(model), torch.no_grad():
            merged = opened.build(torch.float32).eval()
            one, other = (each.head(each.decode(tokens), None) for each in (merged, model))
    unlike = float((one - other).abs().max())
    return unlike > 1e-4, f"logits of the adapter on its base and of the merged model differ by {unlike:.1e}"


# The running job


@quire("loss-by-accumulation")
def loss_by_accumulation() -> Seen:
    found = []
    for micro in (0, 2):
        with tuned("loss-by-accumulation", train__micro_batch=micro, train__batch=8, train__steps=1, optim__eps=1.0) as run:
            found.append(weights(ModelFolder.open(run / "model").build(torch.float32)))
    unlike = float((found[0] - found[1]).abs().max())
    return unlike > 1e-6, f"weights after a step of eight rows, whole and in four parts, differ by {unlike:.1e}"


@quire("frozen-weights-move")
def frozen_weights_move() -> Seen:
    with trainer("frozen-weights-move", lambda made: made.model.embed.requires_grad_(True), adapt__frozen=("embed",)) as made:
        made.fit()
        return True, "two steps were made"


@quire("adapter-without-gradient")
def adapter_without_gradient() -> Seen:
    """Recomputation alone does not cut the graph here; it is cut by hand."""

    def cut(made: Trainer) -> None:
        made.model.decoder.layers[0].register_forward_hook(lambda layer, given, out: out.detach())  # type: ignore[union-attr]

    with trainer("adapter-without-gradient") as made:
        made.fit()
    with trainer("adapter-without-gradient", cut) as made:
        made.fit()
        return True, "two steps were made"


@quire("new-tokens-frozen", "new-tokens-frozen")
def new_tokens_frozen() -> Seen:
    """A base model whose tokenizer has reserved the marks of a template that it never met."""
    with tempfile.TemporaryDirectory() as place:
        words = peers.tokenizer()
        words.chat_template = None
        words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        words.save_pretrained(place)
        peers.model(words).save_pretrained(place)
        Binding.of(Path(place)).write(Path(place))
        with tuned("new-tokens-frozen", Path(place)):
            return True, "a run was finished"


@quire("nan-goes-on")
def nan_goes_on() -> Seen:
    def spoil(made: Trainer) -> None:
        learn = made.learn

        def spoiled(batch: Any, share: float | None = None) -> Any:
            if made.step == 2:
                next(made.model.parameters()).data[0] = float("nan")
            return learn(batch, share)

        made.learn = spoiled  # type: ignore[method-assign]

    with trainer("nan-goes-on", spoil, train__steps=4, train__max_bad=0) as made:
        made.fit()
        return True, "four steps were made"


@quire("resume-rereads")
def resume_rereads() -> Seen:
    found = []
    with start("resume-rereads") as folder:
        for stop in (0, 9):  # 24 rows in fours: the second epoch begins with step 7
            with seeded("resume-rereads", folder, train__steps=11) as settled:
                train(settled, stop_at=stop)
                run = resume(settled.out).folder if stop else Path(settled.out)
                found.append(weights(ModelFolder.open(run / "model").build(torch.float32)))
    unlike = float((found[0] - found[1]).abs().max())
    return unlike != 0, f"weights of a run without and with a stop in its second epoch differ by {unlike:.1e}"


@quire("other-base", "another base", "was trained on the base")
def other_base() -> Seen:
    with start("other-base") as one, start("other-base", seed=1) as other, tempfile.TemporaryDirectory() as place:
        opened = ModelFolder.open(one)
        model = opened.build(torch.float32)
        attach(model, LoRA(4), opened)
        save_adapter(f"{place}/adapter", model, opened, Binding.read(one))
        opened = ModelFolder.open(other)
        open_adapter(f"{place}/adapter", opened.build(torch.float32), opened, Binding.read(other))
    return True, "opened"


@quire("evaluation-by-batches")
def evaluation_by_batches() -> Seen:
    with parts("evaluation-by-batches") as (_, found), evaluating(found.model):
        rows = found.held_out
        whole = found.task.evaluate(found.model, rows).figures["loss"]
        sizes = [sum(found.task.counts(found.task.batch(found.task.examples([row]))).values()) for row in rows]
        alone = [found.task.evaluate(found.model, [row]).figures["loss"] for row in rows]
    mean = sum(loss * size for loss, size in zip(alone, sizes, strict=True)) / sum(sizes)
    return abs(whole - mean) > 1e-4, f"evaluation loss {whole:.5f} at once, {mean:.5f} row by row"


# Fifty sound sets


def falsely_refused(sets: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(name of a sound set, what a run of it would be refused for; '' for none)."""
    from quire.train.examine import examine

    for family, kind, tasks in (
        ("llama", "CausalLM", ("chat", "classify")),
        ("bert", "MaskedLM", ("tag", "answer", "embed")),
        ("t5", "Seq2SeqLM", ("rewrite",)),
    ):
        more = {"max_position_embeddings": 4096} if family != "t5" else {}
        with start("user-turns-trained", kind, family, template=WITH_TOOLS, **more) as folder:
            for good in sets:
                if good.task in tasks:
                    with tempfile.TemporaryDirectory() as place:
                        files = tuple(map(str, good.write(Path(place))))
                        options = {"data.columns": good.columns} if getattr(good, "columns", None) else {}
                        made = recipe({"data.sources": files, "model.start": str(folder), "task.name": good.task, **options})
                        refused = examine(dataclasses.replace(made, out=f"{place}/run")).ledger.refused
                    yield good.name, "; ".join(f"{entry.check}: {entry.lines()[0][:160]}" for entry in refused)
