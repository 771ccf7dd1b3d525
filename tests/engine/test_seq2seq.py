"""Encoder-decoders through the engine: what the plain loop says, for every family, in every order of coming and going."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from quire.binding import Contract
from quire.decode.loop import complete, decode
from quire.engine.engine import Engine
from quire.engine.request import Request
from quire.errors import ContextError, ModelError, RecipeError
from quire.families import FAMILIES
from quire.text.tokenizer import Tokenizer
from quire.types import Beam, Completion, Sampling
from tests.engine.conftest import Small, random_model

GREEDY = Sampling(max_tokens=10, temperature=0)
NAMES = sorted({f.names[0] for f in FAMILIES.values() if f.kind == "seq2seq"})
START = 3
Make = Callable[..., Engine]


@pytest.fixture(scope="session")
def models(tokenizer: Tokenizer) -> dict[str, Small]:
    contract = Contract(tokenizer, decoder_start=START, stop_ids=(7, 8))
    return {name: Small(random_model(name, tokenizer.vocab_size), contract) for name in NAMES}


def engine_of(small: Small, blocks: int = 24, **options: Any) -> Engine:
    return Engine(small, memory=blocks * 16 * small.model.config.cache_bytes_per_token(4), **options)


def alone(small: Small, source: list[int], sampling: Sampling) -> Completion:
    contract = small.contract
    chunks = decode(small.model, [START], sampling, contract.tokenizer, stop_ids=contract.stop_ids or (), source=source, way="plain")
    return complete(chunks, len(source))


def sources(count: int, vocab: int, seed: int = 0, longest: int = 50) -> list[list[int]]:
    draw = random.Random(seed)
    sizes = [draw.choice([1, 2, 15, 16, 17, 32, 33]) if draw.random() < 0.5 else draw.randrange(1, longest) for _ in range(count)]
    return [[draw.randrange(vocab) for _ in range(size)] for size in sizes]


def held(engine: Engine) -> list[list[int]]:
    return [blocks for request in engine.scheduler.requests for blocks in (request.blocks, request.source_blocks)]


def same(got: Completion, wanted: Completion) -> None:
    assert (got.ids, got.text, got.finish_reason, got.prompt_tokens) == (
        wanted.ids,
        wanted.text,
        wanted.finish_reason,
        wanted.prompt_tokens,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"exact": True}, {"guess": "lookup"}])
def test_every_family_says_what_it_says_alone(name: str, options: dict[str, Any], models: dict[str, Small]) -> None:
    small = models[name]
    given = sources(8, small.model.config.vocab)
    engine = engine_of(small, blocks=14, budget=40, most=5, **options)
    how = Sampling(max_tokens=30, temperature=0)
    for source, got in zip(given, engine.generate(given, how), strict=True):
        same(got, alone(small, source, how))
    engine.blocks.check([])


@pytest.mark.parametrize("seed", range(9))
def test_random_traces(seed: int, models: dict[str, Small]) -> None:
    """Requests come, are aborted, put aside and stopped by strings; accounts are right after every step."""
    draw = random.Random(seed)
    small = models[NAMES[seed % len(NAMES)]]
    it = engine_of(small, blocks=draw.choice([8, 12, 40]), budget=draw.choice([5, 30, 90]), most=draw.choice([1, 3, 8]))
    few = sources(6, small.model.config.vocab, seed)
    live: list[tuple[Request, list[int], Sampling]] = []
    done = 0
    for _ in range(250):
        if draw.random() < 0.25 and done + len(live) < 25:
            stop = (draw.choice("aeinrt "),) if draw.random() < 0.3 else ()
            drawn: dict[str, Any] = {"temperature": 0} if draw.random() < 0.6 else {"temperature": 0.9, "seed": draw.randrange(99)}
            sampling = Sampling(max_tokens=draw.choice([1, 7, 25]), stop=stop, **drawn)
            source = draw.choice(few)
            live.append((it.submit(source, sampling, tenant=draw.choice(["", "other"])), source, sampling))
        if live and draw.random() < 0.03:
            it.abort(live.pop(draw.randrange(len(live)))[0])
        it.step()
        it.blocks.check(held(it))
        for entry in [entry for entry in live if entry[0].done]:
            live.remove(entry)
            same(it.result(entry[0]), alone(small, *entry[1:]))
            done += 1
    while it.busy:
        it.step()
    it.blocks.check([])
    assert done > 5


@pytest.mark.parametrize("name", NAMES)
def test_memory_for_less_than_all_puts_the_last_aside_and_reads_its_source_again(name: str, models: dict[str, Small]) -> None:
    small = models[name]
    it, given = engine_of(small, blocks=7, most=8), [source[:16] for source in sources(5, small.model.config.vocab, 3)]
    how = Sampling(max_tokens=45, temperature=0, min_tokens=45)
    for source, got in zip(given, it.generate(given, how), strict=True):
        same(got, alone(small, source, how))
    assert it.scheduler.preemptions > 0


def test_seeds_and_exact_answers_do_not_depend_on_the_batch(models: dict[str, Small]) -> None:
    small = models[NAMES[-1]]
    given = sources(6, small.model.config.vocab, 2)
    sampling = Sampling(max_tokens=10, temperature=0.9, top_p=0.9, seed=3, logprobs=2)
    together = engine_of(small, exact=True).generate(given, sampling)
    apart = [engine_of(small, exact=True).generate([source], sampling)[0] for source in given]
    assert [(c.ids, c.logprobs) for c in together] == [(c.ids, c.logprobs) for c in apart]
    assert [c.ids for c in engine_of(small, blocks=9).generate(given, sampling)] == [c.ids for c in apart]


def test_sources_are_read_once_together_and_within_the_budget(models: dict[str, Small], monkeypatch: pytest.MonkeyPatch) -> None:
    small = models["t5"]
    engine, encode, shapes = engine_of(small, budget=40), small.model.encode, []

    def counted(tokens: Any, ctx: Any = None, types: Any = None) -> Any:
        shapes.append(tuple(tokens.shape))
        return encode(tokens, ctx, types)

    monkeypatch.setattr(small.model, "encode", counted)
    requests = [engine.submit([5] * size, GREEDY) for size in (12, 9, 11, 60, 4)]
    assert engine.step() == 12 + 9 + 11 + 3
    while engine.busy:
        engine.step()
    assert shapes == [(3, 12), (1, 60), (1, 4)]  # the long one begins when it is first in line, longer than the budget or not
    assert all(request.done and not request.source_blocks for request in requests)


def test_what_cannot_be_done_is_refused_before_any_work(models: dict[str, Small], tokenizer: Tokenizer) -> None:
    small = models["t5"]
    engine = engine_of(small, blocks=4)
    with pytest.raises(ContextError, match="has 40 tokens and the answer may have 30; the engine's memory holds 64 in all"):
        engine.submit([1] * 40, Sampling(max_tokens=30))
    with pytest.raises(ContextError, match="The source has 65 tokens; the model has 64 positions"):
        engine_of(models["bart"]).submit([1] * 65, GREEDY)
    with pytest.raises(ContextError, match="The source is empty"):
        engine.submit([], GREEDY)
    with pytest.raises(RecipeError, match=r"sampling is Beam.*allowed: a Sampling\. For beams there are model\.translate"):
        engine.submit([1], Beam())  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="prompt_logprobs is 1; allowed: .* for decoders alone"):
        engine.submit([1], GREEDY, prompt_logprobs=1)
    with pytest.raises(RecipeError, match='give guess="lookup"'):
        engine_of(small, guess=small.model)
    with pytest.raises(ModelError, match="does not say with which id its decoder starts"):
        Engine(Small(small.model, Contract(tokenizer))).submit([1], GREEDY)
    assert not engine.busy


def test_a_source_that_fails_ends_its_request_alone(models: dict[str, Small], monkeypatch: pytest.MonkeyPatch) -> None:
    small = models["bart"]
    engine = engine_of(small)
    given = sources(4, small.model.config.vocab, 6)
    requests = [engine.submit(source, GREEDY) for source in given]
    run = engine.runner.run

    def failing(pieces: list[Any]) -> Any:
        if any(piece.request is requests[1] for piece in pieces):
            raise RuntimeError("not enough memory: you tried to allocate 99999999999 bytes")
        return run(pieces)

    monkeypatch.setattr(engine.runner, "run", failing)
    while engine.busy:
        engine.step()
    with pytest.raises(RuntimeError, match="not enough memory"):
        engine.result(requests[1])
    for number in (0, 2, 3):
        same(engine.result(requests[number]), alone(small, given[number], GREEDY))
    engine.blocks.check([])
