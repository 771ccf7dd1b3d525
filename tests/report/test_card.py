"""The model card: what is in it, that hostile names stay text, and that an edited card stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.report import card
from tests.report import fake_run


def test_the_card_tells_what_a_user_must_know(folder: Path) -> None:
    path = card.write(folder)
    text = path.read_text()
    assert path == folder / "MODEL_CARD.md" and (folder / "model" / "README.md").read_text() == text
    heads = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["What it is", "What it has read", "How it was trained", "Evaluation", "Limits", "How to open it",
                     "Identity and lineage",                     "Where it was trained", "Licence"]  # fmt: skip
    for said in ("1,053,824", "7f" * 32, "| xz | 2.352 | 1.658 |", "AutoModelForCausalLM", 'quire.load("path/to/this/folder")', "b1" * 32,
                 'model.generate("def parse_")', "1 skipped step, 1 resume", "Not chosen", "pipeline_tag: text-generation"):  # fmt: skip
        assert said in text, said
    assert "`optim.muon_lr`" not in text


def test_an_edited_card_stays(folder: Path) -> None:
    card.write(folder)
    assert not any(card.edited(path) for path in card.paths(folder))
    before = (folder / "MODEL_CARD.md").read_text()
    readme = folder / "model" / "README.md"
    readme.write_text(readme.read_text().replace("# license: choose one", "license: mit #"))
    (folder / "environment.json").unlink()
    card.write(folder)
    assert "license: mit" in readme.read_text()
    assert (folder / "MODEL_CARD.md").read_text() != before  # nobody edited this one
    (folder / "MODEL_CARD.md").write_text("mine")
    card.write(folder)
    assert (folder / "MODEL_CARD.md").read_text() == "mine"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = fake_run.make(
        tmp_path / "# <script>x", steps=40, evaluations=2, samples=2, hostile=True, model__start='x"\n---\nlicense: mit\n`a`|b'
    )
    text = card.markdown(card.read(folder))
    front = text.split("---\n")[1]
    assert 'base_model: "x\\"\\n---\\nlicense: mit\\n`a`|b"' in front
    assert "<script>" not in text.replace("`</script><script>", "")
    assert "# \\# \\<script\\>x\n" in text
    assert '``x" --- license: mit `a`\\|b``' in text.replace("`` x", "``x").replace("b ``", "b``")
    assert text.count("\n---\n") == 1


@pytest.mark.parametrize(
    ("family", "auto", "use"), [("bert", "AutoModelForMaskedLM", "model.fill("), ("t5", "AutoModelForSeq2SeqLM", "model.fill(")]
)
def test_each_family_is_opened_its_own_way(folder: Path, family: str, auto: str, use: str) -> None:
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": family}))
    text = card.markdown(card.read(folder))
    assert f"import {auto}, AutoTokenizer" in text and use in text and "It continues text" not in text


def test_a_run_without_anything_has_a_card_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "failed"}')
    text = card.write(tmp_path).read_text()
    assert "None yet: the run has written no evaluation" in text
    assert "This run is failed" in text
    assert not (tmp_path / "model").exists()
    (tmp_path / "plan.json").write_text("{")
    assert "## Damaged files\n\n- plan.json is not JSON" in card.markdown(card.read(tmp_path))


def test_a_run_judged_by_accuracy(folder: Path) -> None:
    (folder / "evaluation.json").write_text('{"metric": "accuracy", "accuracy": 0.5}')
    assert "| held-out accuracy | 0.5 |" in card.markdown(card.read(folder))
