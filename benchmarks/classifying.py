"""Labels of texts of mixed length in the shape of BERT-base: transformers' pipeline, as it is called, and Quire in fp32 and bf16.

Random weights, MiniLM's tokenizer, 16 to 240 words a text, drawn once. The pipeline runs with batch_size=1 (its default) and 32, without
and with bf16; all give the same labels in fp32. Every round runs all of them, one after the other, on the same threads. Needs the extra
`minilm` (for its tokenizer) and transformers.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.embedding import mixed
from benchmarks.paired import interleaved
from quire import machine


def write(folder: Path) -> None:
    """A classifier of BERT-base's shape with random weights, as transformers saves it."""
    import transformers

    from quire import minilm

    transformers.logging.disable_progress_bar()
    transformers.set_seed(0)
    config = transformers.BertConfig(vocab_size=30_522, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(minilm.folder() / name, folder / name)


def main() -> None:
    import torch
    import transformers

    import quire

    chosen = options()
    torch.set_num_threads(chosen.threads or machine.threads())
    texts = mixed(chosen.texts)
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        ours = {name: quire.load(place, dtype=name) for name in ("fp32", "bf16")}
        types = {"fp32": torch.float32, "bf16": torch.bfloat16}
        pipes = {name: transformers.pipeline("text-classification", place, device="cpu", dtype=dtype) for name, dtype in types.items()}
        ways = {f"pipeline {name}, batch_size={size}": _pipeline(pipes[name], texts, size) for size in (1, 32) for name in types}
        ways |= {f"quire {name}": _ours(model, texts) for name, model in ours.items()}
        theirs, found = ways["pipeline fp32, batch_size=1"](), ours["fp32"].classify(texts)
        furthest = max(abs(row[entry["label"]] - entry["score"]) for row, entry in zip(found, theirs))
        timings = interleaved(ways, rounds=chosen.rounds, warm=1)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, {torch.get_num_threads()} threads, {versions}")
    print(f"{len(texts):,} texts; largest difference between the scores in fp32 {furthest:.1e}")
    print(f"{'':32}{'median s':>10}{'texts/s':>9}{'speed':>8}   middle half of the ratios")
    for name, timing in timings.items():
        ratios = f"{1 / timing.high:.2f} to {1 / timing.low:.2f}"
        print(f"{name:32}{timing.seconds:10.2f}{len(texts) / timing.seconds:9.1f}{1 / timing.ratio:7.2f}x   {ratios}")


def _pipeline(pipe, texts, size):
    # truncation: MiniLM's tokenizer.json asks for padding to a fixed length unless it is told otherwise
    return lambda: pipe(texts, batch_size=size, truncation=True)


def _ours(model, texts):
    return lambda: model.classify(texts)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 7")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0: all that this process may use")
    return parser.parse_known_args()[0]


if __name__ == "__main__":
    main()
