"""The sampler against transformers' processors, against the formulas, and against bad values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.decode.sampler import Sampler, check, filtered, logprobs
from quire.errors import ModelError, RecipeError
from quire.types import Sampling

VOCAB = 97
FILTERS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 96},
    {"top_p": 0.01},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.7},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "temperature": 0.7, "top_k": 11},
]


def reference(scores: np.ndarray, history: list[int], s: Sampling) -> np.ndarray:
    """transformers' processors in the order in which `generate` builds them."""
    from transformers.generation import logits_process as hf

    steps: list = []
    if s.repetition_penalty != 1.0:
        steps.append(hf.RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
    if s.temperature != 1.0:
        steps.append(hf.TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        steps.append(hf.TopKLogitsWarper(s.top_k))
    if s.top_p < 1.0:
        steps.append(hf.TopPLogitsWarper(s.top_p))
    if s.min_p > 0.0:
        steps.append(hf.MinPLogitsWarper(s.min_p))
    if s.typical_p < 1.0:
        steps.append(hf.TypicalLogitsWarper(s.typical_p))
    return hf.LogitsProcessorList(steps)(torch.tensor([history]), torch.from_numpy(scores)[None].clone())[0].numpy()


def logits(seed: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(VOCAB) * spread).astype(np.float32)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_filters_keep_what_transformers_keeps(options):
    sampling = Sampling(**options)
    history = [3, 3, 50, 7]
    for seed in range(20):
        row = logits(seed)
        ids, scores = Sampler(sampling, VOCAB, prompt=history).candidates(row)
        expected = reference(row, history, sampling)
        assert ids.tolist() == np.flatnonzero(np.isfinite(expected)).tolist()
        np.testing.assert_allclose(scores, expected[ids], rtol=1e-6)


def test_ties_at_the_last_place_of_top_k_all_stay():
    row = np.array([1, 2, 2, 0], dtype=np.float32)
    assert filtered(row, Sampling(top_k=1))[0].tolist() == [1, 2]


def test_presence_and_frequency_follow_the_formula_and_count_generated_tokens_only():
    # OpenAI's API reference: logit -= count * frequency + (count > 0) * presence
    sampling = Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25)
    sampler = Sampler(sampling, 4, prompt=[3, 3, 3])
    row = np.array([1.0, 0.6, 0.3, 0.2], dtype=np.float32)
    # 1.0 | 0.25 after one, so 0.6 wins | then 0.3 (0.25 and -0.15 behind it) | then 0.25 against 0.2
    assert [sampler.pick(row).id for _ in range(4)] == [0, 1, 2, 0]


def test_greedy_takes_the_first_of_equal_best_and_draws_nothing():
    sampler = Sampler(Sampling(temperature=0.0, seed=0), 4)
    before = sampler._random.bit_generator.state
    assert sampler.pick(np.array([0, 5, 5, 1], dtype=np.float32)).id == 1
    assert sampler._random.bit_generator.state == before


def test_a_seed_repeats_the_draws_and_the_global_generators_play_no_part():
    def draws(seed: int) -> list[int]:
        sampler = Sampler(Sampling(seed=seed), VOCAB)
        return [sampler.pick(logits(step)).id for step in range(30)]

    first = draws(1)
    np.random.seed(0)
    torch.manual_seed(0)
    assert draws(1) == first
    assert draws(2) != first


def test_draws_follow_the_softmax():
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    sampler = Sampler(Sampling(seed=0), 4)
    counts = np.bincount([sampler.pick(row).id for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.015)


def test_banned_ids_are_never_picked():
    row = np.array([9.0, 8.0, 1.0], dtype=np.float32)
    assert Sampler(Sampling(temperature=0.0), 3).pick(row, banned={0}).id == 1
    sampler = Sampler(Sampling(seed=3), 3)
    assert {sampler.pick(row, banned={0}).id for _ in range(50)} <= {1, 2}
    assert row[0] == 9.0  # the caller's logits are left alone


def test_log_probabilities_are_the_models_own_whatever_is_filtered():
    row = logits(5)
    pick = Sampler(Sampling(temperature=2.0, top_k=3, seed=1, repetition_penalty=1.5, logprobs=4), VOCAB, prompt=[1]).pick(row)
    expected = torch.log_softmax(torch.from_numpy(row).double(), dim=0)
    assert pick.logprob == pytest.approx(float(expected[pick.id]), abs=1e-6)
    best = torch.topk(expected, 4)
    assert [i for i, _ in pick.top] == best.indices.tolist()
    np.testing.assert_allclose([p for _, p in pick.top], best.values.numpy(), atol=1e-6)
    assert len(logprobs(row, 0, VOCAB)[1]) == VOCAB


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.05, 5.0),
    st.integers(0, 20),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.01, 1.0),
)
def test_whatever_the_settings_the_pick_is_a_survivor(seed, temperature, top_k, top_p, min_p, typical_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p, seed=seed)
    sampler = Sampler(sampling, VOCAB)
    row = logits(seed % 1000, spread=8.0)
    ids, scores = sampler.candidates(row)
    assert len(ids) >= 1 and np.isfinite(scores).all()
    assert sampler.pick(row).id in ids


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; allowed: 0 (greedy) to 100"),
        ({"temperature": float("nan")}, "temperature is nan; allowed"),
        ({"temperature": True}, "temperature is True; allowed"),
        ({"top_p": 0.0}, "top_p is 0.0; allowed: above 0, up to 1"),
        ({"top_p": 1.1}, "top_p is 1.1; allowed"),
        ({"min_p": 2.0}, "min_p is 2.0; allowed: 0 (off) to 1"),
        ({"typical_p": 0}, "typical_p is 0; allowed"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; allowed: 0.01 to 100"),
        ({"presence_penalty": 3.0}, "presence_penalty is 3.0; allowed: -2 to 2"),
        ({"frequency_penalty": -2.5}, "frequency_penalty is -2.5; allowed: -2 to 2"),
        ({"top_k": -1}, "top_k is -1; allowed: a whole number"),
        ({"top_k": 2.5}, "top_k is 2.5; allowed: a whole number"),
        ({"max_tokens": 0}, "max_tokens is 0; allowed: a whole number, 1 or more"),
        ({"min_tokens": 200}, "min_tokens is 200; allowed: at most max_tokens, which is 128"),
        ({"seed": -1}, "seed is -1; allowed"),
        ({"logprobs": 98}, "logprobs is 98; allowed: at most the vocabulary, 97"),
        ({"stop": ("",)}, "none of them empty"),
        ({"stop": "###"}, "a tuple of strings"),
        ({"stop_ids": (97,)}, "stop_ids is 97; allowed: ids from 0 to 96"),
    ],
    ids=str,
)
def test_bad_values_are_refused_with_the_allowed_range(changes, words):
    with pytest.raises(RecipeError) as caught:
        check(replace(Sampling(), **changes), VOCAB)
    assert words in str(caught.value)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(seed=0), Sampling(temperature=0.0, frequency_penalty=1.0)])
def test_logits_that_are_not_numbers_are_an_error_not_a_token(sampling):
    row = logits(0)
    row[5] = np.nan
    with pytest.raises(ModelError, match="not numbers"):
        Sampler(sampling, VOCAB).pick(row)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_looking_at_the_best_alone_keeps_what_sorting_everything_keeps(top_p: float) -> None:
    draw = np.random.default_rng(3)
    for scale in (0.0, 0.5, 3.0):
        scores = (draw.standard_normal(5000) * scale).round(1).astype(np.float32)  # many are equal
        ids, kept = filtered(scores, Sampling(top_p=top_p))
        order = np.argsort(-scores, kind="stable")
        share = np.exp(scores[order].astype(np.float64) - scores.max())
        share /= share.sum()
        wanted = np.sort(order[: max(1, int(np.count_nonzero(np.cumsum(share) - share < top_p)))])
        assert abs(len(ids) - len(wanted)) <= 1 and ids[: len(wanted) - 1].tolist() == wanted[: len(ids) - 1].tolist()[: len(wanted) - 1]
        assert (kept == scores[ids]).all()


def test_a_bias_is_added_to_logits() -> None:
    logits = np.array([0.0, 2.0, 1.0], dtype=np.float32)
    assert Sampler(Sampling(temperature=0, logit_bias=((2, 1.5),)), 3).pick(logits).id == 2
    assert Sampler(Sampling(temperature=0, logit_bias=((1, -100),)), 3).pick(logits).id == 2
    pick = Sampler(Sampling(temperature=0, logit_bias=((2, 1.5),), logprobs=1), 3).pick(logits)
    assert pick.top[0][0] == 1  # what is reported is the model's own view
    for wrong, message in (((9, 1.0), "logit_bias is 9; allowed: ids from 0 to 2"), ((1, 101.0), "numbers? from -100 to 100")):
        with pytest.raises(RecipeError, match=message):
            Sampler(Sampling(logit_bias=(wrong,)), 3)
    with pytest.raises(RecipeError, match="each id once"):
        Sampler(Sampling(logit_bias=((1, 1.0), (1, 2.0))), 3)
