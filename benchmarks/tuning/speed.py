"""Fine-tuning steps a second and peak memory: the tutorials' way, transformers' Trainer well set, peft, and Quire.

    python -m benchmarks.tuning.speed classify                   MiniLM on IMDb's training rows, cut at 512 tokens (20 minutes)
    python -m benchmarks.tuning.speed classify --rows 320 --ways tutorial well-set
    python -m benchmarks.tuning.speed lora                       rank 8 on the 0.5B shape: 4 rows of 512 tokens a step

Each way is a process of its own that takes one optimizer step when told to, in turns: what else the machine does falls on all alike.

classify: all learn from one sample of the training rows, evenly spaced over their lengths. The well-set Trainer and Quire take all of it,
each in its own batches; a step's cost depends on its length, so the rate is all rows over all seconds. transformers' grouping is its own
function with the 50 batches that it sorts together in a large set. The tutorial's steps are all of one cost: it takes as many steps, and
their spread tells how steady the machine was. Equal for all: threads, AdamW in torch's fused kernel, dropout, no evaluation, no saving.
Not timed: reading, tokenizing, checks, and the first step of the peers; Quire's first step counts, for it is the longest of its batches.

lora: random bf16 weights of Qwen2.5-0.5B's shape with 32,000 tokens, rank 8 on the query and value projections; `nf4` is the same on a base
packed to four bits (QLoRA).

Peak memory is of a process alone: the largest proportional set size (file pages counted) from its start through its longest batch. The
three ways of classify together need 20 GB that are free.
Needs transformers, accelerate, peft, the extra `minilm`, and the data folder of benchmarks/tuning/splits.py.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import opening, train
from benchmarks.tuning import splits
from quire import machine, minilm

LENGTH, BATCH = 512, 32
GROUPED = 50  # batches that transformers sorts together in a set of 200 batches or more
LORA_ROWS = 4
IMDB_STEPS = 1556  # two epochs of all training rows: how long a run believes to be is part of how it sets itself up


class Gate:
    """Lets `free` steps pass, says "ready", and then lets one pass for each line on standard input, saying "step" after each."""

    def __init__(self, free: int) -> None:
        self.free = free

    def begin(self) -> None:
        if not self.free:
            self._wait("ready")

    def end(self) -> None:
        self.free -= 1
        if self.free <= 0:
            self._wait("step" if self.free else "ready")

    def _wait(self, word: str) -> None:
        print(word, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # the referee has seen enough


# -- the peers -------------------------------------------------------------------------------------------------------------------------


def trainer(model: Any, rows: list[dict[str, Any]], batches: list[list[int]], collator: Any, gate: Gate, **settings: Any) -> None:
    """transformers' Trainer on `batches` (numbers of rows), in this order."""
    import transformers

    class Ordered(transformers.Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return [number for batch in batches for number in batch]

    class Steps(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            gate.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate.end()

    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    with tempfile.TemporaryDirectory() as place:
        size = len(batches[0])
        arguments = transformers.TrainingArguments(place, per_device_train_batch_size=size, max_steps=len(batches), **quiet, **settings)
        Ordered(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[Steps()]).train()
    gate._wait("over")


def classifier(place: Path, padded: bool) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Model, tokenizer and tokenized rows, as the documentation makes them: `padded` to 512, or as long as they are."""
    import transformers

    folder = str(minilm.folder())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    rows = splits.read(place / "rows.jsonl")
    read = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH, padding="max_length" if padded else False)
    names = ("input_ids", "token_type_ids", "attention_mask")
    return model, tokenizer, [{**{name: read[name][n] for name in names}, "labels": int(row["label"])} for n, row in enumerate(rows)]


def tutorial(place: Path, batch: int) -> None:
    """Padding to max_length, as the guide for text classification has it."""
    import transformers

    model, _, rows = classifier(place, padded=True)
    steps = 1 + len(rows) // BATCH
    batches = [[(step * batch + n) % len(rows) for n in range(batch)] for step in range(steps)]
    trainer(model, rows, batches, transformers.default_data_collator, Gate(1))


def well_set(place: Path) -> None:
    """Padding to the longest of a batch, batches of like length (train_sampling_strategy="group_by_length"), bf16."""
    import random

    import transformers
    from transformers.trainer_pt_utils import get_length_grouped_indices

    model, tokenizer, rows = classifier(place, padded=False)
    transformers.set_seed(0)
    order = get_length_grouped_indices([len(row["input_ids"]) for row in rows], BATCH, mega_batch_mult=GROUPED)
    longest, *others = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    random.Random(0).shuffle(others)
    batches = [longest, longest, *others]  # the first of them is not timed
    trainer(model, rows, batches, transformers.DataCollatorWithPadding(tokenizer), Gate(1), bf16=True)


def peft_lora(place: Path) -> None:
    """peft on bf16 weights in the Trainer with bf16; its adapter's own weights are fp32, as peft makes them."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.bfloat16)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    drawn = torch.randint(3, model.config.vocab_size, (64 * LORA_ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    batches = [list(range(start, start + LORA_ROWS)) for start in range(0, len(drawn), LORA_ROWS)]
    trainer(model, [{"input_ids": row, "labels": row} for row in drawn], batches, transformers.default_data_collator, Gate(1), bf16=True)


# -- Quire -----------------------------------------------------------------------------------------------------------------------------


def quire(recipe: dict[str, Any], gate: Gate) -> None:
    """The run of a recipe as `quire train` makes it, checks and lines of metrics included, stopped after each step."""
    from quire.recipe import from_dict
    from quire.train import run
    from quire.train.recipe import TrainRecipe

    class Steps:
        def on_step(self, row: dict[str, Any]) -> None:
            gate.end()

        def on_eval(self, row: dict[str, Any]) -> None: ...
        def on_sample(self, row: dict[str, Any]) -> None: ...

    never = {"eval_every": 10**9, "sample_every": 10**9, "save_every": 10**9}
    recipe["train"] |= never
    run.train(from_dict(TrainRecipe, recipe), observers=[Steps()], on_plan=lambda plan: gate.begin())


def quire_classify(place: Path) -> None:
    recipe = {
        "out": str(place / f"run-{os.getpid()}"),
        "model": {"start": "minilm"},
        "data": {"sources": [str(place / "rows.jsonl")], "held_out": 0.0, "longest": LENGTH, "long": "cut"},
        "task": {"name": "classify"},
        "optim": {"lr": 5e-5, "betas": [0.9, 0.999], "weight_decay": 0.0, "schedule": "linear", "warmup": 0.0, "final": 0.0},
        "train": {"steps": IMDB_STEPS, "batch": BATCH, "micro_batch": 8, "dtype": "bf16"},  # a quarter of the memory, the same step
    }
    quire(recipe, Gate(0))


def quire_lora(place: Path, method: str = "lora") -> None:
    recipe = {
        "out": str(place / f"run-{os.getpid()}"),
        "model": {"start": str(place / "model")},
        "data": {"sources": [str(place / "rows.jsonl")], "held_out": 0.0, "longest": LENGTH, "long": "cut", "most_cut": 1.0},
        "task": {"name": "chat"},
        "adapt": {"method": method, "rank": 8, "alpha": 16.0, "targets": ["q_proj", "v_proj"]},
        "optim": {"lr": 5e-5, "betas": [0.9, 0.999], "weight_decay": 0.0, "schedule": "linear", "warmup": 0.0, "final": 0.0},
        "train": {"steps": 1000, "batch": LORA_ROWS, "dtype": "bf16"},
    }
    quire(recipe, Gate(1))


# -- the referee -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    says: str
    work: Callable[[Path], None]
    units: int  # rows, or tokens, of a step


def ways(work: str, batch: int) -> dict[str, Way]:
    if work == "lora":
        tokens = LORA_ROWS * LENGTH
        return {
            "peft": Way("peft + Trainer, bf16", peft_lora, tokens),
            "quire": Way("Quire, bf16", quire_lora, tokens),
            "nf4": Way("Quire, NF4 (QLoRA)", lambda place: quire_lora(place, "qlora"), tokens),
        }
    return {
        "tutorial": Way(f"Trainer, padded to {LENGTH}, fp32, batch {batch}", lambda place: tutorial(place, batch), batch),
        "well-set": Way(f"Trainer, grouped, bf16, batch {BATCH}", well_set, BATCH),
        "quire": Way(f"Quire, bf16, batch {BATCH}", quire_classify, BATCH),
    }


class Side(train.Side):
    """A running process of one way."""

    def __init__(self, work: str, name: str, place: Path, batch: int) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.tuning.speed", work, "--side", name, "--place", str(place)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(machine.threads()), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [*command, "--tutorial-batch", str(batch)],
            cwd=splits.ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self, word: str) -> None:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().strip()) != word:
            if not line and self.process.poll() is not None:
                raise RuntimeError(f"a way ended with {self.process.returncode}; what it said stands above")

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.wait("step")


def speed(start: Callable[[str], Side], names: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step of each way, in interleaved rounds."""
    sides: dict[str, Side] = {}
    try:
        for name in names:  # one after the other: their preparations do not fight for memory
            sides[name] = start(name)
            sides[name].wait("ready")
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, side in sides.items():
                began = time.perf_counter()
                side.step()
                seconds[name].append(time.perf_counter() - began)
        return seconds
    finally:
        for side in sides.values():
            side.close()


def peak(start: Callable[[str], Side], name: str) -> float:
    """MB."""
    side, found, ended = start(name), 0, threading.Event()

    def watch() -> None:
        nonlocal found
        while not ended.wait(0.05) and side.process.poll() is None:
            found = max(found, side.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        side.wait("ready")
        side.step()
        side.step()
    finally:
        ended.set()
        watcher.join()
        side.close()
    return found / 2**20


def prepare(work: str, place: Path, count: int) -> str:
    """Writes what all ways of `work` read; a line that tells it."""
    if work == "lora":
        from quire.data import sources

        opening.make(place / "model", "bf16")
        texts = [one.text for one in sources.read(["stdlib"]) if len(one.text) > 20 * LENGTH][: 64 * LORA_ROWS]
        rows = [{"prompt": text[:20], "completion": text[20 : 20 * LENGTH]} for text in texts]
        said = f"{LORA_ROWS} rows of {LENGTH} tokens a step, rank 8 on query and value"
    else:
        with gzip.open(splits.data_folder() / "classification/imdb/train.jsonl.gz", "rt", encoding="utf-8") as file:
            known = sorted((json.loads(line) for line in file), key=lambda row: len(row["text"]))
        chosen = [known[int((n + 0.5) * len(known) / count)] for n in range(count)]
        rows = [{"text": row["text"], "label": str(row["label"])} for row in chosen]
        said = f"MiniLM, {count:,} of IMDb's {len(known):,} training rows, cut at {LENGTH} tokens"
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return said


def main() -> None:
    chosen = options()
    known = ways(chosen.work, chosen.tutorial_batch)
    if chosen.side:
        import torch
        import transformers

        torch.set_num_threads(machine.threads())
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        known[chosen.side].work(chosen.place)
        return
    import torch
    import transformers

    names = chosen.ways or list(known)
    if unknown := set(names) - set(known):
        raise SystemExit(f"{chosen.work} has no way {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    rounds = chosen.rounds or (7 if chosen.work == "lora" else chosen.rows // BATCH)
    if rounds < 2 or chosen.rows % BATCH:
        raise SystemExit(f"{rounds} rounds of {chosen.rows} rows tell nothing; take 2 rounds or more, and a multiple of {BATCH} rows")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        said = prepare(chosen.work, place, chosen.rows)

        def start(name: str) -> Side:
            return Side(chosen.work, name, place, chosen.tutorial_batch)

        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        sets = ", ".join(machine.instruction_sets())
        print(f"{datetime.date.today()}, {machine.processor()}, {sets}, {machine.threads()} threads, {versions}")
        print(f"{said}; {rounds} interleaved rounds", flush=True)
        tell(known, speed(start, names, rounds), chosen)
        if not chosen.no_memory:
            tell_memory(known, {name: peak(start, name) for name in names}, chosen)


def tell(known: dict[str, Way], seconds: dict[str, list[float]], chosen: argparse.Namespace) -> None:
    rates = {name: known[name].units * len(taken) / sum(taken) for name, taken in seconds.items()}
    unit = "tokens/s" if chosen.work == "lora" else "rows/s"
    print(f"{'':44}{unit:>9}" + "".join(f"{'to ' + name:>14}" for name in rates))
    for name, rate in rates.items():
        print(f"{known[name].says:44}{rate:9.2f}" + "".join(f"{rate / other:14.2f}" for other in rates.values()))
        record(chosen, name, {"unit": unit, "rate": rate, "rounds": len(seconds[name])})
    low, middle, high = statistics.quantiles(next(iter(seconds.values())), n=4)
    print(f"a step of the first: {middle:.2f} s, middle half {low:.2f} to {high:.2f}", flush=True)
    if chosen.work == "lora" and len(seconds) > 1:
        first, second = list(seconds)[:2]
        low, middle, high = statistics.quantiles([a / b for a, b in zip(seconds[first], seconds[second], strict=True)], n=4)
        print(f"neighbouring steps, {first} to {second}: {middle:.2f}, middle half {low:.2f} to {high:.2f}", flush=True)


def tell_memory(known: dict[str, Way], peaks: dict[str, float], chosen: argparse.Namespace) -> None:
    print(f"\n{'peak memory (PSS)':44}{'MB':>9}" + "".join(f"{'to ' + name:>14}" for name in peaks))
    for name, most in peaks.items():
        print(f"{known[name].says:44}{most:9.0f}" + "".join(f"{most / other:14.2f}" for other in peaks.values()))
        record(chosen, name, {"peak_mb": most})


def record(chosen: argparse.Namespace, name: str, figures: dict[str, Any]) -> None:
    train.record(chosen.json, {"date": datetime.date.today().isoformat(), "work": chosen.work, "way": name, **figures})


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["classify", "lora"])
    parser.add_argument("--ways", nargs="*", default=[], help="classify: tutorial, well-set, quire; lora: peft, quire, nf4; all by default")
    parser.add_argument("--rows", type=int, default=GROUPED * BATCH, help=f"classify: a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=0, help="steps of each way; 0: all rows of classify, 7 of lora")
    parser.add_argument("--tutorial-batch", type=int, default=16, help="16 is that of the documentation's guides")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line each")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
