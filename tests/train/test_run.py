"""The whole way: a recipe becomes a run folder with a model in it; stopped, damaged and changed runs go on, or say why not."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import binding, durable
from quire import recipe as recipes
from quire.errors import CheckpointError, DataError, ExtraError, RecipeError, StorageError
from quire.families import ModelFolder
from quire.train import meters, state
from quire.train.calibrate import fit_in
from quire.train.folder import RunFolder
from quire.train.recipe import TrainPart, TrainRecipe
from quire.train.run import CheckpointWarning, resume, train

Tiny = Callable[..., TrainRecipe]


def weights(folder: Path) -> str:
    return durable.sha256_file(folder / "model" / "model.safetensors")


def last_state(folder: Path) -> list[str]:
    last = folder / "checkpoints" / f"step-{state.steps_saved(folder / 'checkpoints')[-1]:08d}"
    return [durable.sha256_file(last / name) for name in ("weights.safetensors", "optimizer.safetensors")]


def series(folder: Path) -> list[tuple[Any, ...]]:
    rows = durable.read_lines(folder / "metrics.jsonl")
    return [(row["kind"], row["step"], row["loss"], row.get("grad_norm"), row.get("tokens")) for row in rows if row["kind"] != "event"]


class Seen:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.evals: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []

    def on_step(self, row: dict[str, Any]) -> None:
        self.steps.append(row)

    def on_eval(self, row: dict[str, Any]) -> None:
        self.evals.append(row)

    def on_sample(self, row: dict[str, Any]) -> None:
        self.samples.append(row)


def test_a_run_leaves_a_model_that_others_open(tiny: Tiny, tmp_path: Path) -> None:
    seen = Seen()
    result = train(tiny(**{"log.prompts": ("def f", "Once")}), observers=[seen])
    run = result.folder
    assert result.outcome.state == "finished" and result.outcome.step == 8
    assert [row["step"] for row in seen.steps] == list(range(1, 9))
    assert [row["step"] for row in seen.evals] == [4, 8] and seen.evals[0]["bits_per_byte"] > seen.evals[1]["bits_per_byte"]
    assert [(row["step"], row["prompt"], row["parses"] is None) for row in seen.samples][:2] == [(4, "def f", False), (4, "Once", True)]
    assert durable.read_lines(run / "samples.jsonl") == seen.samples
    surprise = durable.read_lines(run / "surprise.jsonl")
    assert [row["step"] for row in surprise] == [4, 8] and "tokens" in surprise[0] and "tokens" not in surprise[1]
    assert len(surprise[0]["tokens"]) == len(surprise[0]["bits"]) == len(surprise[1]["bits"])
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation == result.evaluation
    assert set(evaluation["compressors"]) == {"gzip", "bzip2", "xz"} and evaluation["bits_per_byte"]["per_file"] > 0
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"], status["steps"], status["best"]["step"]) == ("finished", 8, 8, 8)
    assert json.loads((run / "environment.json").read_text())["threads"] == 1
    assert json.loads((run / "tokenizer_report.json").read_text())["total"]["bytes"] == evaluation["held_out_bytes"]
    assert result.model is not None
    binding.check(result.model)
    assert json.loads((result.model / "certificate.json").read_text())["ok"] is True
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(result.model)
    assert sum(p.numel() for p in theirs.parameters()) == result.plan.parameters
    ids = transformers.AutoTokenizer.from_pretrained(result.model)("def f")["input_ids"]
    assert theirs(torch.tensor([ids])).logits.isfinite().all()


def test_a_frozen_recipe_leaves_nothing_open(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.machine.threads", lambda: 1)
    run = train(tiny(**{"train.steps": 0, "train.epochs": 0.02, "train.threads": 0, "train.dtype": "auto"})).folder
    part = RunFolder.open(run).read_recipe().train
    assert part.steps > 0 and not part.epochs and part.threads == 1 and part.dtype in ("fp32", "bf16") and part.compile == "off"
    assert part.micro_batch == 4


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.dtype": "bf16", "train.micro_batch": 3, "optim.name": "muon", "model.dropout": 0.1},
        {"task.name": "masked", "model.family": "bert", "train.batch": 32, "train.steps": 80, "train.eval_every": 80},
        {"task.name": "denoise", "model.family": "t5", "tokenizer.vocab": 420},
    ],
    ids=["plain", "bf16, muon, dropout, cut batches", "masked, over several epochs", "denoise"],
)
def test_stopped_and_resumed_is_straight(tiny: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    straight = train(tiny(**changes, out=str(tmp_path / "straight")))
    steps = straight.outcome.steps
    for stop in sorted({1, steps // 2 - 1, steps - 1}):
        folder = tmp_path / f"stopped{stop}"
        stopped = train(tiny(**changes, out=str(folder)), stop_at=stop)
        assert stopped.outcome.state == "stopped" and stopped.model is None
        assert json.loads((folder / "status.json").read_text())["state"] == "stopped"
        result = resume(folder)
        assert weights(folder) == weights(straight.folder) and last_state(folder) == last_state(straight.folder)
        assert series(folder) == series(straight.folder)
        assert result.evaluation == straight.evaluation
        events = [(row["what"], row["step"]) for row in durable.read_lines(folder / "metrics.jsonl") if row["kind"] == "event"]
        assert ("resumed", stop) in events


def test_the_epoch_test_above_goes_round_the_corpus(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(**{"task.name": "masked", "model.family": "bert", "train.batch": 32, "train.steps": 80, "train.eval_every": 80})
    assert (train(recipe, stop_at=1).plan.epochs or 0) > 1.5


def test_resuming_a_finished_run_changes_nothing(tiny: Tiny) -> None:
    first = train(tiny())
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file() and path.name != "LOCK"}
    again = resume(first.folder)
    assert again == first
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_run_killed_before_its_first_checkpoint_begins_again(tiny: Tiny, tmp_path: Path) -> None:
    straight = train(tiny(out=str(tmp_path / "straight")))
    for lost in (("checkpoints",), ("checkpoints", "data"), ("checkpoints", "data", "tokenizer", "plan.json", "metrics.jsonl")):
        folder = tmp_path / f"lost{len(lost)}"
        train(tiny(out=str(folder)), stop_at=2)
        for name in lost:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        resume(folder)
        assert weights(folder) == weights(straight.folder) and series(folder) == series(straight.folder)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tiny: Tiny, tmp_path: Path) -> None:
    straight = train(tiny(out=str(tmp_path / "straight")))
    folder = tmp_path / "damaged"
    train(tiny(out=str(folder)), stop_at=6)
    path = folder / "checkpoints" / "step-00000006" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.warns(CheckpointWarning, match=r"step-00000006/weights\.safetensors has changed .*Going on from step 4 instead"):
        resume(folder)
    assert weights(folder) == weights(straight.folder) and series(folder) == series(straight.folder)
    events = [row for row in durable.read_lines(folder / "metrics.jsonl") if row.get("what") == "damaged"]
    assert events[0]["step"] == 4 and "step-00000006" in events[0]["detail"]


def test_a_full_disk_stops_the_run_and_loses_nothing(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = train(tiny(out=str(tmp_path / "straight")))
    folder = tmp_path / "full"
    save = state.save

    def full(place: Path, step: int, *rest: Any) -> Path:
        if step == 6:
            with durable.storage(place, "write"):
                raise OSError(28, "No space left on device")
        return save(place, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save", full)
        with pytest.raises(StorageError, match="cannot write .*the disk is full: free some space"):
            train(tiny(out=str(folder)))
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert state.steps_saved(folder / "checkpoints") == [2, 4]
    resume(folder)
    assert weights(folder) == weights(straight.folder) and series(folder) == series(straight.folder)


def test_two_runs_in_one_folder_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny()
    first = train(recipe, stop_at=2)
    with pytest.raises(RecipeError, match=f"holds a run already. Go on with it: quire resume {first.folder}"):
        train(recipe)
    with first.folder.joinpath("LOCK").open("r+") as handle:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"another process \(pid \d+\) is using"):
            resume(first.folder)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("Dear Ann")
    with pytest.raises(RecipeError, match="is not empty and holds no run"):
        train(tiny(out=str(other)))
    with pytest.raises(CheckpointError, match=r"holds no run: there is no recipe\.toml in it"):
        resume(other)
    with pytest.raises(StorageError, match="is a file"):
        train(tiny(out=str(other / "letter.txt")))


def test_another_machine_needs_inexact(tiny: Tiny) -> None:
    folder = train(tiny(), stop_at=4).folder
    checkpoint = folder / "checkpoints" / "step-00000004"
    facts = json.loads((checkpoint / "state.json").read_text())
    facts["environment"]["threads"] = 2  # as if it had been trained elsewhere
    durable.write_json(checkpoint / "state.json", facts)
    durable.seal(checkpoint, {"step": 4})
    with pytest.raises(CheckpointError, match=f"the same bits here: threads was 2 and is 1.*quire resume {folder} --inexact"):
        resume(folder)
    assert resume(folder, inexact=True).outcome.state == "finished"
    events = [row for row in durable.read_lines(folder / "metrics.jsonl") if row.get("what") == "inexact"]
    assert events[0]["detail"] == "threads was 2 and is 1"


def test_data_that_changed_is_refused(tiny: Tiny) -> None:
    folder = train(tiny(), stop_at=4).folder
    path = folder / "data" / "train.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"train\.bin changed since it was written"):
        resume(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"train\.bin is missing: the shard is not whole"):
        resume(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.steps": 0}, "exactly one of train.steps, train.tokens, train.epochs, train.minutes; none is given"),
        ({"train.tokens": 5}, "given are steps = 8, tokens = 5"),
        ({"train.micro_batch": 9}, "train.micro_batch = 9 is more than train.batch = 4"),
        ({"train.batch": 0}, "train.batch = 0 must be 1 or more"),
        ({"train.threads": -1}, "train.threads = -1 must not be negative"),
        ({"optim.lr": 0.0}, "optim.lr = 0.0 must be above 0$"),
        ({"optim.warmup": 2.0}, "optim.warmup = 2.0 must be a share of the steps, from 0 to 1$"),
        ({"task.name": "masked"}, "task.name = 'masked' trains encoders, and family 'llama' makes decoders. Use model.family = bert."),
        ({"train.dtype": "fp16", "train.device": "cpu"}, "train.dtype = 'fp16' is for GPUs"),
        ({"train.device": "cuda:9"}, "device 'cuda:9' is not available"),
        ({"log.hooks": ("wandb",)}, "needs the package 'wandb'.*pip install 'quire"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, ExtraError), match=message):
        train(tiny(**changes))


def test_a_corpus_smaller_than_a_batch_is_refused_with_numbers(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("too little text\n" * 3)
    with pytest.raises(DataError, match=r"smaller than one batch: it has 14 tokens.* a batch needs 4 rows \(128 tokens\)"):
        train(tiny(**{"data.sources": (str(tmp_path / "small.txt"),)}))
    assert not (tmp_path / "run").exists(), "nothing is left of a run that never began"
    (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match="smaller than one batch"):
        train(tiny(**{"data.sources": (str(tmp_path / "small.txt"),)}))
    assert not list((tmp_path / "run").iterdir()), "a folder that was there stays, empty as it was"
    assert train(tiny(), stop_at=1).outcome.step == 1, "a run that never began leaves its folder free"


def test_a_run_does_not_read_its_own_files(tiny: Tiny, corpus: Path) -> None:
    with pytest.raises(RecipeError, match="lies inside the source .*train on its own files"):
        train(tiny(out=str(corpus / "runs" / "first")))
    assert not (corpus / "runs").exists()


def test_minutes_become_steps_and_measuring_leaves_no_trace(tiny: Tiny, tmp_path: Path) -> None:
    measured = train(tiny(**{"train.steps": 0, "train.minutes": 0.02, "train.eval_every": 0}, out=str(tmp_path / "measured")), stop_at=3)
    assert measured.plan.minutes == pytest.approx(0.02) and (measured.plan.tokens_per_s or 0) > 0 and measured.outcome.steps > 3
    frozen = RunFolder.open(measured.folder).read_recipe()
    assert frozen.train.steps == measured.outcome.steps and frozen.train.minutes == 0
    again = train(recipes.replace(frozen, "out", str(tmp_path / "again")), stop_at=3)
    assert last_state(measured.folder) == last_state(again.folder) and series(measured.folder) == series(again.folder)


def test_minutes_that_hold_no_step_are_refused(tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match=r"train\.minutes = 1e-06 is too short: a step takes .* s on this machine"):
        train(tiny(**{"train.steps": 0, "train.minutes": 1e-6}))


def test_looking_takes_its_share_of_the_minutes() -> None:
    assert fit_in(TrainPart(), 100.0, 0.1, 0.5, 0.5) == (900, 90)
    assert fit_in(TrainPart(), 100.0, 0.1, 4.0, 1.0) == (900, 450)  # two looks of five seconds, no more
    assert fit_in(TrainPart(eval_every=10, sample_every=5), 100.0, 0.1, 1.0, 0.5) == (333, 10)
    assert fit_in(TrainPart(), 1.0, 2.0, 0.0, 0.0)[0] == 0


def test_early_stopping_and_the_best_weights_are_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.train.watch import Watch

    figures = iter([3.0, 2.0, 2.5, 2.4, math.nan, 1.0])
    monkeypatch.setattr(Watch, "evaluate", lambda self, model, limit=None: {"metric": "bits_per_byte", "bits_per_byte": next(figures)})
    monkeypatch.setattr(Watch, "surprise", lambda self, model: None)
    result = train(tiny(**{"train.steps": 40, "train.eval_every": 2, "train.patience": 3, "train.keep_last": 1, "train.save_every": 20}))
    assert (result.outcome.state, result.outcome.step) == ("finished", 10)
    assert result.outcome.why == "no better bits_per_byte for 3 evaluations"
    assert result.outcome.best == {"metric": "bits_per_byte", "value": 2.0, "step": 4}
    assert state.steps_saved(result.folder / "checkpoints") == [4, 10]
    best = state.open_at(result.folder / "checkpoints", 4).weights()
    assert result.model is not None
    kept = ModelFolder.open(result.model).build()
    assert all(torch.equal(best[name], value) for name, value in state.weights_of(kept).items())


def test_training_goes_on_from_a_model_folder(tiny: Tiny, tmp_path: Path) -> None:
    first = train(tiny())
    second = train(tiny(**{"model.start": str(first.model), "out": str(tmp_path / "second"), "optim.warmup": 0.0}))
    rows, before = durable.read_lines(second.folder / "metrics.jsonl"), durable.read_lines(first.folder / "metrics.jsonl")
    assert rows[0]["loss"] < before[0]["loss"] - 0.1
    assert json.loads((second.folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    with pytest.raises(RecipeError, match="model.context = 64 is more than the 32 positions"):
        train(tiny(**{"model.start": str(first.model), "out": str(tmp_path / "third"), "model.context": 64}))


def test_tensorboard_gets_the_numbers(tiny: Tiny) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = train(tiny(**{"log.hooks": ("tensorboard",)}))
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(result.folder / "tensorboard"))
        events.Reload()
    losses = [row["loss"] for row in durable.read_lines(result.folder / "metrics.jsonl") if row["kind"] == "step"]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("eval/bits_per_byte")] == [4, 8]


def test_rewind_drops_what_came_after_and_what_a_kill_left_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        durable.append_line(path, {"kind": "step", "step": step})
    with path.open("a") as file:
        file.write('{"kind": "st')
    meters.rewind(tmp_path, 2)
    assert [row["step"] for row in durable.read_lines(path)] == [1, 2] and path.read_text().endswith("}\n")


def test_numbers_that_json_has_no_word_for_are_null() -> None:
    assert meters.finite({"a": [math.inf, 1.5], "b": math.nan, "c": "x"}) == {"a": [None, 1.5], "b": None, "c": "x"}
    assert meters.flat({"train": {"steps": 5}, "log": {"prompts": ("a",)}}) == {"train.steps": 5, "log.prompts": ["a"]}


def test_a_closed_folder_is_a_storage_error(tiny: Tiny, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="a file stands where a folder is needed"):
            train(tiny(out=str(tmp_path / "file" / "run")))
        return
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission denied: choose a folder that you may write to"):
        train(tiny(out=str(tmp_path / "closed" / "run")))
