"""The training recipe: everything that decides a run, as frozen records. TOML in, TOML out, `--key value` over it. No torch here.

`usual` is the range outside which a value is warned about; `choices` come from the annotations. A zero means "decide for me" only where
the comment says so, and what was decided is written into the run's own recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def usual(default: Any, low: float, high: float) -> Any:
    """A field whose values outside [low, high] are allowed but warned about."""
    return field(default=default, metadata={"usual": (low, high)})


@dataclass(frozen=True)
class ModelPart:
    start: str = ""  # a model folder to continue from; empty: from scratch with the sizes below
    family: Literal["llama", "gpt2", "bert", "t5"] = "llama"
    width: int = usual(128, 16, 16384)
    layers: int = usual(4, 1, 128)
    heads: int = usual(4, 1, 128)
    kv_heads: int = 0  # 0: as many as heads
    hidden: int = 0  # 0: what the family usually takes
    context: int = usual(256, 16, 131072)
    tied: bool = True
    dropout: float = usual(0.0, 0.0, 0.5)


@dataclass(frozen=True)
class TokenizerPart:
    path: str = ""  # a tokenizer file or folder; empty: train one on the data
    kind: Literal["bpe", "wordpiece", "unigram", "word", "char"] = "bpe"
    vocab: int = usual(2048, 257, 262144)
    lowercase: bool = False


@dataclass(frozen=True)
class DataPart:
    sources: tuple[str, ...] = ()  # files, folders, globs; "stdlib"; PATH*2.0 gives a mixing weight
    field: str = "text"  # of JSONL, CSV and Parquet rows
    held_out: float = usual(0.02, 0.0, 0.5)  # share of documents, picked by the hash of their content
    boundaries: Literal["attend", "mask"] = "attend"  # may a token see the document before its own in a packed row?


@dataclass(frozen=True)
class TaskPart:
    name: Literal["causal", "masked", "denoise"] = "causal"
    mask_rate: float = usual(0.15, 0.05, 0.5)  # masked and denoise: share of tokens corrupted
    whole_words: bool = True  # masked
    next_sentence: bool = False  # masked: add BERT's second term
    mean_span: float = usual(3.0, 1.0, 10.0)  # denoise


@dataclass(frozen=True)
class OptimPart:
    name: Literal["adamw", "muon"] = "adamw"
    lr: float = usual(1e-3, 1e-6, 1e-1)
    muon_lr: float = usual(0.02, 1e-4, 0.2)  # for hidden matrices when name = muon; the rest uses lr with AdamW
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = usual(0.1, 0.0, 1.0)
    clip: float = usual(1.0, 0.0, 100.0)  # 0: off
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup: float = usual(0.02, 0.0, 0.5)  # share of the steps
    decay: float = usual(0.4, 0.0, 1.0)  # wsd: share of the steps that decay
    final: float = usual(0.1, 0.0, 1.0)  # last learning rate as a share of lr


@dataclass(frozen=True)
class TrainPart:
    steps: int = 0  # give exactly one of steps, tokens, epochs and minutes
    tokens: int = 0
    epochs: float = 0.0
    minutes: float = 0.0  # measured and turned into steps before the first one
    batch: int = usual(16, 1, 65536)  # rows a step
    micro_batch: int = 0  # rows a forward; 0: the whole batch
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: int = 0  # 0: what the machine grants
    compile: Literal["auto", "on", "off"] = "auto"
    checkpointing: bool = False  # recompute activations in the backward pass
    loss_chunk: int = 0  # rows of logits at a time; 0: decide by size
    eval_every: int = 0  # steps; 0: about ten times a run
    eval_tokens: int = 50_000  # held-out tokens of an evaluation within the run; 0: all of them (the last evaluation always reads all)
    sample_every: int = 0  # steps; 0: with each evaluation
    save_every: int = 0  # steps; 0: about ten times a run
    keep_last: int = usual(2, 1, 100)
    keep: Literal["best", "last"] = "best"  # which weights become the model folder
    patience: int = 0  # evaluations without a better one before stopping; 0: never
    max_bad: int = usual(5, 0, 1000)  # steps in a row that may be skipped for a gradient that must not be applied
    spike: float = usual(20.0, 0.0, 1000.0)  # skip a step whose gradient norm is over so many times its running mean; 0: never


@dataclass(frozen=True)
class LogPart:
    prompts: tuple[str, ...] = ()  # completed at every sample
    samples: int = usual(4, 1, 64)  # completions of each prompt; the share of them that parses is reported where the prompt is Python
    sample_tokens: int = usual(64, 1, 4096)
    hooks: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()


@dataclass(frozen=True)
class TrainRecipe:
    out: str = ""  # the run folder; empty: runs/<time>
    seed: int = 0
    model: ModelPart = ModelPart()
    tokenizer: TokenizerPart = TokenizerPart()
    data: DataPart = DataPart()
    task: TaskPart = TaskPart()
    optim: OptimPart = OptimPart()
    train: TrainPart = TrainPart()
    log: LogPart = LogPart()
