"""Another head for a model that is there: what the file holds is loaded, what is missing is named and drawn, the old head is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from quire.errors import ModelError
from quire.families import ModelFolder, heads
from quire.nn.batch import Batch
from tests.small import write_model

IDS = torch.tensor([[5, 9, 11, 3], [7, 8, 2, 4]])


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_labels_for_a_model_of_words_and_transformers_opens_it(family: str, tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", family))
    fields = heads.fields(opened, "row", ("bad", "good", "so so"), {"problem_type": "single_label_classification", "pad_token_id": 0})
    tuned = opened.with_head(fields)
    assert "head.classifier.weight" in tuned.fresh and all(name.startswith("head.") for name in tuned.fresh)
    model, base = tuned.build(seed=3), opened.build()
    for name, weight in base.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(weight, model.get_parameter(name)), name
    assert torch.equal(model.head.classifier.weight, tuned.build(seed=3).head.classifier.weight)
    assert not torch.equal(model.head.classifier.weight, tuned.build(seed=4).head.classifier.weight)
    ModelFolder.save(tmp_path / "tuned", model, tuned.config)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    assert theirs.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    with torch.no_grad():
        assert torch.allclose(model.head(model(Batch(IDS)), None), theirs(IDS).logits, atol=1e-4)


def test_tokens_spans_and_other_numbers_of_labels(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "bert"))
    tags = opened.with_head(heads.fields(opened, "token", ("B-X", "O")))
    assert tags.model_config.head.over == "token" and tags.model_config.head.labels == 2
    assert opened.with_head(heads.fields(opened, "span")).model_config.head.over == "span"
    first = opened.with_head(heads.fields(opened, "row", ("a", "b")))
    ModelFolder.save(tmp_path / "two", first.build(), first.config)
    two = ModelFolder.open(tmp_path / "two")
    three = two.with_head(heads.fields(two, "row", ("a", "b", "c")))
    assert three.fresh == ["head.classifier.weight", "head.classifier.bias"]  # what stands before the labels is kept
    same = two.with_head(heads.fields(two, "row", ("x", "y")))
    assert not same.fresh and torch.equal(same.build().head.classifier.weight, two.build().head.classifier.weight)


def test_a_new_head_of_labels_starts_by_fan_in(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "bert"))
    many = opened.with_head(heads.fields(opened, "row", tuple(f"label {number}" for number in range(200)))).build()
    width = many.config.width
    assert many.config.init_std == 0.02
    assert many.head.classifier.weight.std().item() == pytest.approx(width**-0.5, rel=0.05) and not many.head.classifier.bias.any()


def test_a_head_that_the_family_does_not_have(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "base", "t5"))
    with pytest.raises(ModelError, match="family 't5' cannot learn labels of tokens"):
        heads.fields(opened, "token", ("a", "b"))
