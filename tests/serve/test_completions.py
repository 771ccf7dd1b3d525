"""POST /v1/completions against a real server: prompts of every kind, echo and scores, streams, and everything that is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.binding import Contract
from quire.errors import ModelError
from quire.model import load
from quire.serve.asks import Begun, Logprob, Piece, Write
from quire.serve.completions import Completions, Listing, Part, Parts, begin
from quire.serve.desk import Desk, Writing
from quire.serve.errors import Refused
from quire.text.infill import MARKS, infill
from quire.text.training import SpecialTokens, train
from tests.serve.conftest import ROOT, Running
from tests.small import TEXTS, write_model

PATH = "/v1/completions"
PROMPT = "the quick brown"


def asked(server: Running, **more: Any) -> Any:
    answer = server.post(PATH, {"model": "base", "prompt": PROMPT, "temperature": 0, "max_tokens": 12, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(server: Running, **more: Any) -> str:
    return asked(server, **more)["choices"][0]["text"]


def wrong(server: Running, **more: Any) -> dict[str, Any]:
    answer = server.post(PATH, {"model": "base", "prompt": PROMPT, **more})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


# -- every field of the API --------------------------------------------------------------------------------------------------------


def _cached(server: Running) -> bool:
    found = [asked(server, prompt="user " * 40, user=name) for name in ("a", "a", "b")]
    cached = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in found]
    return cached[0] < cached[1] > cached[2]


# Each shows what its field does; for those refused in part, also that they are refused by name.
HONOURED: dict[str, Callable[[Running], bool]] = {
    "model": lambda s: asked(s)["model"] == "base",
    "prompt": lambda s: said(s) != said(s, prompt="fox"),
    "best_of": lambda s: wrong(s, best_of=2)["param"] == "best_of" and len(asked(s, best_of=2, n=2)["choices"]) == 2,
    "echo": lambda s: said(s, echo=True) == PROMPT + said(s),
    "frequency_penalty": lambda s: said(s, frequency_penalty=2, max_tokens=40) != said(s, max_tokens=40),
    "presence_penalty": lambda s: said(s, presence_penalty=2, max_tokens=40) != said(s, max_tokens=40),
    "logit_bias": lambda s: said(s, logit_bias={"80": 100}) == said(s, logit_bias={"80": 100})[:1] * 12,
    "logprobs": lambda s: len(asked(s, logprobs=2)["choices"][0]["logprobs"]["tokens"]) == 12,
    "max_tokens": lambda s: asked(s, max_tokens=None)["usage"]["completion_tokens"] == 16,
    "n": lambda s: len(asked(s, n=3)["choices"]) == 3,
    "seed": lambda s: said(s, seed=1, temperature=2) == said(s, seed=1, temperature=2) != said(s, seed=2, temperature=2),
    "stop": lambda s: said(s, stop=[said(s)[6:8]]) == said(s)[: said(s).index(said(s)[6:8])],
    "stream": lambda s: s.events(PATH, {"model": "base", "prompt": PROMPT, "max_tokens": 2, "stream": True})[-1] == "[DONE]",
    "stream_options": lambda s: (
        "usage" in s.events(PATH, {"model": "base", "prompt": "a", "stream": True, "stream_options": {"include_usage": True}})[-2]
    ),
    "suffix": lambda s: "suffix" in wrong(s, suffix="fox")["message"],
    "temperature": lambda s: said(s, temperature=2, seed=1) != said(s),
    "top_p": lambda s: said(s, temperature=2, top_p=1e-6) == said(s),
    "user": _cached,
}


def test_every_documented_field_is_honoured_or_refused(client_python: Callable[[str], Path]) -> None:
    script = ROOT / "tests/serve/clients/openai_fields.py"
    fields = json.loads(subprocess.check_output([client_python("openai"), script]))["completions"]
    assert set(fields["completion_create_params.CompletionCreateParamsStreaming"]) == set(HONOURED)


@pytest.mark.parametrize("field", HONOURED)
def test_a_field_has_an_effect(server: Running, field: str) -> None:
    assert HONOURED[field](server)


def test_null_is_as_good_as_nothing(server: Running) -> None:
    for field in set(HONOURED) - {"model"}:
        assert asked(server, **{"max_tokens": 1, field: None})["choices"], field


# -- prompts -----------------------------------------------------------------------------------------------------------------------


def test_prompts_of_every_kind(server: Running, folders: dict[str, Path]) -> None:
    ids = Contract.open(folders["base"]).prompt(PROMPT)
    assert said(server) == said(server, prompt=ids) == said(server, prompt=[PROMPT]) == said(server, prompt=[ids])
    both = asked(server, prompt=[PROMPT, "fox"], n=2)
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in both["choices"]] == [said(server)] * 2 + [said(server, prompt="fox")] * 2
    assert both["usage"]["completion_tokens"] == 48
    assert asked(server, prompt=None, max_tokens=2)["usage"]["prompt_tokens"] == 1, "the beginning of a new text"
    written = asked(server, model="t5", max_tokens=4)
    assert written["usage"]["prompt_tokens"] > 1 and written["usage"]["completion_tokens"] <= 4


def test_a_stream_of_several_prompts_is_their_answers(server: Running) -> None:
    body = {"model": "base", "prompt": [PROMPT, "fox"], "n": 2, "temperature": 1, "seed": 1, "max_tokens": 9, "logprobs": 1}
    whole = server.post(PATH, body).json()
    events = server.events(PATH, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]" and events[-2]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-2])
    for choice in whole["choices"]:
        mine = [one for event in events[:-2] for one in event["choices"] if one["index"] == choice["index"]]
        assert "".join(one["text"] for one in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"] and not any(one["finish_reason"] for one in mine[:-1])
        for name, values in choice["logprobs"].items():
            assert [value for one in mine if one["logprobs"] for value in one["logprobs"][name]] == values
    echoed = server.events(PATH, {"model": "base", "prompt": PROMPT, "max_tokens": 2, "temperature": 0, "echo": True, "stream": True})
    assert "".join(event["choices"][0]["text"] for event in echoed[:-1]) == PROMPT + said(server, max_tokens=2)


class FakeJob:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_where_one_prompt_is_refused_none_goes_on() -> None:
    jobs: list[FakeJob] = []

    class Front:
        def tenant(self, request: Any) -> str:
            return ""

        async def begin(self, request: Any, model: str, ask: Write, names: Any) -> tuple[Any, Any, Begun]:
            if ask.prompt == "wrong":
                await asyncio.sleep(0.01)
                raise Refused(400, "too long", param="prompt", code="context_length_exceeded")
            jobs.append(FakeJob())
            return None, jobs[-1], Begun(1)

    body = Completions(model="m", prompt=["a", "wrong", "b"])
    with pytest.raises(Refused) as error:
        asyncio.run(begin(Front(), None, body))  # type: ignore[arg-type]
    assert error.value.param == "prompt" and len(jobs) == 2 and all(job.closed for job in jobs)


# -- scores ------------------------------------------------------------------------------------------------------------------------


def test_scores_of_the_prompt_are_those_of_the_model(server: Running, folders: dict[str, Path]) -> None:
    model = load(folders["base"])
    score = model.score([("the", " quick brown")])[0]
    one, none = (asked(server, echo=True, logprobs=1, max_tokens=most) for most in (1, 0))
    facts = none["choices"][0]["logprobs"]
    count = len(score.tokens)
    assert facts["token_logprobs"][-count:] == pytest.approx([token.logprob for token in score.tokens], abs=1e-4)
    assert facts["token_logprobs"][0] is None and facts["top_logprobs"][0] is None
    assert none["choices"][0]["text"] == PROMPT and none["choices"][0]["finish_reason"] == "length"
    assert none["usage"]["completion_tokens"] == 0 and none["usage"]["total_tokens"] == none["usage"]["prompt_tokens"]
    for name, values in facts.items():
        assert one["choices"][0]["logprobs"][name][:-1] == values
    # As lm-evaluation-harness reads it: greedy where the token that came is the likeliest of those listed.
    assert all(chance in top.values() for top, chance in zip(facts["top_logprobs"][1:], facts["token_logprobs"][1:]))


def test_offsets_are_places_in_the_text(server: Running) -> None:
    for more in ({}, {"echo": True}, {"echo": True, "prompt": "für Größe"}, {"stop": ["zzz"]}):
        choice = asked(server, logprobs=0, max_tokens=24, **more)["choices"][0]
        text, facts = choice["text"], choice["logprobs"]
        places = [*facts["text_offset"], len(text)]
        assert places == sorted(places)
        for token, place, after in zip(facts["tokens"], places, places[1:]):
            if not token.startswith("bytes:") and "\ufffd" not in token and "\ufffd" not in text[place:after]:
                assert text[place:after] == token or not token, (token, text, place)


def test_text_that_is_held_back_has_its_place() -> None:
    listing = Listing(0, stops=True)
    listing.said = 3
    assert listing.answer("", [Logprob(1, "\n", -1.0)])["text_offset"] == [3]  # a stop string may begin here
    assert listing.answer("\nab", [Logprob(2, "ab", -1.0)])["text_offset"] == [4]
    assert listing.answer("c", [Logprob(3, "c", -1.0)])["text_offset"] == [6]


# -- filling in --------------------------------------------------------------------------------------------------------------------


def marked(marks: tuple[str, str, str]) -> Any:
    ends = SpecialTokens({"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}, (*marks, "<|im_start|>", "<|im_end|>"))
    return train("bpe", TEXTS, 280, special=ends)


def test_a_suffix_stands_behind_what_is_filled_in(tmp_path: Path) -> None:
    for marks in MARKS:
        words = marked(marks)
        before, behind, between = (words.special_tokens[name] for name in marks)
        ids, ends = infill(words, "def f(", "):\n    return")
        assert ids == [before, *words.encode("def f("), behind, *words.encode("):\n    return"), between]
        assert {before, behind, between, words.eos} <= set(ends)
        assert infill(words, words.encode("def f("), "")[0] == [before, *words.encode("def f("), behind, between]
        spelt, _ = infill(words, f"a{marks[2]}b", marks[1])
        assert sum(id in (before, behind, between) for id in spelt) == 3, "what users spell stays text"
    with pytest.raises(ModelError, match="suffix"):
        infill(train("bpe", TEXTS, 280), "a", "b")

    folder = write_model(tmp_path / "base", bound=False)
    Contract(marked(MARKS[0])).save(folder)
    desk = Desk(load(folder), {})
    writing = desk.prepare(1, Write(prompt="def f(", suffix="):", sampling={"max_tokens": 2}))
    assert isinstance(writing, Writing) and writing.requests[0].prompt[-1] == desk.model.contract.tokenizer.token_id("<|fim_middle|>")


# -- what is refused ---------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_by_name(server: Running) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": ["a", 1]}, "prompt.1"),
        ({"prompt": [[1], []]}, "prompt.1"),
        ({"prompt": [[1], [True]]}, "prompt.1.0"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "a " * 600}, "prompt"),
        ({"prompt": ["a", "a " * 600]}, "prompt"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"n": 9}, "n"),
        ({"best_of": 0}, "best_of"),
        ({"suffix": "a", "echo": True}, "suffix"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"user": "a" * 257}, "user"),
    ]
    for body, param in cases:
        assert wrong(server, **body)["param"] == param, body
    assert "281" in wrong(server, prompt=[281])["message"]
    assert "echo" in wrong(server, model="t5", echo=True)["message"]
    assert "does not write" in wrong(server, model="bert")["message"]


def test_the_spelling_of_a_special_token_stays_text(server: Running, folders: dict[str, Path]) -> None:
    contract = Contract.open(folders["base"])
    for spelling in contract.tokenizer.special_tokens:
        found = asked(server, prompt=f"a{spelling}b", echo=True, logprobs=0, max_tokens=0)
        tokens = found["choices"][0]["logprobs"]["tokens"][len(contract.before) :]
        assert found["choices"][0]["text"] == f"a{spelling}b" == "".join(tokens)
        assert spelling not in tokens and len(tokens) > 3
        assert spelling not in asked(server, stop=spelling)["choices"][0]["text"]


def test_what_several_jobs_hold_is_freed_at_once() -> None:
    class Job(FakeJob):
        """Says one piece, and then nothing more."""

        said = False

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Piece:
            if self.said:
                await asyncio.Event().wait()
            self.said = True
            return Piece(0, "a", (1,))

        def ready(self) -> None:
            return None

    async def leave() -> None:
        parts = Parts([Part(None, Job(), Begun(1), "") for _ in range(3)])  # type: ignore[arg-type]
        events = parts.events()
        await anext(events)
        before = len(asyncio.all_tasks())
        parts.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before - 3 and all(part.job.closed for part in parts.parts)  # type: ignore[attr-defined]

    asyncio.run(leave())
