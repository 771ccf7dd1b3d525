"""Only logits prove a conversion: every family against the reference implementation, both ways, for every config that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quire.families import FAMILIES, ModelFolder
from quire.families.family import entries
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.cache import Cache
from quire.nn.config import Sizes
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from tests.families.reference import (
    CASES,
    FULL,
    VOCAB,
    Case,
    batch_for,
    our_outputs,
    right_padding,
    save_theirs,
    their_class,
    their_model,
    their_outputs,
    tokens,
    written_gradients,
)
from tests.families.table import PAGE, measure

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def close(ours: Tensor, theirs: Tensor, what: str, limit: float = 1e-4) -> None:
    difference = (ours - theirs).abs().max().item()
    assert difference < limit, f"{what}: largest difference {difference}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_theirs_opens_here_with_equal_outputs(case: Case, tmp_path: Path) -> None:
    theirs = their_model(case)
    folder = ModelFolder.open(save_theirs(theirs, tmp_path))
    assert folder.unread == ()
    ours = folder.build()
    assert sum(p.numel() for p in ours.parameters()) == folder.model_config.parameters()
    for padded in (False, True):
        batch = batch_for(case, padded)
        with torch.no_grad():
            wanted = their_outputs(case, theirs, batch)
            got = our_outputs(ours, batch, wanted)
        for name, value in wanted.items():
            a, b = got[name], value
            if batch.keep is not None and value.ndim == 3:
                a, b = a[batch.keep], b[batch.keep]  # what stands on padding means nothing
            assert torch.isfinite(got[name]).all()
            close(a, b, f"{name}, padded {padded}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ours_opens_there_strictly_and_the_round_trip_keeps_every_bit(case: Case, tmp_path: Path) -> None:
    theirs = their_model(case)
    folder = ModelFolder.open(save_theirs(theirs, tmp_path / "theirs"))
    saved = ModelFolder.save(tmp_path / "ours", folder.build(), folder.config)
    again, report = their_class(case).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    first, second = folder.build().state_dict(), saved.build().state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", [case for case in FULL if case.config == case.family.tiny], ids=str)
def test_gradients_are_equal(case: Case, tmp_path: Path) -> None:
    """Every parameter's gradient of a cross-entropy, paired through the family's own table."""
    theirs = their_model(case)
    ours = ModelFolder.open(save_theirs(theirs, tmp_path)).build()
    batch = batch_for(case, padded=True)
    keep = batch.keep
    assert keep is not None
    labels = tokens(3, 9, seed=5).masked_fill(~keep, -100)

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    loss(their_outputs(case, theirs, batch)["logits"]).backward()
    loss(ours.head(ours(batch))).backward()
    named = dict(ours.named_parameters())
    table = {name: p.grad for name, p in theirs.named_parameters(remove_duplicate=False)}
    table |= written_gradients(theirs, tmp_path / "gradients")
    compared = 0
    for entry in entries(case.family.weights(ours.config), named):
        grads = [named[name].grad for name in entry.ours]
        if any(g is None for g in grads):
            assert all(g is None for g in grads)
            assert table[entry.theirs] is None or not table[entry.theirs].any()
            continue
        close(entry.op.save(grads), table[entry.theirs], entry.theirs, 1e-4)
        compared += 1
    assert compared > 10


DECODERS = [case for case in FULL if case.family.kind != "encoder"]


def _pieces(model: Transformer, batch: Batch, cuts: list[int], memory: Tensor | None, keep: Tensor | None) -> Tensor:
    """Hidden states of batch.tokens read through a cache in pieces of the given lengths."""
    cache = Cache(model.config, len(batch), sum(cuts))
    hidden, start = [], 0
    for cut in cuts:
        ctx = AttnContext(keep=None if keep is None else keep[:, : start + cut], cache=cache)
        if batch.positions is not None:
            ctx.positions = batch.positions[:, start : start + cut]
        source_keep = batch.source.keep if batch.source is not None else None
        hidden.append(model.decode(batch.tokens[:, start : start + cut], ctx, memory, source_keep))
        start += cut
        assert cache.length == start
    return torch.cat(hidden, 1)


@pytest.mark.parametrize("case", DECODERS, ids=str)
@pytest.mark.parametrize("cuts", [[1] * 9, [4, 5], [6, 1, 2]], ids=str)
def test_reading_through_the_cache_equals_reading_at_once(case: Case, cuts: list[int]) -> None:
    """Tokens one at a time, several after a prefix, and mixed; with rows padded on the left."""
    model = Transformer(case.family.build(case.config)).eval()
    initialise(model, torch.Generator().manual_seed(1))
    batch = batch_for(case, padded=case.family.kind == "seq2seq")
    batch.keep = right_padding([9, 4, 1], 9).flip(1)  # left padding: rows end together
    with torch.no_grad():
        memory = None
        if batch.source is not None:
            memory = model.encode(batch.source.tokens, AttnContext(keep=batch.source.keep))
        whole = model(batch)
        pieces = _pieces(model, batch, cuts, memory, batch.keep)
        close(pieces[batch.keep], whole[batch.keep], "padded")
        batch.keep = None
        close(_pieces(model, batch, cuts, memory, None), model(batch), "unpadded")


@pytest.mark.parametrize("case", [case for case in DECODERS if case.family.kind == "decoder"], ids=str)
def test_left_padding_with_positions_equals_the_row_alone(case: Case, tmp_path: Path) -> None:
    theirs = their_model(case)
    ours = ModelFolder.open(save_theirs(theirs, tmp_path)).build()
    keep = right_padding([9, 4], 9).flip(1)
    positions = (keep.cumsum(1) - 1).clamp(min=0)
    batch = Batch(tokens(2, 9), keep=keep, positions=positions)
    with torch.no_grad():
        logits = ours.head(ours(batch))
        close(logits[keep], their_outputs(case, theirs, batch)["logits"][keep], "against the reference")
        alone = ours.head(ours(Batch(batch.tokens[1:, 5:])))
        close(logits[1:, 5:], alone, "against the row alone")


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_from_scratch_opens_there(name: str, tied: bool, tmp_path: Path) -> None:
    family = FAMILIES[name]
    config = family.new(Sizes(vocab=VOCAB, width=32, layers=2, heads=4, context=32, tied=tied, bos=1, eos=1, pad=0))
    model = Transformer(family.build(config)).eval()
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters()
    initialise(model, torch.Generator().manual_seed(0))
    ModelFolder.save(tmp_path / "model", model, config)
    case = Case(family, config)
    theirs, report = their_class(case).from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values()), report
    batch = batch_for(case, padded=False)
    with torch.no_grad():
        wanted = their_outputs(case, theirs.eval(), batch)
        for key, value in our_outputs(model, batch, wanted).items():
            close(value, wanted[key], key)


def test_pad_token_in_the_middle_is_read_like_any_other() -> None:
    """Padding is what `keep` says, never what a token's number is."""
    family = FAMILIES["llama"]
    model = Transformer(family.build(family.tiny)).eval()
    initialise(model, torch.Generator().manual_seed(0))
    ids = tokens(1, 8)
    ids[0, 3] = 0
    with torch.no_grad():
        close(model(Batch(ids)), model(Batch(ids, keep=torch.ones(1, 8, dtype=torch.bool))), "with and without keep", 1e-5)


def test_the_page_of_families_names_every_one_of_them() -> None:
    """docs/families.md is made by `python -m tests.families.table`."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {name for line in rows[1:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert named == set(FAMILIES)
    assert all("equal" in line for line in rows[1:])


def test_a_row_of_that_page_is_what_is_measured_here(tmp_path: Path) -> None:
    row = measure(next(case for case in CASES if case.family.kind == "seq2seq"), tmp_path)
    assert row.round_trip and row.difference < 1e-4 and row.cache is not None and row.cache < 1e-4
