"""What a model reaches on this machine, beside what the machine allows: `quire bench`.

One token of one stream reads every weight once, so the bandwidth of memory bounds it; reading a prompt multiplies every weight with every
token, so the speed of products bounds that. Both limits are measured in the same minute as the model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..nn.config import ModelConfig
from ..types import Sampling
from .engine import Engine, Loaded

_READ = 256 << 20  # bytes: more than any cache holds
_SQUARE = 1024


@dataclass(frozen=True)
class Limits:
    """bandwidth: bytes a second of a plain read; products: floating-point operations a second in the model's number type."""

    bandwidth: float
    products: float


@dataclass(frozen=True)
class Measured:
    """what: "read" (a prompt) or "write". streams: requests at once. rate: tokens a second; share: of the limit, at one stream."""

    what: str
    streams: int
    rate: float
    low: float
    high: float
    share: float | None = None


def limits(dtype: torch.dtype) -> Limits:
    data = torch.ones(_READ // 4)
    seconds = _median(lambda: data.sum(), 5)
    square = torch.ones(_SQUARE, _SQUARE, dtype=dtype)
    with torch.inference_mode():
        products = _median(lambda: square @ square, 5)
    return Limits(_READ / seconds, 2 * _SQUARE**3 / products)


def measure(loaded: Loaded, streams: Sequence[int], prompt: int, tokens: int, rounds: int = 3) -> Iterator[Limits | Measured]:
    """The limits, then reading a prompt of `prompt` tokens, then writing `tokens` tokens in so many streams at once, as they are known."""
    config, weight = loaded.model.config, loaded.model.embed.weight
    prompt = min(prompt, config.context - tokens)
    found = limits(weight.dtype)
    yield found
    engine = Engine(loaded, most=max(streams), share=False)
    draw = torch.Generator().manual_seed(0)

    def start(count: int, answer: int) -> list[float]:
        """Seconds of reading `count` prompts (to the first token of each), and of writing the rest of all answers."""
        sampling = Sampling(max_tokens=answer, min_tokens=answer, temperature=0.0)
        ids = [torch.randint(config.vocab, (prompt,), generator=draw).tolist() for _ in range(count)]
        requests = [engine.submit(row, sampling) for row in ids]
        began = time.perf_counter()
        while any(not request.answer for request in requests):
            engine.step()
        read = time.perf_counter()
        while engine.busy:
            engine.step()
        return [read - began, time.perf_counter() - read]

    start(1, 2)  # tables, buffers, threads
    yield _measured("read", 1, [prompt / start(1, 1)[0] for _ in range(rounds)], found.products / _operations(config, prompt))
    read_once = sum(p.numel() * p.element_size() for p in loaded.model.parameters()) - _untouched(loaded)
    for count in streams:
        rates = [count * (tokens - 1) / start(count, tokens)[1] for _ in range(rounds)]
        yield _measured("write", count, rates, found.bandwidth / read_once if count == 1 else None)


def _measured(what: str, streams: int, rates: Sequence[float], limit: float | None) -> Measured:
    middle = statistics.median(rates)
    return Measured(what, streams, middle, min(rates), max(rates), None if limit is None else middle / limit)


def _operations(config: ModelConfig, length: int) -> float:
    """A token of a prompt; its logits are wanted once a prompt, which is next to nothing."""
    return config.flops_per_token(length, backward=False) - 2.0 * config.vocab * (config.embed_width or config.width)


def _untouched(loaded: Loaded) -> int:
    """Bytes of the embedding, of which a token reads one row, where the head has a table of its own."""
    head = getattr(loaded.model.config.head, "tied", True)
    embed = loaded.model.embed.weight
    return 0 if head else embed.numel() * embed.element_size()


def _median(work: Callable[[], object], rounds: int) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
