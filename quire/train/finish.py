"""The end of a run: the held-out figures that are quoted, and the model folder that leaves the house."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..binding import Binding, Contract
from ..binding.contract import chatml
from ..data.shards import Shard
from ..families import ModelFolder
from ..metrics.compressors import compressors
from ..nn.transformer import Transformer
from ..tasks.causal import Causal
from ..tasks.score import score_files, score_stream, total
from ..tasks.task import Task
from ..text.tokenizer import Tokenizer
from .meters import finite

_COMPRESSIBLE = 64 << 20  # bytes of held-out text up to which real compressors are run beside the model


def evaluate(task: Task, tokenizer: Tokenizer, shard: Shard | None, model: Transformer) -> dict[str, Any]:
    """All of the held-out text in fp32. A decoder's bits per byte, file by file and as one stream, beside gzip, bzip2 and xz."""
    if shard is None:
        return {}
    facts = {"corpus_hash": shard.corpus, "held_out_bytes": shard.text_bytes}
    if not isinstance(task, Causal):
        return {**finite(task.evaluate(model, shard)), "metric": task.metric, **facts}
    separator = task.separator if task.boundaries == "mask" else None
    one_stream = score_stream(model, shard, task.context, task.lengths, separator=separator)
    per_file = total(score_files(model, shard, task.context))
    figures: dict[str, Any] = {"bits_per_byte": {"per_file": per_file.bits_per_byte, "one_stream": one_stream.bits_per_byte}}
    if tokenizer.exact and shard.text_bytes <= _COMPRESSIBLE:
        texts = [tokenizer.decode(shard.document(i).tolist()) for i in range(shard.documents)]
        figures["compressors"] = compressors(texts)
    return {**finite(figures), **facts}


def write_model(path: Path, tokenizer: Tokenizer, model: Transformer, config: dict[str, Any], lineage: dict[str, Any]) -> None:
    """config.json, weights, tokenizer, template, stop rule and binding: a folder that other tools open as it is."""
    ModelFolder.save(path, model, config)
    new_contract(tokenizer, model).save(path)
    Binding.of(path, lineage).write(path)


def new_contract(tokenizer: Tokenizer, model: Transformer) -> Contract:
    """Of a model that is not one of another folder."""
    return Contract(tokenizer, chatml(tokenizer), decoder_start=tokenizer.pad if model.config.kind == "seq2seq" else None)
