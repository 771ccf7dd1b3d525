"""Every config of every family, all linears adapted with DoRA, or with virtual tokens before its texts: PEFT over the reference answers the
same. Slow; one each runs always."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quire.adapt import LoRA, attach, open_adapter, save_adapter
from quire.errors import ModelError
from tests.adapt.oracle import disturb, saved_base, with_peft, without_task
from tests.adapt.virtual import WAYS, close
from tests.families.reference import CASES, Case, batch_for, our_outputs, their_outputs

FIRST = {case.family.names[0]: case for case in reversed(CASES)}
MARKED = [pytest.param(case, marks=() if case is FIRST[case.family.names[0]] else pytest.mark.slow, id=str(case)[:80]) for case in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_peft_answers_the_same(case: Case, tmp_path: Path) -> None:
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach(model, LoRA(4, dora=True), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened)
    theirs, again, batch = without_task(with_peft(tmp_path / "base", tmp_path / "adapter", case)), opened.build(), batch_for(case, False)
    open_adapter(tmp_path / "adapter", again, opened)
    with torch.no_grad():
        wanted = their_outputs(case, theirs, batch)
        found, reopened = our_outputs(model, batch, wanted), our_outputs(again, batch, wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5 * max(1.0, float(value.abs().max())), rtol=1e-5)
        assert torch.equal(reopened[name], found[name])


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("case", MARKED)
def test_peft_reads_the_same_virtual_tokens(case: Case, way: str, tmp_path: Path) -> None:
    _, opened = saved_base(case, tmp_path / "base")
    model, (attach_one, save_one, _) = opened.build(), WAYS[way]
    try:
        attach_one(model, 5, opened, hidden=8)
    except ModelError as error:  # which says what to take instead
        assert "LoRA" in str(error)
        return
    disturb(model)
    save_one(tmp_path / "adapter", model, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "adapter", case), model)
