"""Soft prompts and prefixes learn every task; what a run leaves opens on its base, here and in PEFT."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

import quire
from quire.cli.main import main
from quire.engine.encoder import EncoderEngine
from quire.errors import ModelError
from quire.tasks.tuning.schemas import Labelled, Question, Rewrite, Tagged
from quire.train.recipe import TrainRecipe
from quire.train.run import resume, train
from tests.small import write_model
from tests.tasks.readers import write
from tests.tasks.tuning.conftest import ranked, similar, text
from tests.tasks.tuning.conftest import tuned as tuned

Recipe = Callable[..., TrainRecipe]
ROWS: dict[str, list[Any]] = {
    "classify": [Labelled(f"{text(n)} {n}", (("good", "bad")[n % 2],), where=f"rows.jsonl:{n + 1}") for n in range(24)],
    "tag": [Tagged(("Angela", "met", "Barack", str(n)), ("B-PER", "O", "B-PER", "O"), where=f"rows.jsonl:{n + 1}") for n in range(16)],
    "answer": [Question("Who came?", f"Barack met {text(n)} {n}.", (("Barack", 0),), where=f"rows.jsonl:{n + 1}") for n in range(16)],
    "embed": similar(24),
    "rerank": ranked(16),
    "rewrite": [Rewrite(f"{text(n)} {n}", text(n + 1), where=f"rows.jsonl:{n + 1}") for n in range(16)],
}
METHODS = {
    "prompt": {"adapt.method": "prompt", "adapt.tokens": 4},
    "p-tuning": {"adapt.method": "p-tuning", "adapt.tokens": 4, "adapt.hidden": 8},
    "prefix": {"adapt.method": "prefix", "adapt.tokens": 4, "adapt.hidden": 8},
}
# task, kind of model, way: each task with each way, each kind with each where it learns the task
RUNS = [
    ("classify", "bert", "prompt"),
    ("classify", "roberta", "prefix"),
    ("classify", "llama", "p-tuning"),
    ("classify", "llama", "prefix"),
    ("tag", "roberta", "p-tuning"),
    ("tag", "bert", "prefix"),
    ("answer", "bert", "prompt"),
    ("answer", "bert", "prefix"),
    ("embed", "bert", "p-tuning"),
    ("embed", "roberta", "prefix"),
    ("embed", "llama", "prompt"),
    ("embed", "t5", "p-tuning"),
    ("rerank", "bert", "prompt"),
    ("rewrite", "t5", "prefix"),
    ("rewrite", "bart", "prompt"),
]
HEADS = {"bart": "ConditionalGeneration", "bert": "MaskedLM", "roberta": "MaskedLM", "llama": "CausalLM"}
AUTO = {"classify": "SequenceClassification", "tag": "TokenClassification", "answer": "QuestionAnswering"}


def evaluation(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "answers_held_out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("task", "kind", "method"), RUNS)
def test_a_task_is_learned_beside_a_frozen_base(tuned: Recipe, tmp_path: Path, task: str, kind: str, method: str) -> None:
    base, run = write(tmp_path / "base", HEADS[kind], kind) if kind in HEADS else write_model(tmp_path / "base", kind), tmp_path / "run"
    result = train(tuned(task, base, ROWS[task], **{"train.steps": 6, "optim.lr": 0.03, **METHODS[method]}))
    assert result.outcome.state == "finished" and result.model is None and not (run / "model").exists()
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == ("PREFIX_TUNING" if method == "prefix" else "PROMPT_TUNING")
    opened = quire.load(base, adapter=run / "adapter")
    assert opened.identity != quire.load(base).identity and opened.config.context == 60
    looked = {"classify": classified, "tag": tagged, "answer": answered, "embed": embedded, "rerank": reranked, "rewrite": rewritten}
    looked[task](opened, run)
    if task in AUTO:
        same_in_peft(base, run / "adapter", task, opened)


def classified(opened: Any, run: Path) -> None:
    rows = evaluation(run)
    texts = [row["reads"][0] for row in rows]
    said = opened.classify(texts)
    assert [max(scores, key=scores.get) for scores in said] == [row["label"] for row in rows]
    for one, other in zip(EncoderEngine(opened).classify(texts), said, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def tagged(opened: Any, run: Path) -> None:
    [table] = {json.dumps(json.loads((run / "evaluation.json").read_text())["held_out"]["tables"]["served"])}
    assert json.loads(table)["same"] == json.loads(table)["rows"] > 0
    assert isinstance(opened.tag([row["reads"][0] for row in evaluation(run)]), list)


def answered(opened: Any, run: Path) -> None:
    rows = evaluation(run)
    found = opened.answer([(row["reads"][0], row["reads"][1]) for row in rows])
    assert [one[0].text for one in found] == [row["answer"] for row in rows]


def embedded(opened: Any, run: Path) -> None:
    rows = evaluation(run)
    firsts, seconds = (opened.embed([row["reads"][side] for row in rows], normalize=True) for side in (0, 1))
    assert np.abs((firsts * seconds).sum(1) - [row["score"] for row in rows]).max() < 1e-3


def reranked(opened: Any, run: Path) -> None:
    rows = evaluation(run)
    assert all(len(opened.rerank(row["reads"][0], row["reads"][1:])) == len(row["reads"]) - 1 for row in rows)


def rewritten(opened: Any, run: Path) -> None:
    rows = evaluation(run)
    assert [one.text for one in opened.text2text([row["reads"][0] for row in rows])] == [row["text"] for row in rows]


def same_in_peft(base: Path, adapter: Path, task: str, opened: Any) -> None:
    """PEFT over transformers' class for the task makes the same of a text's own tokens."""
    labels = {} if task == "answer" else {"num_labels": opened.config.head.labels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        theirs = getattr(transformers, f"AutoModelFor{AUTO[task]}").from_pretrained(base, **labels)
        theirs = peft.PeftModel.from_pretrained(theirs, str(adapter)).eval()
        ids = torch.tensor([opened.contract.whole("the quick brown fox")])
        with torch.no_grad():
            wanted = theirs(input_ids=ids, attention_mask=torch.ones_like(ids))
            found = opened.model.head(opened.model.encode(ids) if opened.model.decoder is None else opened.model.decode(ids))
    logits = torch.stack((wanted.start_logits, wanted.end_logits), -1) if task == "answer" else wanted.logits
    torch.testing.assert_close(found, logits if task == "classify" else logits[:, -ids.shape[1] :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("task", "kind", "method"), [("classify", "bert", "prompt"), ("answer", "bert", "prefix")])
def test_a_stopped_run_goes_on_with_the_same_bits(tuned: Recipe, tmp_path: Path, task: str, kind: str, method: str) -> None:
    base = write(tmp_path / "base", HEADS[kind], kind)
    train(tuned(task, base, ROWS[task], **METHODS[method], out=str(tmp_path / "straight")))
    assert train(tuned(task, base, ROWS[task], **METHODS[method]), stop_at=3).outcome.state == "stopped"
    assert resume(tmp_path / "run").outcome.state == "finished"
    less = tuned(task, base, ROWS[task], **METHODS[method], **{"out": str(tmp_path / "less"), "train.checkpointing": True})
    train(less)  # layers that are computed again see the same prefix
    files = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("straight", "run", "less")]
    assert len({file.read_bytes() for file in files}) == 1


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, run = write(tmp_path / "base", "MaskedLM"), tmp_path / "run"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{text(n)} {n}", "label": ("good", "bad")[n % 2]}) + "\n" for n in range(24)))
    words = ["tune", base, rows, "--p-tuning", "--adapt.tokens", 3, "--out", run, "--train.steps", 4, "--train.threads", 1]
    assert main([str(word) for word in [*words, "--train.compile", "off"]]) == 0
    printed = capsys.readouterr()
    assert f"quire classify {base}" in printed.out and f"--adapter {run / 'adapter'}" in printed.out
    assert "trainable params: " in printed.err + printed.out
    assert main(["classify", str(base), "--adapter", str(run / "adapter"), "the quick brown fox"]) == 0
    assert capsys.readouterr().out.split()[0] in ("good", "bad")
    assert (run / "adapter" / "README.md").is_file()


def test_what_no_way_fits_is_refused_before_training(tuned: Recipe, tmp_path: Path) -> None:
    for task, base, method, message in (
        ("classify", write(tmp_path / "bart", "SequenceClassification", "bart"), "prompt", "encoder-decoder with a head of labels"),
        ("embed", write_model(tmp_path / "t5", "t5"), "prefix", "makes no vectors here"),
    ):
        with pytest.raises(ModelError, match=message):
            train(tuned(task, base, ROWS[task], **METHODS[method]))
        assert not (tmp_path / "run" / "checkpoints").exists()
