"""Every way to adapt a model that is there: it learns, stops and goes on with the same bits, and leaves what its user can open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import quire
from quire import recipe as recipes
from quire.adapt import is_prefix, is_prompt
from quire.binding import bound
from quire.durable import sha256_file
from quire.errors import CheckpointError, ModelError, RecipeError, TrainingError
from quire.families import ModelFolder
from quire.train import state
from quire.train.recipe import TrainRecipe
from quire.train.run import RunFolder, resume, train
from tests.small import write_model

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"adapt.frozen": ("embed", "decoder.layers.0")},
    "lora": {"adapt.method": "lora", "adapt.rank": 2, "adapt.dropout": 0.1},
    "dora": {"adapt.method": "lora", "adapt.rank": 2, "adapt.dora": True, "adapt.targets": ("attn.q", "attn.v")},
    "qlora": {"adapt.method": "qlora", "adapt.rank": 2},
    "prompt": {"adapt.method": "prompt", "adapt.tokens": 4, "adapt.text": "def parse"},
    "prefix": {"adapt.method": "prefix", "adapt.tokens": 4, "adapt.hidden": 8},
    "p-tuning": {"adapt.method": "p-tuning", "adapt.tokens": 4, "adapt.hidden": 8},
}
PROMPTS = ("prompt", "prefix", "p-tuning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture
def tuned(base: Path, tiny: Callable[..., TrainRecipe]) -> Callable[..., TrainRecipe]:
    """A recipe of 6 steps that goes on with the small decoder in one of the ways."""

    def make(method: str, **changes: Any) -> TrainRecipe:
        more = {"model.start": str(base), "train.steps": 6, "train.save_every": 3, "train.eval_every": 3, "optim.lr": 0.01}
        return tiny(**{**more, **METHODS[method], **changes})

    return make


def left(run: Path) -> dict[str, str]:
    """The hashes of everything that a run leaves for others."""
    files = [*run.glob("model/*.safetensors"), *run.glob("adapter/*.safetensors"), *run.glob("checkpoints/step-00000006/*.safetensors")]
    return {str(file.relative_to(run)): sha256_file(file) for file in files}


@pytest.mark.parametrize("method", list(METHODS))
def test_it_learns_and_goes_on_with_the_same_bits(method: str, base: Path, tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    straight = train(tuned(method, out=str(tmp_path / "straight")))
    stopped = train(tuned(method, out=str(tmp_path / "stopped")), stop_at=4)
    assert stopped.outcome.state == "stopped"
    assert resume(tmp_path / "stopped").outcome.state == "finished"
    files = left(tmp_path / "straight")
    assert left(tmp_path / "stopped") == files
    assert sum(name.startswith("checkpoints") for name in files) == 2
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row["loss"] for row in rows if row["kind"] == "eval"]
    assert evaluated[-1] < evaluated[0]
    if method in PROMPTS:
        assert (
            straight.model is None
            and not (tmp_path / "straight" / "model").exists()
            and (is_prompt if method != "prefix" else is_prefix)(tmp_path / "straight" / "adapter")
        )
        assert resume(tmp_path / "straight").model is None
        opened = quire.load(base, adapter=tmp_path / "straight" / "adapter")
    else:
        assert straight.model is not None
        opened = quire.load(straight.model)
        assert json.loads((straight.model / "certificate.json").read_text())["ok"]
    assert opened.generate("def parse", max_tokens=3).ids


@pytest.mark.parametrize("method", ["frozen", "lora", "qlora", "prompt"])
def test_a_checkpoint_holds_what_is_trained(method: str, base: Path, tuned: Callable[..., TrainRecipe]) -> None:
    recipe = tuned(method)
    train(recipe, stop_at=2)
    found, _ = state.newest(RunFolder(recipe.out).checkpoints)
    assert found is not None and found.facts["base"] == bound(base).id
    names = set(found.weights())
    if method == "frozen":
        assert names and not any(name.startswith(("embed", "decoder.layers.0.")) for name in names)
    else:
        assert names and all(".adapters.default." in name for name in names)


def test_a_frozen_base_stays_as_it_is(base: Path, tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    done = train(tuned("frozen"))
    before, after = (ModelFolder.open(folder).build().state_dict() for folder in (base, done.model))
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved and not any(name.startswith(("embed", "decoder.layers.0.")) for name in moved)


def test_the_contract_of_the_base_stays(base: Path, tuned: Callable[..., TrainRecipe]) -> None:
    done = train(tuned("full"))
    assert done.model is not None and bound(done.model).contract_id == bound(base).contract_id


def test_another_base_is_refused(tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base", "llama", bound=False)
    recipe = recipes.replace(tuned("lora"), "model.start", str(folder))
    train(recipe, stop_at=2)
    opened = ModelFolder.open(folder)
    model = opened.build()
    with torch.no_grad():
        model.embed.weight.add_(1.0)
    ModelFolder.save(folder, model, opened.config)
    with pytest.raises(CheckpointError, match="restore the base"):
        resume(recipe.out)


def test_refused_before_training(tuned: Callable[..., TrainRecipe]) -> None:
    for method, changes, kind, message in (
        ("frozen", {"adapt.frozen": ("embd",)}, RecipeError, "'embed'"),
        ("frozen", {"adapt.frozen": ("*",)}, RecipeError, "nothing is left to train"),
        ("lora", {"adapt.targets": ("q_prj",)}, ModelError, "q_proj"),
        ("lora", {"adapt.frozen": ("embed",)}, RecipeError, "frozen already"),
        ("prompt", {"model.context": 62}, RecipeError, "60 positions"),
        ("prompt", {"data.boundaries": "mask"}, RecipeError, "data.boundaries"),
    ):
        recipe = tuned(method, **{"train.steps": 2})
        for key, value in changes.items():
            recipe = recipes.replace(recipe, key, value)
        with pytest.raises(kind, match=message):
            train(recipe)
        assert not (Path(recipe.out) / "checkpoints").exists()


@pytest.mark.timeout(180)
def test_kills_and_the_same_bits(tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    recipes.save(tuned("lora", **{"train.steps": 12}), tmp_path / "recipe.toml")
    program = Path(__file__).with_name("killed.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parent.parent.parent), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(program), str(tmp_path / "recipe.toml"), str(tmp_path), "5", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in found and found["kills"] == 5 and found["wrong"] == [], (found, done.stderr)


def test_a_step_that_does_not_fit(tuned: Callable[..., TrainRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what would, and nothing is lost: the run goes on to the bits of one that had the memory."""
    from quire.tasks.causal import Causal

    train(tuned("lora", out=str(tmp_path / "straight")))
    calls, terms = [0], Causal.terms

    def short(self: Causal, *arguments: Any) -> Any:
        calls[0] += torch.is_grad_enabled()  # not where the first steps are looked at
        if calls[0] == 5:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return terms(self, *arguments)

    monkeypatch.setattr(Causal, "terms", short)
    run = tmp_path / "short"
    with pytest.raises(TrainingError, match=r"step 5, with 4 rows .* train.micro_batch = 2 .*train.checkpointing.*quire resume .*qlora"):
        train(tuned("lora", out=str(run)))
    found, _ = state.newest(run / "checkpoints")
    assert found is not None and found.step == 4
    resume(run)
    assert left(run) == left(tmp_path / "straight")
