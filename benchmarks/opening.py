"""Opening a checkpoint of half a billion weights: Quire beside transformers, seconds and memory, each in processes of its own, in turn.

Both open the same folder (random weights, tokenizer included, one file in bf16 or fp32) and write one greedy token; nothing is loaded
before. Three figures: seconds of the call that opens it, seconds from the start of the process to the first token, and the most memory
that the process ever held beyond its imports, over the bytes of the weights. Memory is what is resident, with pages of files counted as
its own (the kernel's high-water mark, which PSS cannot exceed). The files are in the page cache, as after a download; Quire has seen the
folder once, so that its hashes are stamped; what that first look takes is told apart.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quire import machine

ROUNDS = 7
SIZES = {"vocab": 32_000, "width": 896, "layers": 24, "heads": 14, "kv_heads": 2, "hidden": 4864, "context": 2048}

COMMON = """
import json, sys, time
started, folder = float(sys.argv[1]), sys.argv[2]
def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def mark():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark begins anew
    return resident("VmRSS")
"""
QUIRE = """
import quire
from quire.model import load
base, began = mark(), time.monotonic()
model = load(folder, dtype=sys.argv[3])
opened = time.monotonic()
model.generate("def parse_", quire.Sampling(temperature=0.0, max_tokens=1))
"""
TRANSFORMERS = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import LlamaForCausalLM  # loaded when first used: its import is no part of opening
base, began = mark(), time.monotonic()
words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
opened = time.monotonic()
model.generate(**words("def parse_", return_tensors="pt"), max_new_tokens=1, do_sample=False, pad_token_id=0)
"""
LAST = """
print(json.dumps({"open": opened - began, "token": time.monotonic() - started, "peak": resident("VmHWM") - base}))
"""


def main() -> None:
    print(f"{datetime.date.today()}, {machine.processor()}, {machine.threads()} threads, {ROUNDS} rounds, medians (middle half)")
    with tempfile.TemporaryDirectory() as place:
        for dtype in ("bf16", "fp32"):
            folder = Path(place) / dtype
            size = make(folder, dtype)
            first = child(QUIRE, folder, dtype)["open"]
            found: dict[str, list[dict[str, float]]] = {"quire": [], "transformers": []}
            for _ in range(ROUNDS):
                found["quire"].append(child(QUIRE, folder, dtype))
                found["transformers"].append(child(TRANSFORMERS, folder, dtype))
            print(f"\n{dtype}, {size / 1e9:.2f} GB of weights; the first look, which hashes them, took quire {first:.2f} s")
            print(f"{'':14}{'open':>20}{'first token':>20}{'peak memory over weights':>28}")
            for side, rows in found.items():
                middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
                print(f"{side:14}{middle['open']:18.2f} s{middle['token']:18.2f} s{middle['peak'] / size:28.2f}")
            print(f"{'ratio':14}{ratio(found, 'open'):>20}{ratio(found, 'token'):>20}")
            for file in folder.iterdir():
                file.unlink()


def ratio(found: dict[str, list[dict[str, float]]], name: str) -> str:
    """transformers' seconds over quire's, pair by pair: the median, and the middle half."""
    pairs = [theirs[name] / ours[name] for ours, theirs in zip(found["quire"], found["transformers"], strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return f"{middle:.1f}x ({low:.1f} to {high:.1f})"


def child(code: str, folder: Path, dtype: str) -> Any:
    words = [sys.executable, "-W", "ignore", "-c", COMMON + code + LAST, str(time.monotonic()), str(folder), dtype]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def make(folder: Path, dtype: str) -> int:
    """A model folder with random weights; returns the bytes of its weights."""
    import torch

    from quire.binding import Contract
    from quire.families import FAMILIES
    from quire.families.folder import ModelFolder
    from quire.nn.config import Sizes
    from quire.nn.init import initialise
    from quire.nn.transformer import Transformer
    from quire.text.tokenizer import Tokenizer
    from quire.text.training import train

    few = train("bpe", [Path(__file__).read_text(encoding="utf-8")], 400)
    raw = few.definition.raw
    more = {f"<{i}>": i for i in range(few.vocab_size, SIZES["vocab"])}  # no text becomes them; the model may write them
    raw = {**raw, "model": {**raw["model"], "vocab": raw["model"]["vocab"] | more}}
    words = Tokenizer.from_json(json.dumps(raw), few.settings())
    config = FAMILIES["llama"].new(Sizes(**SIZES, bos=words.bos, eos=words.eos, pad=words.pad))
    model = Transformer(FAMILIES["llama"].build(config))
    initialise(model, torch.Generator().manual_seed(0))
    ModelFolder.save(folder, model, config, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
    Contract(words).save(folder)
    return (folder / "model.safetensors").stat().st_size


if __name__ == "__main__":
    main()
