"""The faults of benchmarks/faults through Quire: refused, impossible or detected, as their file says; sound sets are let through."""

from __future__ import annotations

import pytest
import transformers

from benchmarks.faults import MEANT
from benchmarks.faults.cases import Fault, faults
from benchmarks.faults.good import good
from benchmarks.faults.ours import OURS, falsely_refused, start, tuned

transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.id)
def test_a_fault_does_not_pass_in_silence(fault: Fault) -> None:
    verdict = OURS[fault.id].verdict()
    assert verdict.outcome == MEANT[fault.kind], verdict.seen


def test_sound_sets_are_not_refused() -> None:
    sets = good()
    assert len(sets) == 50
    assert [(name, why) for name, why in falsely_refused(sets) if why] == []


@pytest.mark.parametrize("fault", ["tags-misaligned", "answer-offset", "test-rows-leak", "user-turns-trained"])
def test_the_rows_of_a_fault_train_without_it(fault: str) -> None:
    """The seeds are sound but for their one fault: the first steps of such a run are let through."""
    from benchmarks.faults import seeds
    from benchmarks.faults.ours import HEADS

    sound = {"tags-misaligned": seeds.tagged(), "answer-offset": seeds.questions(), "test-rows-leak": seeds.labelled()}
    kept = seeds.SEEDS[fault]
    seeds.SEEDS[fault] = seeds.Seed(kept.task, sound.get(fault, kept.rows))
    try:
        with start(fault, *HEADS.get(kept.task, ())) as folder, tuned(fault, folder) as run:
            assert (run / "model" / "config.json").is_file()
    finally:
        seeds.SEEDS[fault] = kept
