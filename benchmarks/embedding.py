"""Vectors of 1,000 texts of mixed length with MiniLM: sentence-transformers in fp32 (its default) and bf16, and Quire in both.

16 to 240 words a text, drawn once. The cosine shown is the smallest, over the texts, with sentence-transformers' fp32 vector. Every round
runs all of them, one after the other, on the same threads. Needs the extra `minilm` and sentence-transformers.
"""

from __future__ import annotations

import argparse
import datetime
import random
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.paired import interleaved
from quire import machine

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand part place case week "
    "company system program question work government number night point home water room mother area money story fact month lot right study"
).split()


def mixed(count: int, shortest: int = 16, longest: int = 240, seed: int = 0) -> list[str]:
    """Texts of `shortest` to `longest` common words."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(shortest, longest))) for _ in range(count)]


def main() -> None:
    import sentence_transformers
    import torch

    import quire
    from quire import minilm

    chosen = options()
    torch.set_num_threads(chosen.threads or machine.threads())
    folder = str(minilm.folder())
    wide = sentence_transformers.SentenceTransformer(folder, device="cpu")
    narrow = sentence_transformers.SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    ours = {name: quire.load("minilm", dtype=name) for name in ("fp32", "bf16")}
    texts = mixed(chosen.texts)
    ways = {
        "sentence-transformers fp32": lambda: wide.encode(texts, show_progress_bar=False),
        "sentence-transformers bf16": lambda: narrow.encode(texts, show_progress_bar=False),
        "quire fp32": lambda: ours["fp32"].embed(texts),
        "quire bf16": lambda: ours["bf16"].embed(texts),
    }
    first = ways["sentence-transformers fp32"]()
    nearness = {name: float((way() * first).sum(1).min()) for name, way in ways.items()}
    found = interleaved(ways, rounds=chosen.rounds, warm=1)
    tokens = sum(map(len, ours["fp32"].contract.tokenizer.library_batch(texts)))
    versions = f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, {torch.get_num_threads()} threads, {versions}")
    print(f"{len(texts):,} texts, {tokens / len(texts):.0f} tokens in the mean")
    print(f"{'':28}{'median s':>10}{'texts/s':>9}{'speed':>8}   {'middle half of the ratios':27}smallest cosine")
    for name, timing in found.items():
        ratios = f"{1 / timing.high:.2f} to {1 / timing.low:.2f}"
        line = f"{name:28}{timing.seconds:10.2f}{len(texts) / timing.seconds:9.1f}{1 / timing.ratio:7.2f}x   {ratios:27}"
        print(line + f"{nearness[name]:.5f}")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 7")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=0, help="0: all that this process may use")
    return parser.parse_known_args()[0]


if __name__ == "__main__":
    main()
