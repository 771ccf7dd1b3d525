"""Vectors of texts: a model reads each text, and what it made of the tokens becomes one vector (Reimers & Gurevych 2019).

How (which tokens, layers behind, length, prompts) is what a sentence-transformers folder says (`sentence.py`), and each of it can be asked
for. An encoder-decoder reads with its encoder. Sums over tokens are taken in fp32 whatever the model computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..binding.contract import Contract
from ..errors import RecipeError
from ..nn.attention import AttnContext
from ..nn.batch import Batch
from ..nn.transformer import Transformer
from .lengths import by_length
from .reading import Long, Row, budget, encoded, padded, read, several
from .sentence import POOLS, Dense, Sentence

Floats = npt.NDArray[np.float32]
Kind = Literal["document", "query"]
NAMES = {"cls": "cls", "mean": "mean", "max": "max", "last": "lasttoken", "mean-sqrt": "mean_sqrt_len_tokens", "weighted": "weightedmean"}


def asked(how: Sentence, pool: str | None, normalize: bool | None) -> Sentence:
    """`how`, with the pooling (a name of NAMES, or as sentence-transformers spells it) and the normalisation that a caller asks for."""
    if pool is not None:
        name = NAMES.get(pool, pool)
        if name not in POOLS:
            raise RecipeError(f"pool is {pool!r}; allowed: {', '.join(NAMES)}.")
        how = replace(how, pools=(name,))
    if normalize is not None:
        before = how.steps[:-1] if how.steps and how.steps[-1] == "normalize" else how.steps
        how = replace(how, steps=(*before, "normalize") if normalize else before)
    return how


def embed(
    model: Transformer,
    contract: Contract,
    how: Sentence,
    texts: Sequence[str],
    kind: Kind | None = None,
    long: Long | None = None,
    cut: list[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Floats:
    """(N, D) in fp32. kind: which of the folder's prompts stands before each text. long: None is as in training.
    Errors as in `reading.read`.
    """
    rows, skip = prompted(model.config.context, contract, how, texts, kind, long, cut)
    found = by_length(rows, lambda part: vectors(model, part, how, skip), budget(model), progress)
    return np.stack(found) if found else np.empty((0, size(model, how)), dtype=np.float32)


def prompted(
    context: int,
    contract: Contract,
    how: Sentence,
    texts: Sequence[str],
    kind: Kind | None = None,
    long: Long | None = None,
    cut: list[int] | None = None,
) -> tuple[list[Row], int]:
    """(rows as they are read, how many tokens at the beginning of each are not pooled). Arguments and errors as in `embed`.

    context: the longest row that the model reads; the folder's own limit holds beside it.
    """
    several(texts)
    prompt, asked = how.prompt(kind), as_read(how, texts, kind)
    limit = longest(context, contract, how)
    skip = 0 if how.prompt_counts or not prompt else len(contract.before) + len(encoded(contract, [prompt])[0])
    return read(contract, asked, limit, long, cut), skip


def as_read(how: Sentence, texts: Sequence[str], kind: Kind | None) -> list[str]:
    """The texts whose tokens a model reads: behind the folder's prompt for their kind, in the letters that it knows."""
    asked = [how.prompt(kind) + text for text in texts]
    if how.lower:  # letter by letter, as the tokenizers library does: Python's own looks at what stands beside a sigma
        asked = ["".join(map(str.lower, text)) for text in asked]
    return asked


def longest(context: int, contract: Contract, how: Sentence) -> int:
    """Tokens of a text at most: as in training, as the folder says, and no more than the model reads."""
    return min(how.limit or context, contract.limit(context))


def size(model: Transformer, how: Sentence) -> int:
    """Numbers of one vector."""
    dense = [step for step in how.steps if isinstance(step, Dense)]
    return len(dense[-1].weight) if dense else model.config.width * len(how.pools)


def cut_to(dimensions: int | None, size: int) -> int | None:
    """`dimensions`, where a vector of `size` numbers has them. Raises RecipeError."""
    if dimensions is not None and not 1 <= dimensions <= size:
        raise RecipeError(f"dimensions is {dimensions}; this model's vectors have {size}, so 1 to {size} are allowed.")
    return dimensions


def first(vectors: Floats, dimensions: int | None) -> Floats:
    """The first numbers of each vector (.., D), made as long as 1 again; None: the vectors as they are.

    A model that was trained for it (Matryoshka, Kusupati et al. 2022) has put most of the meaning there. Of any other the first numbers are
    a choice like any: the vectors still compare, worse the fewer they are.
    """
    if dimensions is None:
        return vectors
    kept = vectors[..., :dimensions]
    return np.asarray(kept / np.maximum(np.linalg.norm(kept, axis=-1, keepdims=True), 1e-12), dtype=np.float32)


def near(how: Sentence, queries: Floats, texts: Floats) -> Floats:
    """How near vectors (M, D) of texts are to those (N, D) of queries, (N, M): the cosine, or the product where the folder says so."""
    if how.similarity == "cosine":
        queries, texts = (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12) for rows in (queries, texts))
    return np.asarray(queries @ texts.T)


@torch.inference_mode()
def vectors(model: Transformer, rows: Sequence[Row], how: Sentence, skip: int = 0) -> Floats:
    """(B, D) of rows; the first `skip` tokens of each are read and not pooled."""
    return np.asarray(pooled(model, padded(model, rows), how, skip).cpu().numpy())


def pooled(model: Transformer, made: Batch, how: Sentence, skip: int | Tensor = 0) -> Tensor:
    """(B, D) of a batch, in fp32 whatever autocast says: what is served and what is trained. skip: as in `vectors`, or (B,)."""
    context = AttnContext(positions=made.positions, keep=made.keep)
    hidden = model.decode(made.tokens, context) if model.encoder is None else model.encode(made.tokens, context, made.types)
    hidden = hidden[:, -made.tokens.shape[1] :]  # a soft prompt is read and not pooled
    counted = made.keep
    if isinstance(skip, Tensor) or skip:
        text = torch.arange(made.tokens.shape[1], device=hidden.device) >= (skip[:, None] if isinstance(skip, Tensor) else skip)
        counted = text.expand(made.tokens.shape) if counted is None else counted & text
    with torch.autocast(hidden.device.type, enabled=False):
        x = torch.cat([pool(hidden, counted, mode) for mode in how.pools], -1)
        for step in how.steps:
            x = F.normalize(x, dim=-1) if isinstance(step, str) else _dense(x, step)
    return x


def pool(hidden: Tensor, counted: Tensor | None, mode: str) -> Tensor:
    """hidden (B, T, D) -> (B, D) in fp32, over the tokens that count (B, T); None: all."""
    if counted is None:
        counted = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)
    if mode in ("cls", "lasttoken"):
        places = torch.arange(hidden.shape[1], device=hidden.device)
        place = counted.int().argmax(1) if mode == "cls" else (places * counted).argmax(1)
        return hidden[rows, place].float()
    if mode == "max":
        return hidden.masked_fill(~counted.unsqueeze(-1), float("-inf")).amax(1).float()
    weight = counted.float()
    if mode == "weightedmean":
        weight = weight * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    total = torch.bmm(weight.unsqueeze(1), hidden.float()).squeeze(1)
    count = weight.sum(1, keepdim=True).clamp_min(1e-9)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def _dense(x: Tensor, layer: Dense) -> Tensor:
    bias = None if layer.bias is None else torch.from_numpy(layer.bias).to(x.device)
    x = F.linear(x, torch.from_numpy(layer.weight).to(x.device), bias)
    act = {"tanh": torch.tanh, "relu": torch.relu, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid}.get(layer.act)
    return x if act is None else act(x)
