"""Peers on faults of the run: gradients, rates, adapters, resuming, evaluating."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import TrainerCallback

from .attempts import Seen
from .peers import ONE_STEP, apart, causal, classes, fit, loss_of, model, peer, seq2seq, tokenizer, weights
from .seeds import SEEDS

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@peer("head-not-saved", "head", "score", "classifier")
def head_not_saved() -> Seen:
    """LoRA with the documented task type, and with none, which nothing asks for."""
    words, seed = tokenizer(), SEEDS["head-not-saved"]
    rows, off = classes(words, seed.rows, ("negative", "neutral", "positive")), {}
    for task in ("SEQ_CLS", None):
        base = model(words, "SequenceClassification", num_labels=3)
        net = get_peft_model(copy.deepcopy(base), LoraConfig(**LORA | {"task_type": task}))
        if task is None:
            net.base_model.model.score.requires_grad_(True)  # trained, as it is fresh
        fit(net, rows, transformers.DataCollatorWithPadding(words), learning_rate=0.1)
        with tempfile.TemporaryDirectory() as place, torch.no_grad():
            net.save_pretrained(place)
            again = PeftModel.from_pretrained(base, place).eval()
            probe = words("the red house", return_tensors="pt")
            off[task] = apart(net.eval()(**probe).logits, again(**probe).logits)
    return off["SEQ_CLS"] > 1e-5, f"logits after opening differ by {off['SEQ_CLS']:.1e}; without a task type by {off[None]:.1e}"


@peer("loss-by-accumulation", "accumulat", "num_items")
def loss_by_accumulation() -> Seen:
    """Eight rows in one batch and in four parts: the length of one step, for a language model and for a tagger."""
    words, seen = tokenizer(), {}
    rows = causal(words, SEEDS["loss-by-accumulation"].rows)
    tags = [row | {"labels": [n % 2 for n in row["labels"]]} for row in rows]
    collate = transformers.DataCollatorForTokenClassification(words)
    for name, kind, family, kept in (("LLaMA", "CausalLM", "llama", rows), ("BERT tagger", "TokenClassification", "bert", tags)):
        steps = []
        for parts in (1, 4):
            net = model(words, kind, family, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            before = weights(net)
            fit(net, kept, collate, per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts, **ONE_STEP)
            steps.append(weights(net) - before)
        seen[name] = float((steps[0] - steps[1]).norm() / steps[0].norm())
    off = ", ".join(f"{share:.1%} ({name})" for name, share in seen.items())
    return max(seen.values()) > 1e-3, f"a step in four parts differs from a whole one by {off} of its length"


@peer("frozen-weights-move", "frozen", "requires_grad", "trainable")
def frozen_weights_move() -> Seen:
    """A frozen embedding, made trainable again by a later line."""
    words = tokenizer()
    net = model(words)
    net.get_input_embeddings().requires_grad_(False)
    before = net.get_input_embeddings().weight.clone()
    net.requires_grad_(True)
    fit(net, causal(words, SEEDS["frozen-weights-move"].rows), seq2seq(words))
    moved = apart(before, net.get_input_embeddings().weight.detach())
    return moved > 0, f"the embedding moved by {moved:.1e}"


@peer("targets-match-nothing", "target", "qv_proj")
def targets_match_nothing() -> Seen:
    words, seed = tokenizer(), SEEDS["targets-match-nothing"]
    net = get_peft_model(model(words), LoraConfig(**LORA | {"target_modules": list(seed.recipe["adapt.targets"])}))
    fit(net, causal(words, seed.rows), seq2seq(words))
    names = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in net.named_parameters() if "lora_A" in name}
    return names == {"q_proj"}, f"asked for q_proj and qv_proj, adapted: {', '.join(sorted(names))}"


@peer("adapter-without-gradient", "requires_grad", "gradients will be none")
def adapter_without_gradient() -> Seen:
    """Reentrant recomputation under an adapter, as in older scripts."""
    words, seed = tokenizer(), SEEDS["adapter-without-gradient"]
    net = get_peft_model(model(words), LoraConfig(**LORA))
    recompute: dict[str, Any] = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    fit(net, causal(words, seed.rows), seq2seq(words), **recompute)
    still = [name for name, value in net.named_parameters() if "lora_B" in name and not value.any()]
    return bool(still), f"{len(still)} of 4 B matrices are still zero"


@peer("rate-zero", "learning rate", "learning_rate", "lr")
def rate_zero() -> Seen:
    words = tokenizer()
    net = model(words)
    before = weights(net)
    losses = loss_of(fit(net, causal(words, SEEDS["rate-zero"].rows), seq2seq(words), learning_rate=0.0))
    return apart(before, weights(net)) == 0, f"no weight moved; losses {losses}"


@peer("new-tokens-frozen", "embed", "vocab", "token")
def new_tokens_frozen() -> Seen:
    words, seed = tokenizer(), SEEDS["new-tokens-frozen"]
    net = model(words)
    words.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    net.resize_token_embeddings(len(words), mean_resizing=False)
    before = net.get_input_embeddings().weight[-2:].clone()
    net = get_peft_model(net, LoraConfig(**LORA))
    fit(net, causal(words, seed.rows), seq2seq(words))
    moved = apart(before, net.get_input_embeddings().weight[-2:].detach())
    return moved == 0, "rows of two new tokens in the embedding are as they were drawn"


class Spoil(TrainerCallback):
    """Makes one weight NaN before the step that is given."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step + 1 == self.step:
            given["model"].get_output_embeddings().weight.data[0] = float("nan")


@peer("nan-goes-on", "nan", "finite", "inf")
def nan_goes_on() -> Seen:
    words = tokenizer()
    net = model(words)
    trainer = fit(net, causal(words, SEEDS["nan-goes-on"].rows), seq2seq(words), None, Spoil(3), max_steps=6, logging_steps=2)
    share = float(weights(net).isnan().float().mean())
    return share > 0, f"losses logged {loss_of(trainer)}; at the end {share:.0%} of the weights are no number"


class Stop(TrainerCallback):
    """Stops after the step that is given."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step


@peer("resume-rereads", "resume", "data", "seed")
def resume_rereads() -> Seen:
    """24 rows, batches of four, twelve steps: at once, and stopped after eight, within the second epoch, and resumed."""
    words, ended = tokenizer(), []
    rows = causal(words, SEEDS["resume-rereads"].rows)
    for stops in ((12,), (8, 12)):
        with tempfile.TemporaryDirectory() as place:
            for stop in stops:
                net = model(words)
                settings = {"max_steps": 12, "per_device_train_batch_size": 4, "save_steps": 8, "report_to": "none", "disable_tqdm": True}
                arguments = transformers.TrainingArguments(place, use_cpu=True, **settings)
                trainer = transformers.Trainer(net, arguments, seq2seq(words), rows, callbacks=[Stop(stop)])
                trainer.train(resume_from_checkpoint=f"{place}/checkpoint-8" if stop > stops[0] else None)
        ended.append(weights(net))
    return apart(*ended) > 0, f"weights of the resumed run differ by {apart(*ended):.1e}"


@peer("other-base", "base", "mismatch", "adapter")
def other_base() -> Seen:
    """Both bases saved and opened by path, so that the adapter can record which one it was trained on."""
    words, seed = tokenizer(), SEEDS["other-base"]
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(("one", "other")):
            model(words, seed=number).save_pretrained(f"{place}/{name}")
        one, other = (transformers.AutoModelForCausalLM.from_pretrained(f"{place}/{name}") for name in ("one", "other"))
        net = get_peft_model(one, LoraConfig(**LORA))
        fit(net, causal(words, seed.rows), seq2seq(words))
        net.save_pretrained(f"{place}/adapter")
        PeftModel.from_pretrained(other, f"{place}/adapter")
        recorded = net.peft_config["default"].base_model_name_or_path
    return other.name_or_path != recorded, f"trained on {Path(recorded).name!r}, opened on {Path(other.name_or_path).name!r}"


@peer("evaluation-by-batches", "batch")
def evaluation_by_batches() -> Seen:
    words, seed = tokenizer(), SEEDS["evaluation-by-batches"]
    found = []
    for size in (1, 8):
        trainer = fit(
            model(words),
            causal(words, seed.rows),
            seq2seq(words),
            causal(words, seed.held),
            per_device_eval_batch_size=size,
            learning_rate=0.0,
        )
        found.append(trainer.evaluate()["eval_loss"])
    return abs(found[0] - found[1]) > 1e-4, f"evaluation loss {found[0]:.4f} one by one, {found[1]:.4f} in eights"
