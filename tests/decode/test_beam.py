"""Beam search against the reference's, over settings drawn at random; and what must hold of it without a reference."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from quire.decode.beam import Found, best, search
from quire.errors import ContextError, ModelError, RecipeError
from quire.families import FAMILIES, ModelFolder
from quire.nn.transformer import Transformer
from quire.types import Beam
from tests.families.reference import Case, save_theirs, their_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAMES = ("t5", "bart", "marian", "gpt2", "llama")
PAD = 94


@cache
def pair(name: str, seed: int = 0, **changes: Any) -> tuple[Any, Transformer, int]:
    """(theirs, ours, start id)"""
    import tempfile
    from pathlib import Path

    case = Case(FAMILIES[name], FAMILIES[name].tiny | changes)
    theirs = their_model(case, seed)
    with tempfile.TemporaryDirectory() as folder:
        ours = ModelFolder.open(save_theirs(theirs, Path(folder) / "m")).build()
    return theirs, ours, case.config.get("decoder_start_token_id", 1)


def drawn(draw: random.Random) -> tuple[Beam, list[int]]:
    most = draw.choice([1, 4, 9, 20])
    beam = Beam(
        width=draw.choice([2, 3, 5]),
        max_tokens=most,
        min_tokens=min(most, draw.choice([0, 0, 3, 6])),
        length_penalty=draw.choice([0.0, 1.0, 2.0, -1.0, 0.6]),
        no_repeat_ngram=draw.choice([0, 0, 1, 2, 3]),
        repetition_penalty=draw.choice([1.0, 1.3, 0.8]),
        early_stopping=draw.random() < 0.5,
        forced_first=draw.choice([None, None, 7]),
        forced_last=draw.choice([None, None, 2]),
        forbidden=draw.choice([(), (5, 9, 11)]),
    )
    return beam, draw.choice([[2], [1], [2, 3]]) + list(range(60, 60 + draw.choice([0, 6, 20])))


def rows(draw: random.Random, start: int, seq2seq: bool) -> tuple[list[list[int]], list[list[int]] | None]:
    if not seq2seq:
        length = draw.randint(1, 5)
        return [[draw.randint(5, 93) for _ in range(length)] for _ in range(4)], None
    return [[start]] * 4, [[draw.randint(5, 93) for _ in range(draw.randint(1, 11))] for _ in range(4)]


def reference(theirs: Any, prompts: list[list[int]], sources: list[list[int]] | None, beam: Beam, stops: list[int]) -> list[Found]:
    read = sources or prompts
    longest = max(map(len, read))
    tokens = torch.tensor([row + [1] * (longest - len(row)) for row in read])
    keep = torch.tensor([[int(place < len(row)) for place in range(longest)] for row in read])
    more = {} if sources is None else {"decoder_start_token_id": prompts[0][0]}
    out = theirs.generate(
        tokens,
        attention_mask=keep,
        num_beams=beam.width,
        max_new_tokens=beam.max_tokens,
        min_new_tokens=beam.min_tokens,
        length_penalty=beam.length_penalty,
        no_repeat_ngram_size=beam.no_repeat_ngram,
        repetition_penalty=beam.repetition_penalty,
        early_stopping=beam.early_stopping,
        forced_bos_token_id=beam.forced_first,
        forced_eos_token_id=beam.forced_last,
        bad_words_ids=[[id] for id in beam.forbidden] or None,
        eos_token_id=stops,
        pad_token_id=PAD,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **more,
    )
    ids = out.sequences[:, len(prompts[0]) :].tolist()
    return [
        Found(tuple(row[: row.index(PAD)] if PAD in row else row), score, "stop") for row, score in zip(ids, out.sequences_scores.tolist())
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_ids_and_scores_equal_the_reference(name: str, seed: int) -> None:
    theirs, ours, start = pair(name, seed % 2)
    draw = random.Random(seed * 31 + len(name))
    beam, stops = drawn(draw)
    prompts, sources = rows(draw, start, ours.config.kind == "seq2seq")
    if sources is None and len(prompts[0]) > 1:
        beam = replace(beam, forced_first=None)  # the reference forces it behind a start id only
    wanted = reference(theirs, prompts, sources, replace(beam, forbidden=(*beam.forbidden, PAD)), stops)
    for way in ("plain", "lean"):
        found = search(ours, prompts, replace(beam, forbidden=(*beam.forbidden, PAD)), stop_ids=stops, sources=sources, way=way)  # type: ignore[arg-type]
        for ours_, theirs_ in zip(found, wanted):
            assert ours_.score == pytest.approx(theirs_.score, rel=1e-4, abs=1e-4)
            # two texts as likely as rounding can tell are the only ones that may change places
            assert ours_.ids == theirs_.ids or abs(ours_.score - theirs_.score) < 3e-6 * abs(theirs_.score), (beam, stops)
            assert ours_.reason == ("stop" if ours_.ids[-1] in stops else "length")


@pytest.mark.parametrize("name", ["t5", "marian", "gpt2"])
@pytest.mark.parametrize("width", [1, 3])
def test_a_text_does_not_depend_on_its_neighbours(name: str, width: int) -> None:
    _, ours, start = pair(name)
    draw = random.Random(5)
    beam = Beam(width, max_tokens=20, no_repeat_ngram=1, early_stopping=True)
    prompts, sources = rows(draw, start, ours.config.kind == "seq2seq")
    endless = search(ours, prompts, beam, sources=sources)
    stops = [endless[0].ids[4], endless[1].ids[9]]  # what some write early and others late
    together = search(ours, prompts, beam, stop_ids=stops, sources=sources)
    for i, found in enumerate(together):
        alone = search(ours, prompts[i : i + 1], beam, stop_ids=stops, sources=None if sources is None else sources[i : i + 1])[0]
        assert alone.ids == found.ids and alone.score == pytest.approx(found.score, abs=1e-5)


def test_a_wide_enough_beam_finds_the_likeliest_text_of_all() -> None:
    """Every text of three ids over the allowed ones, scored one by one."""
    _, ours, start = pair("bart")
    allowed = [5, 6, 7, 8]
    forbidden = tuple(id for id in range(ours.config.vocab) if id not in allowed)
    beam = Beam(width=64, max_tokens=3, length_penalty=0.0, forbidden=forbidden)
    found = search(ours, [[start]], beam, sources=[[9, 10, 11]])[0]
    with torch.no_grad():
        memory = ours.encode(torch.tensor([[9, 10, 11]]))
        texts = torch.cartesian_prod(*[torch.tensor(allowed)] * 3)
        read = torch.cat((torch.full((len(texts), 1), start), texts[:, :-1]), 1)
        logp = ours.head(ours.decode(read, None, memory.expand(len(texts), -1, -1))).log_softmax(-1)  # type: ignore[misc]
        scores = logp.gather(2, texts[:, :, None]).sum((1, 2))
    assert found.score == pytest.approx(scores.max().item(), abs=1e-4)
    assert found.ids == tuple(texts[scores.argmax()].tolist())


def test_the_best_of_a_large_vocabulary_are_those_of_topk() -> None:
    draw = torch.Generator().manual_seed(0)
    for vocab, k in ((5003, 8), (4096, 1), (300, 12), (65, 2)):
        values = torch.randn(7, vocab, generator=draw)
        wanted = values.topk(k, dim=1)
        found, places = best(values, k)
        assert torch.equal(found, wanted.values) and torch.equal(places, wanted.indices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "beam: width is 0; allowed: a whole number, 1 or more"),
        ({"width": 97}, "width is 97; allowed: at most 96"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"min_tokens": 9, "max_tokens": 4}, "min_tokens is 9; allowed: at most max_tokens, which is 4"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; allowed: a number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; allowed: above 0"),
        ({"early_stopping": "never"}, "early_stopping is 'never'; allowed: true or false"),
        ({"forced_last": 96}, "forced_last is 96; allowed: ids from 0 to 95"),
        ({"forbidden": ([4, 5],)}, "a word of several ids cannot be forbidden"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    _, ours, start = pair("t5")
    with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
        search(ours, [[start]], replace(Beam(), **change), sources=[[5]])


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    _, ours, start = pair("bart")
    with pytest.raises(ContextError, match="The source has 65 tokens; the model has 64 positions"):
        search(ours, [[start]], Beam(), sources=[[5] * 65])
    with pytest.raises(RecipeError, match="one batch; allowed is one"):
        search(ours, [[start], [start, 5]], Beam(), sources=[[5], [5]])
    assert search(ours, [], Beam()) == []
    found = search(ours, [[start]], Beam(width=2, max_tokens=500), sources=[[5, 6]])[0]
    assert found.reason == "context" and len(found.ids) == 63


def test_logits_that_are_not_numbers_are_an_error() -> None:
    _, ours, start = pair("t5")
    with pytest.raises(ModelError, match="not numbers"):
        search(ours, [[start]], Beam(forbidden=tuple(range(96))), sources=[[5]])
