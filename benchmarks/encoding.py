"""Encoding a 10 MB corpus: the `tokenizers` library alone, and the fast path through tiktoken, with equal ids.

The standard library's own source, 10 MB of it, as documents; byte-level BPE learned on a part. Both sides encode the same list of texts on
the same number of threads; every round runs both, one after the other. (Not called tokenize: that name belongs to the standard library.)
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.paired import interleaved
from quire import machine

MEGABYTES, VOCAB, LEARNED_ON = 10, 8192, 2_000_000


def texts() -> list[str]:
    """Documents of the standard library up to MEGABYTES, smallest-first order of names; all of it where there is less."""
    from quire.data.sources import read

    found: list[str] = []
    size = 0
    for document in read(["stdlib"]):
        if size + document.size > MEGABYTES * 10**6:
            break
        found.append(document.text)
        size += document.size
    return found


def main() -> None:
    threads = machine.threads()
    # The library reads these when it first encodes.
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import tiktoken
    import tokenizers

    from quire.text.training import train

    corpus = texts()
    size = sum(len(text.encode("utf-8")) for text in corpus)
    part, taken = [], 0
    for text in corpus:
        part.append(text)
        taken += len(text)
        if taken > LEARNED_ON:
            break
    tokenizer = train("bpe", part, VOCAB)
    if tokenizer.fast is None:
        sys.exit(f"there is no fast path here: {tokenizer.why_not_fast}")
    slow, fast = tokenizer.library_batch(corpus), tokenizer.encode_batch(corpus)
    assert slow == fast, "the ids differ"
    one = "".join(corpus)
    assert tokenizer.library_batch([one])[0] == tokenizer.encode(one), "the ids differ"
    found = interleaved(
        {
            "tokenizers": lambda: tokenizer.library_batch(corpus),
            "with the extra fast": lambda: tokenizer.encode_batch(corpus),
        },
        rounds=options().rounds,
        warm=1,
    )
    versions = f"tokenizers {tokenizers.__version__}, tiktoken {tiktoken.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, {threads} threads, {versions}")
    print(f"{len(corpus):,} documents, {size / 1e6:.1f} MB, {sum(map(len, fast)):,} tokens of {tokenizer.vocab_size:,}; ids equal")
    print(f"{'':24}{'median s':>10}{'MB/s':>8}{'speed':>9}   middle half of the ratios")
    for name, timing in found.items():
        ratios = f"{1 / timing.high:.2f} to {1 / timing.low:.2f}"
        print(f"{name:24}{timing.seconds:10.3f}{size / 1e6 / timing.seconds:8.1f}{1 / timing.ratio:8.2f}x   {ratios}")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds, at least 7")
    return parser.parse_known_args()[0]


if __name__ == "__main__":
    main()
