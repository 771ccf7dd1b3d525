"""Cached greedy generation of one stream: Quire's loop beside transformers' generate, the same weights, tokens per second.

Both write the same tokens (asserted). Quire's side also turns each token into text as it comes, which generate does not. Two shapes: the
quickstart model's, where a step is mostly calls, and GPT-2 124M's, where it is mostly memory. fp32, end-of-text ignored on both sides.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.paired import interleaved
from quire import machine
from quire.decode.loop import Way, complete, decode
from quire.families import FAMILIES
from quire.families.folder import ModelFolder
from quire.nn.config import Sizes
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.text.tokenizer import Tokenizer
from quire.text.training import train
from quire.types import Sampling

QUICKSTART = ("llama", Sizes(vocab=2048, width=128, layers=4, heads=4, kv_heads=2, hidden=352, context=512), 256)
GPT2 = ("gpt2", Sizes(vocab=50257, width=768, layers=12, heads=12, context=1024), 32)


def words() -> Tokenizer:
    """A vocabulary that holds every id of the small model; the larger one's ids are wrapped into it, which costs the same."""
    return train("bpe", [Path(__file__).read_text(encoding="utf-8")], 400)


class Wrapped:
    """The tokenizer over any id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.size = tokenizer, tokenizer.vocab_size

    def decode(self, ids: list[int], special: bool = False) -> str:
        return self.tokenizer.decode([token % self.size for token in ids], special)

    def stream(self) -> Any:
        stream, size = self.tokenizer.stream(), self.size

        class Stream:
            def push(self, token: int) -> str:
                return stream.push(token % size)

            def end(self) -> str:
                return stream.end()

        return Stream()


def build(family: str, sizes: Sizes) -> tuple[Transformer, Any]:
    """Our model and transformers', from one folder. The weights are spread so far that no two tokens are nearly as likely."""
    from transformers import AutoModelForCausalLM

    config = FAMILIES[family].new(sizes)
    model = Transformer(FAMILIES[family].build(config))
    draw = torch.Generator().manual_seed(0)
    initialise(model, draw)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    with tempfile.TemporaryDirectory() as place:
        opened = ModelFolder.save(Path(place) / "model", model, config)
        theirs = AutoModelForCausalLM.from_pretrained(opened.path, dtype=torch.float32).eval()
        return opened.build(), theirs


def measure(name: str, family: str, sizes: Sizes, tokens: int, threads: int, rounds: int) -> None:
    torch.set_num_threads(threads)
    ours, theirs = build(family, sizes)
    prompt = torch.randint(sizes.vocab, (16,), generator=torch.Generator().manual_seed(1)).tolist()
    tokenizer, sampling = Wrapped(words()), Sampling(temperature=0.0, max_tokens=tokens)

    def quire(way: Way) -> tuple[int, ...]:
        return complete(decode(ours, prompt, sampling, tokenizer, way=way), len(prompt)).ids

    def generate() -> tuple[int, ...]:
        row = torch.tensor([prompt])
        kept = {"attention_mask": torch.ones_like(row), "max_new_tokens": tokens, "do_sample": False}
        out = theirs.generate(row, **kept, eos_token_id=None, pad_token_id=0)
        return tuple(out[0, len(prompt) :].tolist())

    assert quire("lean") == quire("plain") == generate(), "the two sides write different tokens"
    found = interleaved({"transformers": generate, "lean": lambda: quire("lean"), "plain": lambda: quire("plain")}, rounds=rounds)
    print(f"{name}: {ours.config.parameters():,} parameters, {tokens} tokens after 16, {threads} thread{'s' * (threads > 1)}")
    print(f"{'':16}{'tokens/s':>10}{'times':>8}   middle half of the rounds")
    for way, timing in found.items():
        print(f"{way:16}{tokens / timing.seconds:10,.0f}{1 / timing.ratio:8.2f}   {1 / timing.high:.2f} to {1 / timing.low:.2f}")
    print(flush=True)


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"{datetime.date.today()}, {machine.processor()}, torch {torch.__version__}, transformers {transformers.__version__}")
    for threads in sorted({1, machine.threads()}):
        measure("quickstart's shape", *QUICKSTART, threads, rounds=9)
    measure("GPT-2 124M's shape", *GPT2, machine.threads(), rounds=7)


if __name__ == "__main__":
    main()
