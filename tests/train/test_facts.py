"""The first two steps of a run: what is told of a loss, a gradient or a weight that is not what it should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.faults import ours
from quire.errors import TrainingError
from quire.nn.batch import Batch
from quire.nn.config import LMHead
from quire.nn.heads import LMHeadModule
from quire.tasks.tuning.example import Example
from quire.train import facts, state
from quire.train.folder import RunFolder
from quire.train.run import train


def fails(fault: str, meddle: Callable[[Any], object], **over: object) -> str:
    with pytest.raises(ours.Detected) as caught, ours.trainer(fault, meddle, **over) as made:
        made.fit()
    return str(caught.value)


def scaled(made: Any, wrong: Callable[[Batch, torch.Tensor], torch.Tensor]) -> None:
    """Makes the task's loss depend on the layout of the batch."""
    terms = made.task.terms

    def changed(model: Any, batch: Batch, chunk: int = 0) -> Any:
        return {name: (wrong(batch, total), weight) for name, (total, weight) in terms(model, batch, chunk).items()}

    made.task.terms = changed


def test_a_loss_that_is_a_mean_of_each_part_is_refused() -> None:
    said = fails("padding-trained", lambda made: scaled(made, lambda batch, total: total / len(batch)))
    assert "for the rows of the first batch one by one: it depends on accumulation" in said and "The fault is in task 'chat'" in said


def test_a_loss_that_counts_padding_is_refused() -> None:
    said = fails("padding-trained", lambda made: scaled(made, lambda batch, total: total * batch.tokens.shape[1]), train__batch=1)
    assert "with 8 columns of padding: it depends on padding" in said or "one by one: it depends on accumulation" in said


def test_labels_beside_padding_are_refused() -> None:
    def trained(made: Any) -> None:
        batch = made.task.batch

        def labelled(examples: Any) -> Batch:
            found = batch(examples)
            found.labels["lm"][found.tokens == 0] = 5
            return found

        made.task.batch = labelled

    assert "padded places of the first batch have a label" in fails("padding-trained", trained)


def test_packed_rows_that_read_one_another_are_refused() -> None:
    def joined(made: Any) -> None:
        scaled(made, lambda batch, total: total if batch.segments is None else total * 1.5)

    assert "it depends on packing" in fails("packed-rows-mix", joined, data__pack=True)


def test_packed_and_grouped_runs_are_let_through() -> None:
    for over in ({"data__pack": True}, {"train__micro_batch": 1}, {"adapt__method": "lora"}, {"train__checkpointing": True}):
        with ours.tuned("user-turns-trained", **over) as run:
            assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_rows_that_fill_the_model_have_no_room_for_padding() -> None:
    for over in ({}, {"adapt__method": "prompt", "adapt__tokens": 5}):
        with ours.start("user-turns-trained", max_position_embeddings=40) as folder:  # the rows have 70 tokens and more
            with ours.tuned("user-turns-trained", folder, data__most_cut=1.0, data__long="head-tail", **over) as run:
                assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_a_frozen_weight_that_moves_is_named() -> None:
    def moved(made: Any) -> None:
        step = made.optimizer.step

        def and_more() -> None:
            step()
            made.model.embed.weight.data.add_(1.0)

        made.optimizer.step = and_more

    said = fails("frozen-weights-move", moved, adapt__frozen=("embed",))
    assert "step 1: embed.weight is frozen and has moved" in said


def test_an_optimizer_that_does_nothing_is_found_at_step_1() -> None:
    def idle(made: Any) -> None:
        made.optimizer.step = lambda: None

    assert "has a gradient and did not move" in (said := fails("frozen-weights-move", idle)) and said.startswith("step 1: ")


def test_an_adapter_that_stays_zero_is_found_at_step_2() -> None:
    said = fails("adapter-without-gradient", zeroed_after_step_2, train__checkpointing=False)
    assert "is still zero after two steps, so this adapter does nothing" in said


def test_the_facts_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    with ours.start("user-turns-trained") as folder:
        for _ in range(2):
            with ours.seeded("user-turns-trained", folder, train__steps=3) as recipe:
                run = train(recipe).folder
                found.append((run / "model" / "model.safetensors").read_bytes())
            monkeypatch.setattr("quire.train.trainer.Trainer._first_steps", lambda self: None)
    assert found[0] == found[1]


def test_a_run_that_fails_at_its_first_step_leaves_no_checkpoint(tmp_path: Path) -> None:
    with ours.start("padding-trained") as folder, ours.seeded("padding-trained", folder, out=str(tmp_path / "run")) as recipe:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match="depends on"):
            patch.setattr(facts.FirstSteps, "_same", lambda *given: (_ for _ in ()).throw(TrainingError("it depends on accumulation")))
            train(recipe)
        assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed" if (tmp_path / "run").exists() else True
        assert not list((tmp_path / "run" / "checkpoints").glob("*")) if (tmp_path / "run" / "checkpoints").exists() else True


def test_a_weight_with_a_small_share_of_the_rate_may_stay_in_its_rounding() -> None:
    with ours.trainer("frozen-weights-move", optim__layer_decay=1e-4, optim__lr=1e-4) as made:
        made.first = made._first_steps()
        made.learn(made.loader.next())
        assert made.first is not None and made.step == 1


def test_the_teacher_of_a_run_that_never_began_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "teacher.json").write_text("{}")
    RunFolder(tmp_path).forget_unbegun()
    assert not (tmp_path / "teacher.json").exists()


def zeroed_after_step_2(made: Any) -> None:
    step = made.optimizer.step

    def and_back() -> None:
        step()
        if made.step == 1:
            for module in made.model.modules():
                if isinstance(module, facts.LowRank):
                    module.b.data.zero_()

    made.optimizer.step = and_back


def test_what_is_still_to_be_looked_at_is_looked_at_after_a_resume() -> None:
    with ours.parts("adapter-without-gradient", train__steps=3, train__checkpointing=False) as (settled, found):
        place = RunFolder(Path(settled.out))
        with pytest.raises(TrainingError, match="step 2: .* is still zero after two steps"):
            for sitting in (1, 2):
                given = found.model, found.objective, found.loader, ours.compute(settled.train), ours.Meters(place.path)
                made = ours.Trainer(place, settled, *given, None, 0, found.base)
                if sitting == 2:
                    made.restore(state.open_at(place.checkpoints, 1))
                zeroed_after_step_2(made)
                assert made.fit(stop_at=sitting).step == sitting


def test_a_run_whose_first_steps_are_seen_is_not_looked_at_again() -> None:
    with ours.trainer("adapter-without-gradient", train__steps=3, train__checkpointing=False) as made:
        made.fit(stop_at=2)
        assert made.looked_at == facts.LOOKED_AT and state.open_at(made.run.checkpoints, 2).facts["looked_at"] == 2
        assert made._first_steps() is None


def test_a_first_step_that_was_skipped_is_looked_at_when_it_is_applied() -> None:
    def idle(made: Any) -> None:
        made.optimizer.step = lambda: None
        terms, calls = made.task.terms, []

        def broken_once(model: Any, batch: Batch, chunk: int = 0) -> Any:
            calls.append(model.training)
            bad = float("nan") if sum(calls) == 1 else 1.0
            return {name: (total * bad, weight) for name, (total, weight) in terms(model, batch, chunk).items()}

        made.task.terms = broken_once

    said = fails("frozen-weights-move", idle, train__steps=3, train__micro_batch=4)
    assert said.startswith("step 2: ") and "has a gradient and did not move" in said


def test_a_scaled_loss_shows_the_same_as_it_is() -> None:
    """fp16 multiplies the loss, so gradients in memory are larger than their norm is said to be."""
    found = []
    for scale in (1.0, 65536.0):
        with ours.trainer("frozen-weights-move", optim__eps=1e-4) as made:
            made.scale.value = scale
            made.first = made._first_steps()
            made.learn(made.loader.next())
            assert made.first is not None
            found.append(made.first.strongest)
    one, other = found
    assert one.keys() == other.keys() and all(abs(one[name][2] - other[name][2]) < 1e-3 for name in one)


MARKS = ("<|im_start|>", "<|im_end|>")


def marked(rows: torch.Tensor) -> Any:
    """What is found for a decoder whose first tokens, two reserved marks among them, have these rows, in a chat that uses both."""
    made: Any = torch.nn.Module()
    table = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    table[: len(rows)] = rows
    made.embed = torch.nn.Embedding.from_pretrained(table)  # frozen
    made.head = LMHeadModule(LMHead(), made.embed)
    tokenizer: Any = SimpleNamespace(special_tokens={"</s>": 0, MARKS[0]: 1, MARKS[1]: 2}, special_ids={"eos": 0})
    row = Example(np.array([1, 30, 40, 2, 0]), {}, where="talk.jsonl:1")
    return facts.new_tokens_frozen(made, tokenizer, [row], given=False)


def test_marks_that_no_text_had_are_known_by_their_twins() -> None:
    """Pre-training pushes every token that it never meets the same way: their rows point where one another point."""
    draw = torch.Generator().manual_seed(1)
    pushed = torch.randn(32, generator=draw) * 3 + 0.1 * torch.randn(8, 32, generator=draw)
    found = marked(pushed)
    assert found is not None and found.refused and found.rows == ("talk.jsonl:1",)
    assert "'<|im_start|>', '<|im_end|>', which this model never learned" in found.says and '"embed"' in found.fix
    met = pushed.clone()
    met[2] += torch.randn(32, generator=draw)  # one of both was written often enough
    assert marked(met) is None and marked(torch.randn(8, 32, generator=draw)) is None
