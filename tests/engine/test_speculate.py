"""Guessed tokens change when an answer comes, never what it says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from quire.engine.engine import Engine
from quire.engine.speculate import Draft, Lookup, Trust
from quire.errors import RecipeError
from quire.text.tokenizer import Tokenizer
from quire.types import Sampling
from tests.engine.conftest import Small, random_model
from tests.engine.test_engine import prompts

Make = Callable[..., Engine]


def steps(engine: Engine, given: list[list[int]], sampling: Sampling) -> tuple[list[tuple[int, ...]], int]:
    requests, count = [engine.submit(prompt, sampling) for prompt in given], 0
    while engine.busy:
        engine.step()
        count += 1
        engine.blocks.check([request.blocks for request in engine.scheduler.requests])
    return [engine.result(request).ids for request in requests], count


GREEDY = Sampling(max_tokens=40, temperature=0)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(max_tokens=40, seed=5), replace(GREEDY, repetition_penalty=1.3)])
@pytest.mark.parametrize("way", ["lookup", "same", "other"])
def test_answers_stay_the_same(sampling: Sampling, way: str, small: Small, engine: Make) -> None:
    """`same` drafts with the model itself (every greedy guess comes true), `other` with one that knows nothing."""
    given = prompts(5, small.model.config.vocab, 1)
    wanted, plain = steps(engine(blocks=30), given, sampling)
    guess = {"lookup": "lookup", "same": small.model, "other": random_model("llama", small.model.config.vocab, 0.2, hidden_size=16)}[way]
    it = engine(blocks=30, guess=guess)
    if isinstance(it.guesser, Draft):
        it.guesser.clock = lambda: 0.0  # a draft that costs nothing
    got, guessed = steps(it, given, sampling)
    assert got == wanted
    if way == "same" and sampling.temperature == 0 and sampling.repetition_penalty == 1:
        assert guessed < plain / 2
    assert guessed <= plain + 2


def test_what_repeats_is_looked_up(small: Small, engine: Make) -> None:
    """An answer that goes on as its prompt did is guessed right again and again: most tokens come several a step."""
    prompt, sampling = [7] * 30, Sampling(max_tokens=100, temperature=0, logit_bias=((7, 100.0),))
    it = engine(guess="lookup")
    assert isinstance(it.guesser, Lookup)
    answer, count = steps(it, [prompt], sampling)
    wanted, plain = steps(engine(), [prompt], sampling)
    assert answer == wanted == [(7,) * 100]
    assert count < plain / 4


def test_the_latest_place_of_the_longest_run_is_found() -> None:
    lookup = Lookup(most=3, longest=3, shortest=2)
    text = [1, 2, 3, 9, 9, 1, 2, 3, 4, 5, 6, 2, 3, 8, 1, 2, 3]

    class Text:
        limit, answer = 50, [0]
        guessed: list[int] = []
        known = len(text)

        def tokens(self, start: int, stop: int) -> list[int]:
            return text[start:stop]

    request = Text()
    lookup._find(request, text[:-1])  # type: ignore[arg-type]
    assert lookup._find(request, text) == 8  # type: ignore[arg-type]  # behind the later 1 2 3, not behind the later 2 3


def test_failing_guesses_become_rare() -> None:
    draw, trust, asked = random.Random(0), Trust(8), 0
    for _ in range(200):
        wanted = trust.wanted()
        asked += wanted
        if wanted:
            trust.judge(wanted, 0 if draw.random() < 0.98 else wanted)
    assert asked < 60


def test_guesses_come_back_when_they_come_true() -> None:
    trust = Trust(8)
    for _ in range(300):
        if wanted := trust.wanted():
            trust.judge(wanted, 0)
    assert sum(trust.wanted() > 0 for _ in range(128)) <= 2
    asked = 0
    for _ in range(300):
        if wanted := trust.wanted():
            asked += wanted
            trust.judge(wanted, wanted)
    assert trust.wanted() == 8 and asked > 500


def test_what_a_guess_costs_counts() -> None:
    """Of guesses that are right seven times in ten, the k-th is right 0.7 ** k times in a step: it must be worth its price."""
    assert [Trust(8).wanted(price) for price in (0.0, 0.2, 0.5, 0.7, 3.0)] == [7, 3, 1, 0, 0]


def test_a_dear_draft_is_asked_now_and_then(small: Small, engine: Make) -> None:
    """One as slow as its model, whose every guess comes true: it is not worth its time, and catches up rightly when it is tried."""
    it, sampling, ticks = engine(guess=small.model), Sampling(max_tokens=100, temperature=0), itertools.count()
    assert isinstance(it.guesser, Draft)
    it.guesser.clock = lambda: float(next(ticks))
    given = prompts(1, small.model.config.vocab, 1)
    wanted, plain = steps(engine(), given, sampling)
    got, count = steps(it, given, sampling)
    assert got == wanted
    assert 0.8 * plain < count < plain - 3


def test_a_draft_of_another_vocabulary_is_refused(small: Small, tokenizer: Tokenizer, engine: Make) -> None:
    with pytest.raises(RecipeError, match=r"the draft model has a vocabulary of 96, the model one of \d+"):
        engine(guess=random_model("llama", 96))
    with pytest.raises(RecipeError, match="guessing cannot help"):
        engine(guess="lookup", exact=True)
    assert Draft(random_model("gpt2", tokenizer.vocab_size), tokenizer.vocab_size, 4, 16).most == 4
