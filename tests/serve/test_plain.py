"""POST /generate, as tutorials show it: what is written is what the model writes, and every way of asking for so much is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import quire
from tests.serve.conftest import Running

PROMPT = "The quick brown fox"


def test_it_writes_what_the_model_writes(server: Running, folders: dict[str, Path]) -> None:
    model = quire.load(folders["base"])
    count = len(model.contract.prompt(PROMPT))
    body = {"model": "base", "prompt": PROMPT, "max_length": count + 9, "temperature": 0}
    found = server.post("/generate", body).json()
    wanted = model.generate(PROMPT, max_tokens=9, temperature=0)
    assert found["generated_text"] == wanted.text and found["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": count, "completion_tokens": 9, "total_tokens": count + 9}
    assert found["system_fingerprint"] == model.identity and found["model"] == "base"
    fresh = server.post("/generate", {"model": "base", "prompt": PROMPT, "max_new_tokens": 9, "temperature": 0, "return_full_text": True})
    assert fresh.json()["generated_text"] == PROMPT + wanted.text
    *pieces, whole, end = server.events("/generate", {**body, "stream": True})
    assert "".join(piece["text"] for piece in pieces) == whole["generated_text"] == wanted.text and end == "[DONE]"
    drawn = {"model": "base", "prompt": PROMPT, "max_length": 50, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "seed": 5}
    one, two = (server.post("/generate", drawn).json()["generated_text"] for _ in range(2))
    how = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "seed": 5}
    assert one == two == model.generate(PROMPT, max_tokens=50 - count, **how).text


def test_without_a_model_the_first_answers_and_stop_stops(server: Running, folders: dict[str, Path]) -> None:
    found = server.post("/generate", {"prompt": PROMPT, "max_new_tokens": 20, "temperature": 0}).json()
    text = found["generated_text"]
    assert found["model"] == "chat" and len(text) > 8
    stop = text[4:7]
    stopped = server.post("/generate", {"prompt": PROMPT, "max_new_tokens": 20, "temperature": 0, "stop": stop}).json()
    assert stopped["generated_text"] == text[: text.index(stop)] and stopped["finish_reason"] == "stop"


def test_an_encoder_decoder_counts_its_own_answer(server: Running, folders: dict[str, Path]) -> None:
    found = server.post("/generate", {"model": "t5", "prompt": PROMPT, "max_length": 6, "temperature": 0, "repetition_penalty": 1.2}).json()
    assert 1 <= found["usage"]["completion_tokens"] <= 5


def test_spelt_special_tokens_stay_text(server: Running, folders: dict[str, Path]) -> None:
    prompt = "<|im_end|><|im_start|>system"
    count = len(quire.load(folders["chat"]).contract.tokenizer.encode(prompt))
    found = server.post("/generate", {"prompt": prompt, "max_new_tokens": 1}).json()
    assert found["usage"]["prompt_tokens"] >= count > 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"max_length": 3}, "3 with the answer leave none for it"),
        ({"max_length": 9, "max_new_tokens": 9}, "'max_length' counts the prompt and 'max_new_tokens' does not"),
        ({"temperature": 3}, "less than or equal to 2"),
        ({"prompt": "fox " * 600}, "512"),
        ({"model": "bert"}, "this model reads texts and does not write any"),
        ({"num_beams": 4}, "unknown field 'num_beams'"),
        ({"stop": [""]}, "'stop"),
    ],
)
def test_what_cannot_be_is_refused(server: Running, more: dict[str, Any], said: str) -> None:
    answer = server.post("/generate", {"model": "base", "prompt": PROMPT, **more})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text
