"""The training recipe: everything that decides a run, as frozen records. TOML in, TOML out, `--key value` over it. No torch here.

`usual` is the range outside which a value is warned about; `choices` come from the annotations. A zero means "decide for me" only where
the comment says so, and what was decided is written into the run's own recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ..types import Long


def usual(default: Any, low: float, high: float, above: float = -math.inf) -> Any:
    """A field whose values outside [low, high] are allowed but warned about. above: lower ones, and this one, are an error elsewhere."""
    return field(default=default, metadata={"usual": (low, high), "above": above})


@dataclass(frozen=True)
class ModelPart:
    start: str = ""  # what to continue from: a folder, a run, a pulled model's name, "minilm"; empty: from scratch, sizes below
    family: Literal["llama", "gpt2", "bert", "t5", "bart", "marian"] = "llama"
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
    # Of supervised tasks, whose sources hold rows:
    eval: tuple[str, ...] = ()  # rows to measure on while training; empty: `held_out` of the rows, picked by the hash of what is read
    test: tuple[str, ...] = ()  # rows to measure on once, at the end
    schema: Literal["auto", "chat", "prompt", "labelled", "tagged", "question", "rewrite", "similar", "ranked"] = "auto"
    columns: tuple[str, ...] = ()  # "text=review": which column of the file is meant by which of the schema
    names: tuple[str, ...] = ()  # of the columns of a CSV or TSV file without a header; "..." as the last leaves further ones out
    label_names: tuple[str, ...] = ()  # what numbers in labels and tags stand for: names in order from 0, or "1=World"
    longest: int = usual(0, 0, 131072)  # tokens of a row; 0: what the model reads
    # a longer row: refused, cut at its end, or cut in its middle; auto: in its middle for classify, at its end for others. The tuned model
    # cuts as was said here, or as rows were cut; where nothing was said and no row was cut, it refuses a text that is too long.
    long: Literal["auto", Long] = "auto"
    most_cut: float = usual(0.5, 0.0, 1.0)  # share of rows that may be cut
    duplicates: Literal["drop", "keep"] = "drop"  # of training rows that say the same
    overlap: Literal["refuse", "drop"] = "refuse"  # training rows that the evaluation reads too, exactly or nearly: refused, or left out
    allow: tuple[str, ...] = ()  # checks whose findings are accepted, by name (`quire check` lists them)
    pack: bool = False  # several rows of a conversation task in one, each seeing itself alone


@dataclass(frozen=True)
class TaskPart:
    name: Literal["causal", "masked", "denoise", "chat", "classify", "tag", "answer", "rewrite", "embed", "rerank"] = "causal"
    mask_rate: float = usual(0.15, 0.05, 0.5)  # masked and denoise: share of tokens corrupted
    whole_words: bool = True  # masked
    next_sentence: bool = False  # masked: add BERT's second term
    mean_span: float = usual(3.0, 1.0, 10.0)  # denoise
    labels: Literal["auto", "single", "several", "number"] = "auto"  # classify: one of several, any of several, or a number (regression)
    class_weights: Literal["none", "balanced"] = "none"  # classify and tag: every label counts alike, however rare its rows
    stride: int = usual(128, 0, 8192)  # tag and answer: tokens by which the windows of a long text overlap (at most half a window)
    verb: Literal["text2text", "translation", "summarization"] = "text2text"  # rewrite: what its texts are, so which command uses it
    prefix: str = ""  # rewrite: stands before every source, in training and afterwards ("translate English to German: ")
    smoothing: float = usual(0.0, 0.0, 0.3)  # rewrite: share of a label's weight that all tokens get evenly (Szegedy et al. 2016)
    best: Literal["loss", "bleu", "rouge"] = "loss"  # rewrite: the held-out figure that decides which weights are kept
    beams: int = usual(4, 1, 16)  # rewrite: how its texts are written at the end and afterwards; greedily while it learns
    length_penalty: float = usual(1.0, -2.0, 5.0)  # rewrite: of beams; above 0 favours longer texts
    loss: Literal["auto", "contrast", "cosine", "cosent", "triplet", "margin-mse", "kl", "binary", "list", "mse"] = "auto"  # embed, rerank
    temperature: float = usual(0.0, 0.0, 20.0)  # of the softmax that is learned; 0: as usual (contrast and cosent 0.05, kl 1, teacher 2)
    symmetric: bool = False  # embed by contrast: a text is found by its positive too
    margin: float = usual(0.5, 0.0, 2.0)  # embed by triplets: how much nearer the positive is to be
    generate_rows: int = usual(200, 0, 10_000)  # chat: held-out rows that are answered at the end (while it learns, at most 50)
    teacher: str = ""  # a model folder, or a name, that the model learns to agree with beside its task; empty: none
    distil_weight: float = usual(1.0, 0.0, 100.0)  # of the teacher's logits, beside the task's own loss
    hidden_weight: float = usual(0.0, 0.0, 100.0)  # of the teacher's hidden states, layer by layer


@dataclass(frozen=True)
class AdaptPart:
    """What of a model that is there already is trained."""

    method: Literal["full", "lora", "qlora", "prompt", "prefix", "p-tuning"] = "full"
    frozen: tuple[str, ...] = ()  # full: names or patterns of parts that stay as they are ("embed", "encoder.layers.0.*")
    rank: int = usual(8, 1, 256)  # lora and qlora, as the next five
    alpha: float = usual(16.0, 1.0, 512.0)
    dropout: float = usual(0.0, 0.0, 0.5)
    targets: tuple[str, ...] = ("all-linear",)
    stabilised: bool = False  # scale by alpha / sqrt(rank) (Kalajdzievski 2023)
    dora: bool = False
    tokens: int = usual(20, 1, 1000)  # prompt, prefix and p-tuning: virtual tokens
    text: str = ""  # prompt: what its vectors begin with
    hidden: int = usual(128, 8, 4096)  # prefix and p-tuning: width of the network that makes the vectors; 0: none

    @property
    def positions(self) -> int:
        """How many of the model's positions a soft prompt takes."""
        return self.tokens if self.method in ("prompt", "prefix", "p-tuning") else 0


@dataclass(frozen=True)
class OptimPart:
    name: Literal["adamw", "muon"] = "adamw"
    lr: float = usual(1e-3, 1e-6, 1e-1, above=0)
    muon_lr: float = usual(0.02, 1e-4, 0.2)  # for hidden matrices when name = muon; the rest uses lr with AdamW
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = usual(0.1, 0.0, 1.0)
    clip: float = usual(1.0, 0.0, 100.0)  # 0: off
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup: float = usual(0.02, 0.0, 0.5)  # share of the steps
    decay: float = usual(0.4, 0.0, 1.0)  # wsd: share of the steps that decay
    final: float = usual(0.1, 0.0, 1.0)  # last learning rate as a share of lr
    layer_decay: float = usual(1.0, 0.5, 1.0)  # each layer down learns so many times as fast as the one above it (Howard and Ruder 2018)
    head_rate: float = usual(1.0, 1.0, 100.0)  # a new head's learning rate, as a multiple of lr


@dataclass(frozen=True)
class TrainPart:
    steps: int = 0  # give exactly one of steps, tokens, epochs and minutes
    tokens: int = 0
    epochs: float = 0.0
    minutes: float = 0.0  # measured and turned into steps before the first one
    batch: int = usual(16, 1, 65536, above=0)  # rows a step
    micro_batch: int = 0  # rows a forward at most; 0: the whole batch
    micro_tokens: int = 0  # tokens a forward at most, padding included; 0: no limit, or 4096 for rows of unequal length on a CPU
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: int = 0  # 0: what the machine grants
    compile: Literal["auto", "on", "off"] = "auto"
    checkpointing: bool = False  # recompute activations in the backward pass
    loss_chunk: int = 0  # rows of logits at a time; 0: decide by size
    eval_every: int = 0  # steps; 0: about ten times a run
    eval_tokens: int = 50_000  # held-out tokens of an evaluation within the run; 0: all of them (the last evaluation always reads all)
    eval_rows: int = 1000  # held-out rows of an evaluation within a supervised run; 0: all of them (the last evaluation always reads all)
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
    adapt: AdaptPart = AdaptPart()
    optim: OptimPart = OptimPart()
    train: TrainPart = TrainPart()
    log: LogPart = LogPart()
