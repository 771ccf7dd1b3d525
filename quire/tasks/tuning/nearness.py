"""Losses of vectors that are to be near or far, all from the similarity of a text to its candidates.

A batch has Q texts and M candidates; `owner` (M,) says which text a candidate was written for, `positive` (M,) which of a text's candidates
belongs to it. Every loss is a sum, so that the trainer can divide it by its count.

    contrast      each text finds its own among all candidates of the batch (InfoNCE, van den Oord et al. 2018)
    cosine        the similarity is the score that was given (Reimers and Gurevych 2019)
    cosent        pairs with a higher score are more similar than pairs with a lower one (Su 2022)
    triplet       what belongs together is nearer than what does not, by a margin (Schroff et al. 2015)
    margin_mse    as much nearer as a teacher says (Hofstätter et al. 2020)
    kl            a text's candidates share it out as a teacher does (Hinton et al. 2015)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrast(near: Tensor, positive: Tensor, same: Tensor, temperature: float, symmetric: bool = False) -> Tensor:
    """near (Q, M): similarities. same (Q, M): candidates that would be right for a text too, or are the text; they are left out.

    symmetric: each positive finds its text among the Q texts as well, and the two losses are averaged.
    """
    logits = near / temperature
    mine = positive.nonzero().squeeze(1)  # (Q,), in the order of the texts
    loss = F.cross_entropy(logits.masked_fill(same, float("-inf")), mine, reduction="sum")
    if not symmetric:
        return loss
    back = logits[:, mine].masked_fill(same[:, mine], float("-inf")).T  # (Q positives, Q texts)
    texts = torch.arange(len(mine), device=mine.device)
    return (loss + F.cross_entropy(back, texts, reduction="sum")) / 2


def confusable(text: Tensor, candidate: Tensor, owner: Tensor, positive: Tensor) -> Tensor:
    """(Q, M): which candidates of a batch are no negatives of a text, although they were not written for it.

    text (Q,), candidate (M,): equal numbers are equal texts. A candidate is left out that equals the text itself, or the positive of it or
    of an equal text.
    """
    texts = torch.arange(len(text), device=text.device)
    own = positive & (owner == texts[:, None])  # (Q, M): the one right place of each text
    right = candidate[positive]  # (Q,)
    equal, says = (text[:, None] == text).float(), (right[:, None] == candidate).float()  # (Q, Q), (Q, M)
    return ((equal @ says > 0) | (candidate == text[:, None])) & ~own


def cosine(near: Tensor, score: Tensor) -> Tensor:
    """near, score (Q,)."""
    return F.mse_loss(near, score, reduction="sum")


def cosent(near: Tensor, score: Tensor, temperature: float) -> Tensor:
    """log(1 + sum of exp((near_j - near_i) / t) over pairs with score_i > score_j): one number a batch. near, score (Q,)."""
    scaled = near / temperature
    gaps = scaled[None, :] - scaled[:, None]  # (i, j)
    gaps = gaps.masked_fill(score[:, None] <= score[None, :], float("-inf"))
    return torch.logsumexp(torch.cat([gaps.flatten(), gaps.new_zeros(1)]), 0)


def triplet(near: Tensor, owner: Tensor, positive: Tensor, margin: float) -> Tensor:
    """near (M,): the similarity of each candidate to the text it was written for; the distance is 1 less it."""
    return F.relu(near[~positive] - near[positive][owner[~positive]] + margin).sum()


def margin_mse(near: Tensor, score: Tensor, owner: Tensor, positive: Tensor) -> Tensor:
    """near, score (M,): the model's and the teacher's; of each negative the distance to its positive counts."""

    def gaps(values: Tensor) -> Tensor:
        return values[positive][owner[~positive]] - values[~positive]

    return F.mse_loss(gaps(near), gaps(score), reduction="sum")


def kl(near: Tensor, score: Tensor, owner: Tensor, temperature: float) -> Tensor:
    """KL(teacher || model) over each text's candidates, times the temperature squared. near, score (M,)."""
    first = F.pad(owner.diff(), (1, 0), value=1).nonzero().squeeze(1)  # candidates of one text stand together
    place = torch.arange(len(owner), device=owner.device) - first[owner]
    width = int(place.max()) + 1

    def spread(values: Tensor) -> Tensor:
        empty = values.new_full((len(first), width), float("-inf"))
        return empty.index_put((owner, place), values / temperature).log_softmax(-1)

    mine, theirs = spread(near)[owner, place], spread(score)[owner, place]
    return (theirs.exp() * (theirs - mine)).sum() * temperature**2
