"""The faults under `transformers.Trainer` and PEFT, with tiny random models.

Each function (peer_rows.py, peer_runs.py) follows the peer's own documentation up to the fault and measures whether it came about:
a silence counts only where it did. A warning counts where it holds one of the words given with the function.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from .attempts import Runs, registry
from .seeds import BOS, EOS, PAD, TEMPLATE, Row, sentence

PEERS: Runs = {}
peer = registry(PEERS)
# Plain gradient descent over all rows at once: the weights afterwards tell the gradient.
ONE_STEP = {"optim": "sgd", "max_steps": 1, "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


# A tokenizer, models and a run, as small as they can be


def tokenizer(template: str = TEMPLATE, pad: str = PAD) -> PreTrainedTokenizerFast:
    """Byte-level BPE that adds the begin token, as LLaMA's does."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([sentence(n) for n in range(64)], trainer)
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 1)])
    found = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=pad)
    found.chat_template = template
    return found


def model(words: PreTrainedTokenizerFast, kind: str = "CausalLM", family: str = "llama", *, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    special = {f"{role}_token_id": getattr(words, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    config = transformers.AutoConfig.for_model(family, **{"vocab_size": len(words), **sizes, **special, **more})
    return getattr(transformers, f"AutoModelFor{kind}").from_config(config)


def fit(
    net: Any, rows: Sequence[Row], collate: Any = None, held: Sequence[Row] | None = None, *also: TrainerCallback, **settings: Any
) -> Trainer:
    """Two steps, or what `settings` say."""
    usual = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_strategy": "no", "logging_steps": 1}
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place, **usual | settings, report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False
        )
        trainer = Trainer(net, arguments, collate, list(rows), list(held) if held else None, callbacks=list(also))
        trainer.train()
    return trainer


def seq2seq(words: PreTrainedTokenizerFast) -> Any:
    """The collator that pads ids with the padding token and labels with -100."""
    return transformers.DataCollatorForSeq2Seq(words, label_pad_token_id=-100)


def causal(words: PreTrainedTokenizerFast, rows: Sequence[Row]) -> list[Row]:
    """Conversations as ids, all of them labels."""
    found = [words.apply_chat_template(row["messages"], tokenize=True, return_dict=True) for row in rows]
    return [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"], "labels": list(row["input_ids"])} for row in found]


def classes(words: PreTrainedTokenizerFast, rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    return [{**words(row["text"]), "label": names.index(row["label"])} for row in rows]


def loss_of(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(net: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())
