"""Adapters that bring the head of their base: labels on a base that has none, equal to PEFT's, both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import quire
from quire.adapt import LoRA, attach, open_adapter, save_adapter, with_its_head
from quire.adapt.surgery import trained
from quire.binding import bound
from quire.errors import BindingError
from quire.families import ModelFolder, heads
from quire.model import merge
from quire.nn.batch import Batch
from tests.adapt.oracle import case_of, disturb, saved_base
from tests.small import write_model

LABELS = ("bad", "good", "so-so")
BASES = {
    "bert": case_of("bert", architectures=["BertModel"]),
    "bert-words": case_of("bert", architectures=["BertForMaskedLM"]),
    "distilbert": case_of("distilbert", architectures=["DistilBertForMaskedLM"]),
    "roberta": case_of("roberta", architectures=["RobertaForMaskedLM"]),
    "llama": case_of("llama", pad_token_id=0),
}
SAVED = {
    "bert": ["classifier"],
    "bert-words": ["classifier", "pooler.dense"],
    "distilbert": ["classifier", "pre_classifier"],
    "roberta": ["classifier"],
    "llama": ["score"],
}


def labelled(base: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS)).eval()


@torch.no_grad()
def close(theirs: torch.nn.Module, model: Any) -> None:
    tokens = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(2))
    wanted = theirs(input_ids=tokens).logits
    batch = Batch(tokens)
    torch.testing.assert_close(model.head(model(batch)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(BASES))
def test_peft_opens_a_new_head(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    saved_base(BASES[name], tmp_path / "base")
    opened = ModelFolder.open(tmp_path / "base")
    opened = opened.with_head(heads.fields(opened, "row", LABELS))
    model = opened.build()
    attach(model, LoRA(4), opened)
    assert any(part.startswith("head.classifier") for part in trained(model))
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["modules_to_save"] == SAVED[name] and written["task_type"] == "SEQ_CLS"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(PeftModel.from_pretrained(labelled(tmp_path / "base"), str(tmp_path / "adapter")).eval(), model)


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_we_open_pefts_new_head(name: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    saved_base(BASES[name], tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(labelled(tmp_path / "base"), LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)).eval()
        theirs.save_pretrained(str(tmp_path / "adapter"))
    base = ModelFolder.open(tmp_path / "base")
    opened = with_its_head(tmp_path / "adapter", base)
    assert base.model_config.head != opened.model_config.head
    model = opened.build()
    open_adapter(tmp_path / "adapter", model, opened)
    close(theirs, model)


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[Path, Path, Any]:
    """(base, adapter, model) of a masked-language model with labels on it, as Quire leaves them."""
    base = write_model(tmp_path / "base", "bert")
    opened = ModelFolder.open(base)
    opened = opened.with_head(heads.fields(opened, "row", LABELS, {"problem_type": "single_label_classification"}))
    model = opened.build(seed=5)
    attach(model, LoRA(4), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened, bound(base))
    return base, tmp_path / "adapter", model


def test_the_labels_come_with_the_adapter(tuned: tuple[Path, Path, Any], tmp_path: Path) -> None:
    base, adapter, model = tuned
    loaded = quire.load(base, adapter=adapter)
    found = loaded.classify(["def parse"])[0]
    assert set(found) == set(LABELS)
    ids = torch.tensor([loaded.contract.whole("def parse")])
    with torch.no_grad():
        wanted = model.head(model(Batch(ids))).softmax(-1)[0]
    torch.testing.assert_close(torch.tensor([found[label] for label in LABELS]), wanted, atol=1e-5, rtol=1e-5)
    whole = quire.load(merge(base, adapter, tmp_path / "merged"))
    assert whole.classify(["def parse"])[0] == pytest.approx(found, abs=1e-5)


def test_a_record_changes_nothing_but_the_head(tuned: tuple[Path, Path, Any]) -> None:
    base, adapter, _ = tuned
    record = adapter / "quire_adapter.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"head": {"hidden_act": "relu"}}))
    with pytest.raises(BindingError, match="hidden_act"):
        quire.load(base, adapter=adapter)
