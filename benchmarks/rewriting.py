"""Text for text: tokens a second of greedy decoding and of four beams, Quire beside transformers' generate, T5-small and Opus-MT shapes.

Random weights, 48 sources of mixed length (8 to 60 tokens), 24 new tokens each: the end-of-text token is forbidden on both sides, so that
the work is equal. transformers gets what a careful user gives it: sources sorted by length, padded batches of 24 (of 16 with beams),
attention masks, inference mode. Quire gets the sources as they come and batches them itself. Each ratio is that of one round.
"""

from __future__ import annotations

import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import interleaved
from quire import machine
from quire.decode.beam import search
from quire.decode.rows import Weights
from quire.decode.together import Rules, write
from quire.families.folder import ModelFolder
from quire.nn.transformer import Transformer
from quire.tasks.lengths import batches
from quire.types import Beam, Sampling

NEW, SOURCES = 24, 48
SHAPES: dict[str, dict[str, Any]] = {
    "T5-small": {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 8,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "Opus-MT": {
        "model_type": "marian",
        "vocab_size": 58101,
        "d_model": 512,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 8,
        "decoder_attention_heads": 8,
        "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048,
        "max_position_embeddings": 512,
        "activation_function": "swish",
        "scale_embedding": True,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
    },
}


def build(shape: str, dtype: torch.dtype) -> tuple[Transformer, Any]:
    """Our model and transformers', from one folder, with weights spread so far that texts differ."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    config = AutoConfig.for_model(**SHAPES[shape])
    torch.manual_seed(0)
    theirs = AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.normal_(0.0, 0.05)
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(Path(place) / "m")
        ours = ModelFolder.open(Path(place) / "m").build(dtype)
        theirs = AutoModelForSeq2SeqLM.from_pretrained(Path(place) / "m", dtype=dtype).eval()
    return ours, theirs


class Nothing:
    """No tokenizer: both sides end at ids."""

    def decode(self, ids: list[int], special: bool = False) -> str:
        return ""

    def stream(self) -> Any:
        raise NotImplementedError("no stop strings are given")


def measure(shape: str, dtype: torch.dtype, beams: int, rounds: int) -> None:
    ours, theirs = build(shape, dtype)
    config, draw = SHAPES[shape], np.random.default_rng(0)
    sources = [draw.integers(5, config["vocab_size"] - 5, length).tolist() for length in draw.integers(8, 61, SOURCES)]
    start, end, pad = config["decoder_start_token_id"], config["eos_token_id"], config["pad_token_id"]
    forbidden = tuple({end, pad})
    rules = Rules(forbidden=forbidden)

    def quire() -> list[tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        weights = Weights(ours, 128)
        for batch in batches([len(row) for row in sources], 4096):
            parts = -(-len(batch) * beams // 128)
            for part in range(parts):
                numbers = batch[len(batch) * part // parts : len(batch) * (part + 1) // parts]
                rows, prompts = [sources[number] for number in numbers], [[start]] * len(numbers)
                if beams > 1:
                    written = [
                        one.ids for one in search(ours, prompts, Beam(beams, NEW, forbidden=forbidden), sources=rows, weights=weights)
                    ]
                else:
                    greedy = Sampling(temperature=0.0, max_tokens=NEW)
                    written = [one.ids for one in write(ours, prompts, greedy, Nothing(), sources=rows, rules=rules, weights=weights)]
                found.update(zip(numbers, written))
        return [found[number] for number in range(len(sources))]

    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))

    def generate(size: int) -> list[tuple[int, ...]]:
        found = {}
        for at in range(0, len(order), size):
            numbers = order[at : at + size]
            longest = len(sources[numbers[-1]])
            tokens = torch.tensor([sources[number] + [pad] * (longest - len(sources[number])) for number in numbers])
            keep = torch.tensor([[place < len(sources[number]) for place in range(longest)] for number in numbers]).long()
            how = {"num_beams": beams, "do_sample": False, "max_new_tokens": NEW, "bad_words_ids": [[id] for id in forbidden]}
            with torch.inference_mode():
                ids = theirs.generate(tokens, attention_mask=keep, eos_token_id=None, forced_eos_token_id=None, pad_token_id=pad, **how)
            found.update(zip(numbers, map(tuple, ids[:, 1:].tolist())))
        return [found[number] for number in range(len(sources))]

    size = 16 if beams > 1 else 24
    a, b = quire(), generate(size)
    assert all(len(row) == NEW for row in a + b), "the work is not equal"
    same = sum(one == other for one, other in zip(a, b))
    found = interleaved({"transformers": lambda: generate(size), "quire": quire}, rounds=rounds, warm=1)
    tokens = NEW * len(sources)
    name = f"{shape}, {'greedy' if beams == 1 else f'{beams} beams'}, {str(dtype).removeprefix('torch.')}"
    one, other = found["transformers"], found["quire"]
    print(
        f"{name:32}{tokens / one.seconds:10,.0f}{tokens / other.seconds:10,.0f}{1 / other.ratio:8.2f}   "
        f"{1 / other.high:.2f} to {1 / other.low:.2f}   {same} of {len(a)}",
        flush=True,
    )


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(machine.threads())
    print(f"{datetime.date.today()}, {machine.processor()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{machine.threads()} threads, {SOURCES} sources, {NEW} new tokens each; tokens a second, and texts that are equal on both sides")
    print(f"{'':32}{'theirs':>10}{'quire':>10}{'times':>8}   middle half of the rounds")
    wanted = sys.argv[1:] if sys.argv[0].endswith("rewriting.py") else []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for beams in (1, 4):
                if not wanted or f"{shape}-{str(dtype).removeprefix('torch.')}-{beams}" in wanted:
                    measure(shape, dtype, beams, rounds=7)


if __name__ == "__main__":
    main()
