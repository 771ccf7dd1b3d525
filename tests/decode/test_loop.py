"""The plain loop: every way of computing it gives the same text, and it stops where and as it should."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.decode.loop import Forward, HeldText, complete, decode
from quire.decode.step import understands
from quire.errors import ContextError, RecipeError
from quire.nn.config import FFN, Attn, Layer, LMHead, ModelConfig, Norm, Relative, Rope, Stack
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.types import Sampling

VOCAB = 40
GREEDY = Sampling(temperature=0.0, max_tokens=12)
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"
RMS, LAYER_NORM = Norm("rms", 1e-6), Norm("layer", 1e-5)


class Letters:
    """A vocabulary of single letters."""

    def decode(self, ids, special=False):
        return "".join(ALPHABET[i] for i in ids)

    def stream(self):
        return self

    def push(self, token):
        return ALPHABET[token]

    def end(self):
        return ""


def build(kind: str, context: int = 32) -> Transformer:
    llama = Layer(Attn(4, 2, 8, rope=Rope()), FFN(48, "silu", gated=True), RMS)
    gpt2 = Layer(Attn(4, 4, 8, bias=True, out_bias=True), FFN(64, "gelu_tanh", bias=True), LAYER_NORM)
    looking = Attn(4, 4, 8, causal=False, scale=1.0)
    encoder = Stack((Layer(looking, FFN(48, "relu"), RMS),) * 2, RMS, Relative())
    decoder = Stack((Layer(Attn(4, 4, 8, scale=1.0), FFN(48, "relu"), RMS, cross=looking),) * 2, RMS, Relative())
    config = {
        "llama": ModelConfig(32, VOCAB, context, decoder=Stack((llama,) * 2, RMS), head=LMHead(tied=False)),
        "gpt2": ModelConfig(32, VOCAB, context, decoder=Stack((gpt2,) * 2, LAYER_NORM, positions=context)),
        "t5": ModelConfig(32, VOCAB, context, encoder, decoder, LMHead(tied=False), init="t5"),
    }[kind]
    model = Transformer(config)
    generator = torch.Generator().manual_seed(7)
    initialise(model, generator)
    with torch.no_grad():
        for p in model.parameters():  # far from the tidy first weights: biases and norms too, and logits well apart
            p.add_(torch.randn(p.shape, generator=generator) * 0.4)
    return model.eval()


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5"])
def model(request) -> Transformer:
    return build(request.param)


def run(model: Transformer, prompt=(5, 9, 1, 30), sampling=GREEDY, **options):
    source = [3, 8, 8, 21, 2] if model.config.encoder else None
    return complete(decode(model, prompt, sampling, Letters(), source=source, **options), len(prompt))


def test_every_way_gives_the_same_tokens_and_log_probabilities(model):
    for sampling in (GREEDY, Sampling(temperature=0.9, seed=4, top_k=20, max_tokens=12, repetition_penalty=1.2)):
        sampling = Sampling(**{**sampling.__dict__, "logprobs": 2})
        lean, plain, uncached = (run(model, sampling=sampling, way=way) for way in ("lean", "plain", "uncached"))
        assert lean.ids == plain.ids == uncached.ids and len(set(lean.ids)) > 3
        for a, b, c in zip(lean.logprobs, plain.logprobs, uncached.logprobs):
            assert a.logprob == pytest.approx(c.logprob, abs=1e-5) and b.logprob == pytest.approx(c.logprob, abs=1e-5)
            assert [t[0] for t in a.top] == [t[0] for t in c.top]


def test_the_lean_step_knows_what_it_understands():
    assert understands(build("llama")) and understands(build("gpt2"))
    assert not understands(build("t5"))
    assert not understands(build("llama").to(torch.bfloat16))
    wrapped = build("llama")
    wrapped.decoder.layers[0].attn.q = torch.nn.Sequential(wrapped.decoder.layers[0].attn.q, torch.nn.Identity())
    assert not understands(wrapped)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_lean_step_equals_the_forward_at_every_position(kind):
    model = build(kind)
    ids = torch.randint(VOCAB, (1, 32), generator=torch.Generator().manual_seed(0))
    forward = Forward(model, 32)
    assert forward.step is not None
    with torch.inference_mode():
        expected = model.head(model.decode(ids))[0]
        rows = [forward.step(int(token)) for token in ids[0]]
    torch.testing.assert_close(torch.stack(rows), expected, atol=1e-5, rtol=1e-5)


def test_streaming_gives_the_whole_text_and_the_reason_once(model):
    source = [3, 8] if model.config.encoder else None
    chunks = list(decode(model, [5, 9], GREEDY, Letters(), source=source))
    assert [c.finish_reason for c in chunks] == [None] * 11 + ["length"]
    assert "".join(c.text for c in chunks) == Letters().decode([i for c in chunks for i in c.ids])


def test_a_stop_string_ends_the_text_and_never_shows_even_in_part():
    model = build("llama")
    free = run(model)
    stop = free.text[4:7]
    assert stop not in free.text[:6]
    chunks = list(decode(model, [5, 9, 1, 30], Sampling(temperature=0.0, max_tokens=12, stop=(stop, "zzzz")), Letters()))
    assert "".join(c.text for c in chunks) == free.text[:4]
    assert chunks[-1].finish_reason == "stop"
    assert [i for c in chunks for i in c.ids] == list(free.ids[:7])  # the ids that spelled it are told


def test_text_held_back_for_a_stop_string_comes_out_when_it_was_none():
    model = build("llama")
    free = run(model)
    result = run(model, sampling=Sampling(temperature=0.0, max_tokens=12, stop=(free.text[-2:] + "!",)))
    assert result.text == free.text and result.finish_reason == "length"


def test_stop_ids_end_the_text_and_are_not_part_of_it(model):
    free = run(model)
    place = next(i for i in range(3, 12) if free.ids[i] not in free.ids[:i])
    for result in (
        run(model, stop_ids=[free.ids[place]]),
        run(model, sampling=Sampling(temperature=0.0, max_tokens=12, stop_ids=(free.ids[place],))),
    ):
        assert result.finish_reason == "stop"
        assert result.text == free.text[:place] and result.ids == free.ids[: place + 1]


def test_min_tokens_puts_off_stop_ids_and_stop_strings():
    model = build("llama")
    free = run(model)
    first = free.ids[0]
    result = run(model, sampling=Sampling(temperature=0.0, max_tokens=12, min_tokens=5, stop_ids=(first,)))
    assert len(result.ids) >= 5 and first not in result.ids[:5]
    result = run(model, sampling=Sampling(temperature=0.0, max_tokens=12, min_tokens=8, stop=(free.text[2:4],)))
    assert result.text.startswith(free.text[:8])


def test_the_text_ends_with_the_reason_context_at_the_last_position(model):
    result = run(model, prompt=[1] * 28, sampling=Sampling(temperature=0.0, max_tokens=100))
    assert result.finish_reason == "context" and len(result.ids) == 4
    assert run(model, prompt=[1] * 28, sampling=Sampling(temperature=0.0, max_tokens=4)).finish_reason == "length"


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers_before_any_work():
    model = build("llama")
    with pytest.raises(ContextError, match=r"The prompt has 35 tokens; the model has 32 positions.*Shorten the prompt by 4 or more"):
        decode(model, [1] * 35, GREEDY, Letters())
    with pytest.raises(ContextError, match=r"The prompt has 32 tokens.*needs at least one"):
        decode(model, [1] * 32, GREEDY, Letters())
    with pytest.raises(ContextError, match="The prompt is empty"):
        decode(model, [], GREEDY, Letters())
    with pytest.raises(ContextError, match="The source has 33 tokens; the model has 32 positions"):
        decode(build("t5"), [0], GREEDY, Letters(), source=[1] * 33)
    with pytest.raises(RecipeError, match="stop_ids"):
        decode(model, [1], Sampling(stop_ids=(VOCAB,)), Letters())


def test_a_model_in_training_is_decoded_without_dropout_and_left_as_it_was():
    model = build("llama")
    expected = run(model)
    model.train()
    chunks = decode(model, [5, 9, 1, 30], GREEDY, Letters())
    next(chunks)
    chunks.close()  # abandoned half-way
    assert model.training
    assert run(model) == expected and model.training
    assert not torch.is_inference_mode_enabled()


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_held_text_shows_exactly_what_stands_before_the_first_stop_string(pieces, stops):
    held, shown, stopped = HeldText(stops), "", False
    for piece in pieces:
        text, stopped = held.push(piece)
        shown += text
        assert not any(stop in shown for stop in stops)
        if stopped:
            break
    else:
        shown += held.rest()
    # The one that is complete first counts; of two that end together, the one that begins first.
    whole = "".join(pieces)
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    assert stopped == bool(ends)
    assert whole.startswith(shown)
    if not ends:
        assert shown == whole


def test_held_text_keeps_no_more_than_it_must():
    held = HeldText(["###", "#!"])
    assert held.push("a##") == ("a", False)
    assert held.push("b#") == ("##b", False)
    assert held.push("!tail") == ("", True)
    letters = random.Random(0)
    assert HeldText(["xyz"]).push("".join(letters.choices("abc", k=50)))[0] != ""


def test_a_small_model_steps_on_one_thread_and_the_callers_number_is_kept():
    model, threads = build("llama"), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        seen, inside = set(), []
        norm = model.decoder.norm.register_forward_hook(lambda *_: inside.append(torch.get_num_threads()))
        for _ in decode(model, [5, 9], GREEDY, Letters(), way="plain"):
            seen.add(torch.get_num_threads())
        norm.remove()
        assert seen == {2} and inside == [2] + [1] * 11  # the prompt, then token by token
    finally:
        torch.set_num_threads(threads)
