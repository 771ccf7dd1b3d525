"""Guessed tokens change when an answer comes, never what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from quire.engine.engine import Engine
from quire.engine.runner import Logits, Runner
from quire.engine.scheduler import Piece
from quire.engine.speculate import ROW, TRY, Draft, Ledger, Lookup, Trust, Trusts
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


class Timed:
    """An engine by a clock of its own: a step takes 1 and 0.08 for each row more, a call of the draft `each`."""

    def __init__(self, engine: Engine, each: float = 0.0) -> None:
        self.now = 0.0
        self._take(engine.runner, lambda rows: 0.92 + 0.08 * rows)
        if engine.guesser is not None:
            engine.guesser.ledger.clock = lambda: self.now
        if isinstance(engine.guesser, Draft):
            self._take(engine.guesser.runner, lambda rows: each)

    def _take(self, runner: Runner, price: Callable[[int], float]) -> None:
        run = runner.run

        def timed(pieces: Sequence[Piece]) -> list[Logits]:
            self.now += price(sum(piece.count for piece in pieces))
            return run(pieces)

        runner.run = timed  # type: ignore[method-assign]


def times(guessing: Engine, plain: Engine, small: Small, sampling: Sampling, each: float) -> tuple[float, float]:
    """What twelve answers, one after the other, take with guesses and without; they are the same."""
    ours, alone = Timed(guessing, each), Timed(plain)
    for prompt in prompts(12, small.model.config.vocab, 1):
        assert steps(guessing, [prompt], sampling)[0] == steps(plain, [prompt], sampling)[0]
    return ours.now, alone.now


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
        it.guesser.ledger.clock = lambda: 0.0  # a draft that costs nothing
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
    Timed(it)
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


def measured(rows: float = 0.1) -> Ledger:
    """Of a request alone: a step takes a second, a row more `rows`."""
    ledger = Ledger()
    ledger._steps[1] = 1.0
    ledger._added |= {guessed: rows * guessed for guessed in range(1, 9)}
    return ledger


def test_nothing_is_guessed_before_a_step_is_measured() -> None:
    assert Trust(8, Ledger()).wanted() == 0
    assert Trust(8, measured()).wanted() > 0


def test_guesses_that_fail_take_a_fiftieth() -> None:
    """However many requests come, and once they come true again, as many as pay are made."""
    ledger, lost = measured(), 0.0
    trusts = Trusts(8, ledger)
    for number in range(50):
        request: Any = number
        for _ in range(40):
            if wanted := trusts[request].wanted():
                lost += ledger.cost(wanted)
                trusts.judge(request, wanted, 0)
            else:
                ledger._book(TRY)
        trusts.forget(request)
    assert lost < TRY * 2000 + ledger.cost(8)
    asked = 0
    for _ in range(100):
        if wanted := trusts["new"].wanted():  # type: ignore[index]
            asked += wanted
            trusts.judge("new", wanted, wanted)  # type: ignore[arg-type]
        else:
            ledger._book(TRY)
    assert asked > 500


def test_what_a_guess_costs_counts() -> None:
    """Of guesses that are right seven times in ten, the k-th is right 0.7 ** k times in a step: it must be worth its price."""
    assert [Trust(8, measured(0.08)).wanted(seconds) for seconds in (0.0, 0.2, 0.5)] == [7, 3, 1]
    ledger = measured()
    ledger._book(-0.1)
    assert [Trust(8, ledger).wanted(seconds) for seconds in (0.0, 3.0)] == [0, 0]


def test_a_dear_first_row_asks_for_more_of_them() -> None:
    """Two rows cost half a step more than one, each further row little: one guess hardly pays, several do."""
    ledger = measured()
    ledger._added = {1: 0.5}
    assert Trust(8, ledger, 0.9).wanted() == 8
    assert ledger.cost(3) == pytest.approx(0.5 + 2 * ROW)


@pytest.mark.parametrize("heat", [0.0, 1.0])
@pytest.mark.parametrize("each", [0.05, 0.3, 0.9])
def test_a_worthless_draft_takes_little(each: float, heat: float, small: Small, engine: Make) -> None:
    """Request after request, whatever its token costs; the first reading of a prompt is on top."""
    it = engine(guess=random_model("llama", small.model.config.vocab, 0.2, hidden_size=16))
    seconds, alone = times(it, engine(), small, Sampling(max_tokens=100, temperature=heat, seed=3), each)
    assert seconds < 1.04 * alone


@pytest.mark.parametrize("way", ["lookup", "draft"])
def test_sampled_text_keeps_its_speed(way: str, small: Small, engine: Make) -> None:
    it = engine(guess="lookup" if way == "lookup" else small.model)
    seconds, alone = times(it, engine(), small, Sampling(max_tokens=100, temperature=1, seed=3), 0.5)
    assert seconds < 1.04 * alone


def test_a_dear_draft_is_asked_hardly_ever(small: Small, engine: Make) -> None:
    """One as slow as its model, whose every guess comes true."""
    seconds, alone = times(engine(guess=small.model), engine(), small, Sampling(max_tokens=100, temperature=0), 1.0)
    assert seconds < 1.04 * alone


def test_a_cheap_and_right_draft_is_asked_mostly(small: Small, engine: Make) -> None:
    seconds, alone = times(engine(guess=small.model), engine(), small, Sampling(max_tokens=100, temperature=0), 0.05)
    assert seconds < 0.5 * alone


def test_a_draft_of_another_vocabulary_is_refused(small: Small, tokenizer: Tokenizer, engine: Make) -> None:
    with pytest.raises(RecipeError, match=r"the draft model has a vocabulary of 96, the model one of \d+"):
        engine(guess=random_model("llama", 96))
    with pytest.raises(RecipeError, match="guessing cannot help"):
        engine(guess="lookup", exact=True)
    assert Draft(random_model("gpt2", tokenizer.vocab_size), tokenizer.vocab_size, 4, 16).most == 4
