"""What a supervised run leaves out, carries along and lets go of."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from sentence_transformers import SentenceTransformer

import quire
from quire.cli.main import main
from quire.errors import RecipeError
from quire.families import ModelFolder
from quire.tasks.tuning.schemas import TASKS, Labelled, Tagged
from quire.train import tuning
from quire.train.folder import RunFolder
from quire.train.parallel import compute
from quire.train.recipe import TrainRecipe
from quire.train.run import train
from tests.small import write_model
from tests.tasks.readers import write
from tests.tasks.tuning.conftest import similar, text
from tests.tasks.tuning.conftest import tuned as tuned

Recipe = Callable[..., TrainRecipe]
ROWS = [Labelled(f"{text(n)} {n}", (("good", "bad")[n % 2],), where=f"rows.jsonl:{n + 1}") for n in range(24)]


@pytest.mark.parametrize(
    ("head", "kind", "lost"),
    [
        ("MaskedLM", "bert", "cls.predictions.bias"),
        ("PreTraining", "bert", "cls.seq_relationship.bias"),
        ("MaskedLM", "roberta", "lm_head.bias"),
        ("CausalLM", "llama", "lm_head.weight"),
    ],
)
def test_vectors_are_saved_without_a_head_that_makes_words(tuned: Recipe, tmp_path: Path, head: str, kind: str, lost: str) -> None:
    start, said = write(tmp_path / "start", head, kind), []
    path = train(tuned("embed", start, similar(24), **{"train.steps": 2}), say=said.append).model
    assert path is not None
    names = ModelFolder.open(path).slots.keys()
    assert not any(name.startswith(("cls.", "lm_head.")) for name in names), names
    _, info = transformers.AutoModel.from_pretrained(str(path), output_loading_info=True)
    assert not info["unexpected_keys"]
    assert SentenceTransformer(str(path), device="cpu").encode(["x"]).shape == (1, 32)
    left = json.loads((tmp_path / "run" / "adapt.json").read_text())["left_out"]
    assert lost in left and any(line.startswith("left out: the head that the model had") for line in said), said


def test_a_head_that_the_class_has_not_is_left_out_too(tuned: Recipe, tmp_path: Path) -> None:
    """A folder whose config names the base class while its file still holds the words' head."""
    start = write(tmp_path / "start", "MaskedLM")
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    path = train(tuned("embed", start, similar(24), **{"train.steps": 2})).model
    assert path is not None and not any(name.startswith("cls.") for name in ModelFolder.open(path).slots)


def test_an_adapter_is_opened_alone(tuned: Recipe, tmp_path: Path) -> None:
    """PEFT's scripts take the tokenizer from the adapter's folder; what is exported has it too."""
    base = write_model(tmp_path / "base", "bert")
    train(tuned("classify", base, ROWS, **{"adapt.method": "lora"}))
    adapter = tmp_path / "run" / "adapter"
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--adapter"]) == 0
    for folder in (adapter, tmp_path / "out"):
        words = transformers.AutoTokenizer.from_pretrained(str(folder))
        asked = [text(3), (text(4), text(5))]
        ours = quire.load(base).contract
        assert words(asked[0])["input_ids"] == ours.whole(asked[0])
        assert words(*asked[1])["token_type_ids"] == ours.pair(*asked[1])[1]
        assert peft.PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == str(base)
        assert quire.load(base, adapter=folder).classify([text(3)])


def test_texts_of_training_rows_are_let_go(tuned: Recipe, tmp_path: Path) -> None:
    recipe = tuned("classify", write_model(tmp_path / "base", "bert"), ROWS)
    run = RunFolder.fresh(recipe.out)
    parts = tuning.prepare(run, recipe, compute(recipe.train), lambda line: None)
    gc.collect()
    held = {row.where for row in parts.held_out}
    [source] = recipe.data.sources
    alive = {row.where for row in gc.get_objects() if type(row) is Labelled and row.where.startswith(source)}
    told: Any = json.loads((Path(recipe.out) / "data.json").read_text())
    assert alive == held and told["train"] == len(ROWS) - len(held) > 0


@pytest.mark.parametrize("task", [task for task, learns in TASKS.items() if "decoder" not in learns.kinds])
def test_train_and_tune_know_the_same_models(tuned: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    rows = [Tagged(("a", "b"), ("O", "B-X"), where=f"rows:{n}") for n in range(9)]
    recipe = tuned(task, write_model(tmp_path / "decoder"), rows)
    kinds = " or ".join(TASKS[task].kinds)
    with pytest.raises(RecipeError, match=f"task.name = '{task}' is for models of kind {kinds}; .* of kind decoder"):
        tuning.check_kind(recipe, ModelFolder.open(recipe.model.start))
    assert main(["tune", recipe.model.start, *recipe.data.sources, "--task", task]) == 2
    assert f"task '{task}' is learned by" in capsys.readouterr().err
