"""The cards of a tuned model and of its adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.report import card
from tests.report import fake_tuned


def test_model_and_adapter_each_have_their_card(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    card.write(folder)
    model, adapter = ((folder / name / "README.md").read_text() for name in ("model", "adapter"))
    assert model == (folder / "MODEL_CARD.md").read_text()
    for text in (model, adapter):
        assert "pipeline_tag: text-classification" in text and 'base_model: "minilm"' in text and "Not chosen" in text
        assert "% accuracy** (95 % interval: " in text and "| **accuracy** |" in text and "quote the test rows" in text
        assert "hash of the examples: `" + "7e" * 32 in text and "`data/test.jsonl`" in text
        assert "3 repeated training rows were left out" in text and "`contradictions` (told): 2 texts have two answers" in text
        assert "It knows 2 labels and no others: `negative`, `positive`." in text and "12 of its training examples were cut" in text
    assert "library\\_name" not in model and "library_name: transformers" in model and "library_name: peft" in adapter
    assert 'quire classify path/to/this/folder "A text to be labelled."' in model and "AutoModelForSequenceClassification" in adapter
    assert "`adapt.rank` | `4`" in model and "`tokenizer.vocab`" not in model
    assert "binding of the base | `" + "b9" * 32 in adapter and "150,000 of 22,860,000 (0.6562 %)" in adapter
    assert 'PeftModel.from_pretrained(base, "path/to/this/folder")' in adapter and "num_labels=2" in adapter
    assert not any(card.edited(path) for path in card.paths(folder)) and len(card.paths(folder)) == 3


def test_a_model_that_learned_pairs_is_shown_with_one(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    data = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(data | {"pairs": True}))
    card.write(folder)
    model, adapter = ((folder / name / "README.md").read_text() for name in ("model", "adapter"))
    assert 'quire classify path/to/this/folder "A text to be labelled." --pair "The text beside it."\n' in model
    assert '({"text": "A text to be labelled.", "text_pair": "The text beside it."}))' in model
    for text in (model, adapter):
        assert 'model.classify([("A text to be labelled.", "The text beside it.")])' in text


@pytest.mark.parametrize(
    ("task", "line", "auto"),
    [
        ("tag", "quire tag path/to/this/folder", "token-classification"),
        ("answer", 'quire answer path/to/this/folder "Where does she live?" --context', "AutoModelForQuestionAnswering"),
        ("chat", "quire chat path/to/this/folder\n", "AutoModelForCausalLM"),
        ("embed", "quire embed path/to/this/folder", "sentence-similarity"),
        ("rerank", "quire classify path/to/this/folder", "text-ranking"),
    ],
)
def test_each_task_is_used_by_its_verb(tmp_path: Path, task: str, line: str, auto: str) -> None:
    text = card.markdown(card.read(fake_tuned.make(tmp_path / "run", task)))
    assert line in text and auto in text and "None yet" not in text


def test_translation_has_its_own_verb(tmp_path: Path) -> None:
    text = card.markdown(card.read(fake_tuned.make(tmp_path / "run", "rewrite", task__verb="translation")))
    assert "quire translate path/to/this/folder" in text and "pipeline_tag: translation" in text and "31.2 BLEU" in text


def test_a_soft_prompt_alone_has_the_card_of_an_adapter(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify", adapt__method="prompt")
    for path in (folder / "model").iterdir():
        path.unlink()
    text = card.write(folder).read_text()
    assert text == (folder / "adapter" / "README.md").read_text()
    assert "library_name: peft" in text and "merged into it" not in text and not (folder / "model" / "README.md").exists()


def test_hostile_rows_stay_text(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "# <script>x", "classify", hostile=True, model__start='x"\n---\nlicense: mit\n`a`|b')
    card.write(folder)
    for name in ("model", "adapter"):
        text = (folder / name / "README.md").read_text()
        assert "<script>" not in text.replace("`# <script>x`", "") and text.count("\n---\n") == 1 and "# \\# \\<script\\>x\n" in text
