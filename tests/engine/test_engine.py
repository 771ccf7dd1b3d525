"""The engine says what the plain loop says: for every family, in every order of coming and going, whatever the neighbours do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quire.binding import Contract
from quire.decode.loop import complete, decode
from quire.engine.engine import Engine
from quire.engine.request import Request
from quire.engine.speculate import Draft
from quire.errors import ContextError, ModelError, RecipeError
from quire.families import FAMILIES
from quire.text.tokenizer import Tokenizer
from quire.types import Completion, Sampling
from tests.engine.conftest import Small, random_model

GREEDY = Sampling(max_tokens=10, temperature=0)
Make = Callable[..., Engine]


def alone(small: Small, prompt: list[int], sampling: Sampling) -> Completion:
    contract = small.contract
    chunks = decode(small.model, prompt, sampling, contract.tokenizer, stop_ids=contract.stop_ids or (), way="plain")
    return complete(chunks, len(prompt))


def prompts(count: int, vocab: int, seed: int = 0, longest: int = 70) -> list[list[int]]:
    draw = random.Random(seed)
    edges = [1, 2, 15, 16, 17, 31, 32, 33, 48, 64]
    sizes = [draw.choice(edges) if draw.random() < 0.6 else draw.randrange(1, longest) for _ in range(count)]
    return [[draw.randrange(vocab) for _ in range(size)] for size in sizes]


def owners(engine: Engine) -> list[list[int]]:
    return [request.blocks for request in engine.scheduler.requests]


@pytest.mark.parametrize("name", sorted({f.names[0] for f in FAMILIES.values() if f.kind == "decoder"}))
@pytest.mark.parametrize("exact", [False, True])
def test_every_family_says_what_it_says_alone(name: str, exact: bool, tokenizer: Tokenizer) -> None:
    small = Small(random_model(name, tokenizer.vocab_size), Contract(tokenizer))
    given = prompts(6, tokenizer.vocab_size, longest=40)
    given = [prompt[:40] for prompt in given]  # the tiny models have 64 positions
    engine = Engine(small, memory=12 * 16 * small.model.config.cache_bytes_per_token(4), budget=24, most=4, exact=exact)
    for prompt, got in zip(given, engine.generate(given, GREEDY), strict=True):
        wanted = alone(small, prompt, GREEDY)
        assert (got.ids, got.text, got.finish_reason) == (wanted.ids, wanted.text, wanted.finish_reason)
    engine.blocks.check([])


@pytest.mark.parametrize("guess", ["", "lookup", "draft"])
@pytest.mark.parametrize("seed", range(8))
def test_random_traces(seed: int, guess: str, small: Small, engine: Make) -> None:
    """Requests with common beginnings come, are aborted, preempted, guessed and stopped by strings; accounts are right after every step."""
    draw = random.Random(seed)
    ahead = {"": None, "lookup": "lookup", "draft": small.model if seed % 2 else random_model("gpt2", small.model.config.vocab)}[guess]
    it = engine(blocks=draw.choice([9, 14, 40]), budget=draw.choice([5, 16, 50]), most=draw.choice([1, 3, 8]), guess=ahead)
    vocab = small.model.config.vocab
    stems = prompts(3, vocab, seed)
    live: list[tuple[Request, list[int], Sampling]] = []
    done = 0
    for _ in range(400):
        if draw.random() < 0.25 and done + len(live) < 25:
            prompt = [*draw.choice(stems)[: draw.choice([16, 32, 48])], *(draw.randrange(vocab) for _ in range(draw.randrange(1, 6)))]
            stop = (draw.choice("aeinrt "),) if draw.random() < 0.3 else ()
            sampling = Sampling(max_tokens=draw.choice([1, 7, 20]), temperature=0, stop=stop)
            live.append((it.submit(prompt, sampling, tenant=draw.choice(["", "other"])), prompt, sampling))
        if live and draw.random() < 0.03:
            it.abort(live.pop(draw.randrange(len(live)))[0])
        it.step()
        it.blocks.check(owners(it))
        if isinstance(it.guesser, Draft):
            it.guesser.blocks.check([shadow.blocks for shadow in it.guesser._shadows.values()])
        for entry in [entry for entry in live if entry[0].done]:
            request, prompt, sampling = entry
            live.remove(entry)
            wanted = alone(small, prompt, sampling)
            got = it.result(request)
            assert (got.ids, got.text, got.finish_reason) == (wanted.ids, wanted.text, wanted.finish_reason)
            done += 1
    while it.busy:
        it.step()
    it.blocks.check([])
    if isinstance(it.guesser, Draft):
        it.guesser.blocks.check([])
    assert done > 8


def test_memory_for_less_than_all_puts_the_last_aside_and_computes_it_again(small: Small, engine: Make) -> None:
    it = engine(blocks=8, budget=64, most=8)
    given = prompts(5, small.model.config.vocab, 3, longest=40)
    got = it.generate(given, Sampling(max_tokens=40, temperature=0))
    assert it.scheduler.preemptions > 0
    assert [c.ids for c in got] == [alone(small, p, Sampling(max_tokens=40, temperature=0)).ids for p in given]


def test_a_common_beginning_is_computed_once_and_only_within_a_tenant(small: Small, engine: Make) -> None:
    it = engine()
    stem = prompts(1, small.model.config.vocab, 5)[0][:1] * 64
    first = it.submit([*stem, 1], GREEDY)
    list(it.stream(first))
    second, third = it.submit([*stem, 2], GREEDY), it.submit([*stem, 2], GREEDY, tenant="other")
    list(it.stream(second)), list(it.stream(third))
    assert (first.cached, second.cached, third.cached) == (0, 64, 0)
    assert second.answer == third.answer


def test_exact_answers_do_not_depend_on_neighbours_to_the_last_bit(small: Small, engine: Make) -> None:
    it = engine(exact=True, budget=128)
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=7, logprobs=3)
    prompt = prompts(1, small.model.config.vocab, 9)[0]
    wanted = it.generate([prompt], sampling)[0]
    for seed in range(4):
        others = prompts(5, small.model.config.vocab, seed)
        busy = engine(exact=True, budget=128, blocks=14)  # with preemption
        requests = [busy.submit(p, Sampling(max_tokens=20, seed=seed)) for p in others[:3]]
        watched = busy.submit(prompt, sampling)
        requests += [busy.submit(p, Sampling(max_tokens=20, seed=seed)) for p in others[3:]]
        while busy.busy:
            busy.step()
        got = busy.result(watched)
        assert got.ids == wanted.ids and got.logprobs == wanted.logprobs


def test_seeds_give_the_same_samples_whatever_the_batch(small: Small, engine: Make) -> None:
    given = prompts(6, small.model.config.vocab, 2)
    sampling = Sampling(max_tokens=10, temperature=0.9, top_p=0.9, seed=3)
    together = engine().generate(given, sampling)
    apart = [engine().generate([prompt], sampling)[0] for prompt in given]
    assert [c.ids for c in together] == [c.ids for c in apart]


def test_log_probabilities_of_the_prompt(small: Small, engine: Make) -> None:
    it = engine(budget=10)
    prompt = prompts(1, small.model.config.vocab, 4)[0][:33]
    list(it.stream(it.submit(prompt, GREEDY)))  # what others have computed leaves no logits behind
    request = it.submit(prompt, GREEDY, prompt_logprobs=2)
    list(it.stream(request))
    with torch.no_grad():
        hidden = small.model.decode(torch.tensor([prompt]))
        scores = small.model.head(hidden)[0].log_softmax(-1)  # type: ignore[misc]
    assert len(request.prompt_facts) == len(prompt) and request.prompt_facts[0] is None
    for place, fact in enumerate(request.prompt_facts[1:], start=1):
        assert fact is not None and fact.id == prompt[place] and len(fact.top) == 2
        assert abs(fact.logprob - float(scores[place - 1, prompt[place]])) < 1e-3
    assert tuple(request.answer) == it.generate([prompt], GREEDY)[0].ids


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "message"),
    [
        ([], GREEDY, ContextError, "The prompt is empty"),
        ([1] * 256, GREEDY, ContextError, "The prompt has 256 tokens; the model has 256 positions"),
        ([1, 10**6], GREEDY, RecipeError, "the prompt holds the id 1000000; this model's ids go from 0 to"),
        ([1, -1], GREEDY, RecipeError, "holds the id -1"),
        ([1], Sampling(temperature=-1), RecipeError, "temperature is -1"),
        ([1] * 100, Sampling(max_tokens=100), ContextError, r"has 100 tokens and the answer may have 100; the engine's memory holds 160"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    prompt: list[int], sampling: Sampling, error: type[Exception], message: str, engine: Make
) -> None:
    it = engine(blocks=10)
    with pytest.raises(error, match=message):
        it.submit(prompt, sampling)
    assert not it.busy


def test_too_little_memory_is_named(small: Small) -> None:
    with pytest.raises(RecipeError, match=r"memory is 100 bytes; one block of 16 positions of this model takes \d+"):
        Engine(small, memory=100)


def test_a_step_that_fails_ends_its_request_alone(small: Small, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    it = engine()
    given = prompts(4, small.model.config.vocab, 6)
    requests = [it.submit(prompt, GREEDY) for prompt in given]
    bad = requests[2]
    run = it.runner.run

    def failing(pieces: list[Any]) -> Any:
        if any(piece.request is bad for piece in pieces):
            raise RuntimeError("not enough memory: you tried to allocate 99999999999 bytes")
        return run(pieces)

    monkeypatch.setattr(it.runner, "run", failing)
    while it.busy:
        it.step()
    with pytest.raises(RuntimeError, match="not enough memory"):
        it.result(bad)
    for request, prompt in zip(requests, given, strict=True):
        if request is not bad:
            assert it.result(request).ids == alone(small, prompt, GREEDY).ids
    it.blocks.check([])


def test_logits_that_are_no_numbers_end_their_request_alone(small: Small, engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    it = engine()
    given = prompts(3, small.model.config.vocab, 6)
    requests = [it.submit(prompt, GREEDY) for prompt in given]
    run = it.runner.run

    def spoiled(pieces: list[Any]) -> Any:
        found = run(pieces)
        return [np.full_like(row, np.nan) if piece.request is requests[1] else row for piece, row in zip(pieces, found, strict=True)]

    monkeypatch.setattr(it.runner, "run", spoiled)
    while it.busy:
        it.step()
    with pytest.raises(ModelError, match="not numbers"):
        it.result(requests[1])
    assert it.result(requests[0]).ids == alone(small, given[0], GREEDY).ids


def test_leaving_a_stream_frees_what_it_held(engine: Make) -> None:
    it = engine()
    request = it.submit([1, 2, 3], Sampling(max_tokens=50, temperature=0))
    for _ in it.stream(request):
        break
    assert request.done and not it.busy
    it.blocks.check([])


def test_requests_that_share_a_prompt_wait_for_the_first(small: Small, engine: Make) -> None:
    it = engine(budget=16)
    prompt = prompts(1, small.model.config.vocab, 8)[0] * 3
    prompt = prompt[:60]
    first = it.submit(prompt, Sampling(max_tokens=4, seed=0))
    rest = [it.submit(prompt, Sampling(max_tokens=4, seed=seed), after=first) for seed in (1, 2)]
    while it.busy:
        it.step()
    assert [request.cached for request in rest] == [48, 48]


def test_without_sharing_a_prompt_that_was_read_before_is_read_again(engine: Callable[..., Engine]) -> None:
    alone = engine(share=False)
    for _ in range(20):  # identities of objects are used again; the salt must not be one
        request = alone.submit(list(range(1, 50)), Sampling(max_tokens=1, temperature=0.0))
        while not request.done:
            alone.step()
        assert request.cached == 0
        del request
