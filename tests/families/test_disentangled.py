"""Disentangled attention against the reference's DeBERTa: buckets, long distances, and all the ways in which it is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quire.errors import ContextError
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.config import Distances
from quire.nn.disentangled import DistanceTable
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from tests.families.reference import right_padding, tokens
from tests.families.stacks import case_of, hidden, near, opened, ours

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (32, 128), (8, 64), (9, 40), (4, 5)])
def test_buckets_of_distances_are_the_references(buckets: int, furthest: int) -> None:
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = torch.arange(-1200, 1201)
    wanted = make_log_bucket_position(distance, buckets, furthest).long()
    got = DistanceTable(Distances(buckets, furthest), 4).rows(distance)
    assert torch.equal(got, (wanted + buckets).clamp(0, 2 * buckets - 1))


LONG = [
    {"max_relative_positions": 32},
    {"position_buckets": -1, "max_relative_positions": 20, "pos_att_type": ["c2p"], "share_att_key": False},
    {"conv_kernel_size": 3, "conv_act": "gelu", "norm_rel_ebd": "none"},
]


@pytest.mark.parametrize("change", LONG, ids=["buckets", "clipped", "convolution"])
@pytest.mark.parametrize("length", [1, 2, 7, 150])
def test_distances_beyond_the_table(change: dict[str, Any], length: int, tmp_path: Path) -> None:
    """Texts longer than anything the table knows, with rows of unequal lengths: no position table sets a limit."""
    theirs, model = opened(case_of("deberta-v2", **change), tmp_path)
    ids, keep = tokens(2, length), right_padding([length, length // 2 + 1], length)
    near(ours(model, ids), hidden(theirs, ids), 5e-5)
    near(ours(model, ids, keep)[keep], hidden(theirs, ids, keep)[keep], 5e-5)


def test_a_convolution_does_not_see_padding() -> None:
    model = Transformer(case_of("deberta-v2", **LONG[2]).model).eval()
    initialise(model, torch.Generator().manual_seed(0))
    ids, keep = tokens(1, 9), right_padding([6], 9)
    near(ours(model, ids, keep)[:, :6], ours(model, ids[:, :6]))
    with pytest.raises(ContextError, match="texts cannot share a row"):
        model(Batch(ids, segments=torch.zeros_like(ids)))


def test_segments_traces_checkpoints_and_dropout_of_disentangled_attention() -> None:
    """Packed as alone; written out as fused; recomputed as kept, and in training, where vectors of distances drop out too."""
    model = Transformer(case_of("deberta-v2", hidden_dropout_prob=0.1).model).eval()
    initialise(model, torch.Generator().manual_seed(0))
    ids = tokens(1, 12)
    segments = torch.tensor([[0] * 7 + [1] * 5])
    with torch.no_grad():
        near(model(Batch(ids, segments=segments))[:, 7:], model(Batch(ids[:, 7:])))
        trace: list[Tensor] = []
        near(model(Batch(ids), AttnContext(trace=trace)), model(Batch(ids)))
        near(trace[0].sum(-1), torch.ones(1, 4, 12))
    model.train()
    grads = []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(5)
        model(Batch(ids)).square().sum().backward()
        assert model.encoder is not None and model.encoder.distances is not None
        grads.append(model.encoder.distances.weight.grad)
    assert grads[0] is not None and grads[1] is not None and grads[0].abs().max() > 0
    near(grads[0], grads[1])


def test_disentangled_attention_learns_in_bf16() -> None:
    """The bias goes through the blocked kernel of training, and its gradient comes back."""
    model = Transformer(case_of("deberta-v2").model)
    initialise(model, torch.Generator().manual_seed(0))
    ids, keep = tokens(2, 40), right_padding([40, 22], 40)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            state = model(Batch(ids, keep=keep))
        (state.float()[keep] * torch.linspace(-1, 1, 32)).sum().backward()
        assert model.encoder is not None and model.encoder.distances is not None
        grads.append(model.encoder.distances.weight.grad)
    assert grads[0] is not None and grads[1] is not None
    assert torch.nn.functional.cosine_similarity(grads[0].flatten(), grads[1].flatten(), dim=0) > 0.99
