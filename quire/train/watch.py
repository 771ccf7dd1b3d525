"""What is looked at while a model learns, besides its loss: held-out figures, a prompt completed again and again, one file's surprise.

None of it touches the run: it draws from generators of its own and leaves the model as it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.shards import Shard
from ..decode.loop import complete, decode
from ..metrics.parses import share_that_parses
from ..nn.attention import AttnContext
from ..nn.transformer import Transformer
from ..tasks.score import score_tokens
from ..tasks.task import Task
from ..text.tokenizer import Tokenizer
from ..types import Sampling
from .recipe import LogPart, TrainPart

_PYTHON = re.compile(r"\s*(def|class|import|from|async\s+def|@\w)")
_SURPRISE = (64, 400)  # tokens of the file that is coloured: at least and at most


class Watch:
    """The figures, samples and surprise of one run."""

    before = False

    def __init__(self, task: Task, tokenizer: Tokenizer, held_out: Shard | None, part: TrainPart, log: LogPart) -> None:
        self.task, self.tokenizer, self.held_out, self.part, self.log = task, tokenizer, held_out, part, log
        self.file = pick_file(held_out) if held_out is not None and task.name == "causal" else None
        self._tokens_told = False
        self.measures, self.writes = held_out is not None, task.name == "causal" and bool(log.prompts)

    def evaluate(self, model: Transformer, limit: int | None = None) -> dict[str, Any]:
        """The task's held-out figures; {} when nothing was held out. `limit`: tokens, or what the recipe says."""
        if self.held_out is None:
            return {}
        figures = self.task.evaluate(model, self.held_out, self.part.eval_tokens if limit is None else limit)
        return {"metric": self.task.metric, "direction": self.task.better, **figures}

    def sample(self, model: Transformer) -> list[dict[str, Any]]:
        """Every prompt completed: the first completion, and the share of all that parses where the prompt is Python."""
        if model.config.kind != "decoder":
            return []
        rows = []
        for prompt in self.log.prompts:
            texts = [self._complete(model, prompt, seed) for seed in range(self.log.samples if _PYTHON.match(prompt) else 1)]
            share = share_that_parses(texts, prompt) if _PYTHON.match(prompt) else None
            rows.append({"prompt": prompt, "text": texts[0], "parses": share})
        return rows

    def _complete(self, model: Transformer, prompt: str, seed: int) -> str:
        start = [] if self.tokenizer.eos is None else [self.tokenizer.eos]  # a document begins after a separator
        ids = [*start, *self.tokenizer.encode(prompt)]
        sampling = Sampling(max_tokens=self.log.sample_tokens, temperature=0.8, top_p=0.95, seed=seed)
        return complete(decode(model, ids, sampling, self.tokenizer, stop_ids=start), len(ids)).text

    def surprise(self, model: Transformer) -> dict[str, Any] | None:
        """Bits of every token of one held-out file; the tokens' texts come with the first call."""
        if self.file is None or self.held_out is None:
            return None
        ids = self.held_out.document(self.file)[: _SURPRISE[1]].astype(np.int64)
        nats = score_tokens(model, ids, self.task.context, before=self.held_out.separator)
        row = {"file": list(self.held_out.names())[self.file], "bits": [round(float(value) / math.log(2), 3) for value in nats]}
        if not self._tokens_told:
            row["tokens"] = [self.tokenizer.decode([token], special=True) for token in ids.tolist()]
        self._tokens_told = True
        return row

    def told(self) -> None:
        """A resumed run's file holds the tokens' texts already."""
        self._tokens_told = True


def pick_file(shard: Shard) -> int | None:
    """The first held-out document that fills the picture, else the longest."""
    sizes = np.diff(shard.offsets) - 1
    long_enough = np.flatnonzero(sizes >= _SURPRISE[0])
    if len(long_enough):
        return int(long_enough[0])
    return int(sizes.argmax()) if len(sizes) and sizes.max() > 0 else None


def attention(model: Transformer, ids: Sequence[int]) -> list[NDArray[np.float32]]:
    """What each head of each layer looked at: one (H, T, T) array a layer of the decoder, rows summing to 1."""
    trace: list[torch.Tensor] = []
    training = model.training
    model.eval()
    with torch.no_grad():
        device = next(model.parameters()).device
        model.decode(torch.tensor([list(ids)], device=device), AttnContext(trace=trace))
    model.train(training)
    return [weights[0].float().cpu().numpy() for weights in trace]
