"""The loss that makes its own gradients is the plain one: sum, count and gradients, with a fraction of the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import quire.nn.heads as heads_module
from quire.errors import ModelError
from quire.nn.batch import IGNORE
from quire.nn.config import LMHead, MLMHead
from quire.nn.heads import LMHeadModule, MLMHeadModule, token_loss

VOCAB, WIDTH, ROWS = 50, 16, 24


def heads() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    embed = nn.Embedding(VOCAB, WIDTH)
    masked = MLMHeadModule(MLMHead(next_sentence=False), embed, WIDTH)
    nn.init.normal_(masked.bias)
    return {
        "tied": LMHeadModule(LMHead(tied=True), embed),
        "scaled": LMHeadModule(LMHead(tied=True, scale=0.25), embed),
        "untied": LMHeadModule(LMHead(tied=False, bias=True), embed),
        "capped": LMHeadModule(LMHead(tied=True, softcap=0.7), embed),
        "masked": masked,
    }


def data(ignored: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, ROWS // 2, WIDTH, generator=generator).requires_grad_()
    labels = torch.randint(0, VOCAB, (2, ROWS // 2), generator=generator)
    if ignored:
        labels[0, :5] = IGNORE
        labels[1, -2:] = IGNORE
    return hidden, labels


def gradients(head: nn.Module, hidden: Tensor, total: Tensor) -> list[Tensor]:
    weight, _ = head.table()  # type: ignore[operator]
    return list(torch.autograd.grad(total / 7, [*dict.fromkeys([hidden, weight, *head.parameters()])]))


def plainly(head: nn.Module, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    logits = head(hidden).flatten(0, 1).float()
    return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("name", ["tied", "scaled", "untied", "capped", "masked"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("chunk", [0, 1, 5, 16, 1000])
def test_equals_plain_cross_entropy(name: str, ignored: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "CACHED", 3 * VOCAB)  # three rows at a time inside a chunk
    head = heads()[name]
    hidden, labels = data(ignored)
    wanted = plainly(head, hidden, labels)
    total, count = token_loss(head, hidden, labels, chunk)
    assert count == int((labels != IGNORE).sum())
    torch.testing.assert_close(total, wanted)
    for a, b in zip(gradients(head, hidden, total), gradients(head, hidden, wanted), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["tied", "capped", "masked"])
@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_smoothed_labels_equal_plain_cross_entropys(name: str, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "CACHED", 3 * VOCAB)
    head = heads()[name]
    hidden, labels = data(ignored=True)
    wanted = plainly(head, hidden, labels, smoothing)
    total, count = token_loss(head, hidden, labels, 5, smoothing)
    assert count == int((labels != IGNORE).sum())
    torch.testing.assert_close(total, wanted)
    for a, b in zip(gradients(head, hidden, total), gradients(head, hidden, wanted), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, 5])
def test_under_autocast_it_rounds_as_the_plain_form_does(chunk: int) -> None:
    head = heads()["tied"]
    hidden, labels = data(True)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = token_loss(head, hidden, labels, chunk)
        wanted = plainly(head, hidden, labels)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, wanted, atol=1e-4, rtol=1e-4)
    for a, b in zip(gradients(head, hidden, total), gradients(head, hidden, wanted), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)


def test_nothing_to_learn_is_zero() -> None:
    head = heads()["tied"]
    hidden, labels = data(False)
    for chunk in (0, 4):
        total, count = token_loss(head, hidden, torch.full_like(labels, IGNORE), chunk)
        assert (total.item(), count) == (0.0, 0)
        total.backward()


def test_without_gradients_none_are_made() -> None:
    head = heads()["tied"]
    hidden, labels = data(False)
    with torch.no_grad():
        total, count = token_loss(head, hidden, labels, 5)
    assert not total.requires_grad
    torch.testing.assert_close(total, token_loss(head, hidden, labels)[0].detach())
    assert count == ROWS


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor made in the block held."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return out


def test_no_more_than_a_chunk_of_logits_is_ever_made() -> None:
    embed = nn.Embedding(512, 8)
    head = LMHeadModule(LMHead(), embed)
    hidden, labels = torch.randn(256, 8, requires_grad=True), torch.randint(0, 512, (256,))
    with Largest() as chunked:
        token_loss(head, hidden, labels, 16)[0].backward()
    with Largest() as plain:
        plainly(head, hidden[None], labels).backward()
    assert plain.numbers == 256 * 512
    assert chunked.numbers <= 16 * 512


def test_a_head_without_next_sentence_says_so() -> None:
    with pytest.raises(ModelError, match="no next-sentence classifier"):
        heads()["masked"].next_sentence(torch.zeros(1, 2, WIDTH))  # type: ignore[operator]


def test_a_changing_number_of_labels_makes_few_shapes_of_logits() -> None:
    """A kernel library keeps what it made for every shape, so a hundred numbers of labels must not be a hundred shapes."""
    shapes = set()

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
                shapes.add(tuple(out.shape))
            return out

    head, hidden = heads()["tied"], torch.randn(130, WIDTH, requires_grad=True)
    for learned in range(1, 129):
        labels = torch.full((130,), IGNORE)
        labels[:learned] = 7
        with Shapes():
            total, count = token_loss(head, hidden, labels)
        assert count == learned
        wanted = F.cross_entropy(head(hidden[:learned]), labels[:learned], reduction="sum")
        torch.testing.assert_close(total, wanted)
        torch.testing.assert_close(torch.autograd.grad(total, hidden), torch.autograd.grad(wanted, hidden), atol=1e-5, rtol=1e-5)
    assert shapes == {(64, VOCAB), (128, VOCAB), (64, WIDTH), (128, WIDTH), (VOCAB, WIDTH)}
