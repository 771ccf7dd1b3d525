"""Many texts at once are the texts that each would be alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quire.decode.loop import complete, decode
from quire.decode.rows import Weights
from quire.decode.together import Rules, write
from quire.errors import ContextError, ModelError, RecipeError
from quire.types import Sampling
from tests.decode.test_beam import pair

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SOURCES = [[9, 14, 25], [33, 8, 8, 21, 2, 17, 40], [50], [71, 70, 69, 68, 67]]
STOPS = (2, *range(60, 80))
GREEDY = Sampling(temperature=0.0, max_tokens=20)


class Letters:
    """Ids as letters, with the ids beside them for whoever wants to see."""

    def decode(self, ids: list[int], special: bool = False) -> str:
        return "".join(chr(97 + id % 26) for id in ids)

    def stream(self) -> Any:
        letters = self

        class Stream:
            def push(self, token: int) -> str:
                return letters.decode([token])

            def end(self) -> str:
                return ""

        return Stream()


def alone(name: str, sampling: Sampling) -> list[Any]:
    _, ours, start = pair(name)
    return [complete(decode(ours, [start], sampling, Letters(), stop_ids=STOPS, source=source), len(source)) for source in SOURCES]


@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
@pytest.mark.parametrize("way", ["lean", "plain"])
@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        replace(GREEDY, min_tokens=4),
        replace(GREEDY, repetition_penalty=1.4, max_tokens=9),
        replace(GREEDY, logprobs=3),
        Sampling(seed=3, max_tokens=20),
        Sampling(seed=4, max_tokens=12, top_k=12, temperature=0.7, presence_penalty=0.5),
        replace(GREEDY, stop=("zz", "a")),
        Sampling(seed=5, max_tokens=20, stop=("e", "qq"), min_tokens=3),
    ],
    ids=str,
)
def test_each_text_is_the_one_that_it_is_alone(name: str, way: Any, sampling: Sampling) -> None:
    _, ours, start = pair(name)
    together = write(ours, [[start]] * len(SOURCES), sampling, Letters(), stop_ids=STOPS, sources=SOURCES, way=way)
    for ours_, alone_ in zip(together, alone(name, sampling), strict=True):
        assert ours_.ids == alone_.ids and ours_.finish_reason == alone_.finish_reason and ours_.prompt_tokens == alone_.prompt_tokens
        assert [fact.logprob for fact in ours_.logprobs] == pytest.approx([fact.logprob for fact in alone_.logprobs], abs=1e-4)
        ends = ours_.ids[-1] in STOPS
        assert alone_.text == ours_.text if sampling.stop else ours_.text == Letters().decode(list(ours_.ids[:-1] if ends else ours_.ids))


def test_greedy_equals_the_reference_with_forced_and_forbidden_ids() -> None:
    import torch

    theirs, ours, start = pair("marian")
    longest = max(map(len, SOURCES))
    out = theirs.generate(
        torch.tensor([row + [1] * (longest - len(row)) for row in SOURCES]),
        attention_mask=torch.tensor([[int(place < len(row)) for place in range(longest)] for row in SOURCES]),
        num_beams=1,
        do_sample=False,
        max_new_tokens=7,
        forced_bos_token_id=11,
        forced_eos_token_id=2,
        bad_words_ids=[[94], [95]],
        eos_token_id=list(STOPS),
        pad_token_id=94,
    )
    rules = Rules(forced_first=11, forced_last=2, forbidden=(94, 95))
    found = write(ours, [[start]] * 4, replace(GREEDY, max_tokens=7), Letters(), stop_ids=STOPS, sources=SOURCES, rules=rules)
    for row, one in zip(out[:, 1:].tolist(), found):
        assert list(one.ids) == [id for id in row if id != 94]


def test_the_decoders_side_may_be_all_there_is() -> None:
    _, ours, _ = pair("gpt2")
    prompts = [[5, 6], [7, 8], [9, 10]]
    found = write(ours, prompts, GREEDY, Letters(), stop_ids=STOPS)
    for prompt, one in zip(prompts, found):
        assert one.ids == complete(decode(ours, prompt, GREEDY, Letters(), stop_ids=STOPS), 2).ids and one.prompt_tokens == 2


def test_what_cannot_be_done_is_refused() -> None:
    _, ours, start = pair("bart")
    with pytest.raises(RecipeError, match="temperature is -1"):
        write(ours, [[start]], Sampling(temperature=-1), Letters(), sources=[[5]])
    with pytest.raises(RecipeError, match="different lengths"):
        write(ours, [[5], [5, 6]], GREEDY, Letters())
    with pytest.raises(ContextError, match="The source has 65 tokens"):
        write(ours, [[start]], GREEDY, Letters(), sources=[[5] * 65])
    with pytest.raises(ModelError, match="not numbers"):
        write(ours, [[start]], GREEDY, Letters(), sources=[[5]], rules=Rules(forbidden=tuple(range(96))))
    assert write(ours, [], GREEDY, Letters()) == []


@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_packed_weights_write_the_same(name: str) -> None:
    _, ours, start = pair(name)
    weights = Weights(ours, 64)
    assert weights.table.weight is not ours.embed.weight  # packed, not the weight itself
    for _ in range(2):  # for several batches
        found = write(ours, [[start]] * len(SOURCES), GREEDY, Letters(), stop_ids=STOPS, sources=SOURCES, weights=weights)
        assert [one.ids for one in found] == [one.ids for one in alone(name, GREEDY)]
    assert Weights(ours).table.weight.data_ptr() == ours.embed.weight.data_ptr()
