"""What is asked wrongly is refused where it is asked; what goes wrong with one request is its own alone, and it says how it ended."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quire
from quire.binding import Contract
from quire.engine.encoder import EncoderEngine
from quire.engine.engine import Engine
from quire.errors import DataError, ModelError, RecipeError
from quire.text.tokenizer import Tokenizer
from quire.types import Sampling
from tests.engine.conftest import Small, random_model
from tests.engine.test_engine import GREEDY, alone
from tests.small import write_model

Make = Callable[..., Engine]


class Form:
    """A constraint that allows everything, until it does what it is made to do."""

    complete, closed = True, False

    def __init__(self, vocab: int, act: Callable[[int], Any] = lambda asked: None) -> None:
        self.vocab, self.act, self.asked = vocab, act, 0

    def allowed(self) -> Any:
        self.asked += 1
        found = self.act(self.asked) if self.asked > 2 else None
        return np.ones(self.vocab, np.bool_) if found is None else found

    def accept(self, token: int) -> None: ...


def raising(error: Exception) -> Callable[[int], Any]:
    def act(asked: int) -> Any:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (raising(ValueError("no such state")), ValueError, "no such state"),
        (raising(IndexError("beyond")), IndexError, "beyond"),
        (lambda asked: np.ones(7, np.bool_), RecipeError, "was made for 7 ids"),
        (lambda asked: [1, 2], RecipeError, r"allows \[1, 2\]; allowed\(\) gives None or a numpy array of \d+ booleans"),
        (lambda asked: np.zeros(300, np.bool_)[:0], RecipeError, "was made for 0 ids"),
    ],
)
def test_an_error_of_one_constraint_is_that_requests_alone(act: Any, error: Any, message: str, small: Small, engine: Make) -> None:
    it, vocab = engine(), small.model.config.vocab
    bad = it.submit([1, 2, 3], Sampling(max_tokens=9, temperature=0), constraint=Form(vocab, act))
    good = it.submit([4, 5, 6], GREEDY)
    while it.busy:
        it.step()
    with pytest.raises(error, match=message):
        it.result(bad)
    assert it.result(good).ids == alone(small, [4, 5, 6], GREEDY).ids
    it.blocks.check([])


def test_a_form_that_allows_nothing_says_so(small: Small, engine: Make) -> None:
    it, vocab = engine(), small.model.config.vocab
    form = Form(vocab, lambda asked: np.zeros(vocab, np.bool_))
    form.complete = False
    request = it.submit([1], Sampling(max_tokens=9), constraint=form)
    with pytest.raises(RecipeError, match="the constraint allows no token here"):
        list(it.stream(request))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"prompt_logprobs": 1.5}, r"prompt_logprobs is 1\.5; allowed: 0 to \d+, whole numbers"),
        ({"prompt_logprobs": True}, "prompt_logprobs is True"),
        ({"stop_ids": (-5000,)}, r"stop_ids hold the id -5000; this model's ids go from 0 to"),
        ({"stop_ids": (-1,)}, "stop_ids hold the id -1"),
        ({"stop_ids": [1.5]}, r"stop_ids hold the id 1\.5"),
        ({"stop_ids": (10**6,)}, "stop_ids hold the id 1000000"),
        ({"stop_ids": None}, "stop_ids is None; allowed: a list of ids"),
        ({"tenant": None}, "tenant is None; allowed: a text"),
        ({"constraint": Future()}, r"the constraint is a Future.*constraint=future\.result\(\)"),
        ({"constraint": "yes"}, "the constraint is 'yes'; allowed: a form"),
        ({"after": "first"}, "first was not made by this engine"),
        ({"sampling": Sampling(stop=(text for text in ["a"]))}, "stop is <generator.*allowed: a tuple of strings"),  # type: ignore[arg-type]
        ({"sampling": Sampling(stop_ids=iter([1]))}, "stop_ids is <.*allowed: a tuple of ids"),  # type: ignore[arg-type]
        ({"sampling": Sampling(stop=None)}, "stop is None"),  # type: ignore[arg-type]
        ({"sampling": Sampling(logit_bias=((1,),))}, r"logit_bias is \(1,\); allowed: pairs"),  # type: ignore[arg-type]
        (
            {"sampling": Sampling(temperature=1e-40)},
            r"temperature is 1e-40; allowed: 0 \(greedy\) to 100, but nothing between 0 and 0\.000001",
        ),
        ({"sampling": Sampling(repetition_penalty=1e-40)}, r"repetition_penalty is 1e-40; allowed: 0\.01 to 100"),
        ({"sampling": ""}, "sampling is "),
    ],
)
def test_values_that_cannot_be_are_refused_where_they_are_asked(named: Any, message: str, engine: Make) -> None:
    it = engine()
    with pytest.raises(RecipeError, match=message):
        it.submit([1, 2], **{"sampling": GREEDY, **named})
    assert not it.busy and it.step() == 0


@pytest.mark.parametrize("prompt", [None, 5, [None], [True], [1.0], b"ab", ["a"]])
def test_prompts_that_are_none(prompt: Any, engine: Make) -> None:
    with pytest.raises(RecipeError, match=r"^the prompt (is|holds the id) "):
        engine().submit(prompt, GREEDY)


def test_numbers_of_numpy_and_torch_are_numbers(small: Small, engine: Make) -> None:
    it = engine()
    wanted = it.generate([[5, 6, 7]], Sampling(max_tokens=5, temperature=0.5, seed=1))[0].ids
    how = Sampling(max_tokens=np.int64(5), temperature=np.float32(0.5), seed=np.int32(1))  # type: ignore[arg-type]
    for prompt in (np.array([5, 6, 7]), torch.tensor([5, 6, 7]), (5, 6, 7)):
        assert it.generate([prompt], how)[0].ids == wanted  # type: ignore[list-item]
    biased = Sampling(max_tokens=5, temperature=0, logit_bias={9: 100.0})  # type: ignore[arg-type]
    assert biased.logit_bias == ((9, 100.0),)
    assert it.generate([[5]], biased)[0].ids == (9,) * 5
    it.submit([1], GREEDY, tenant="\ud800")
    list(it.stream(it.submit([1], GREEDY)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guess": "xyz"}, "guess is 'xyz'; allowed: \"lookup\""),
        ({"guess": ""}, "guess is ''"),
        ({"budget": 0}, "budget is 0; allowed: 1 and more"),
        ({"budget": -1}, "budget is -1"),
        ({"budget": 1.5}, r"budget is 1\.5"),
        ({"most": 0}, "most is 0; allowed: 1 and more"),
        ({"memory": float("nan")}, "memory is nan; allowed: 1 and more, whole numbers of bytes"),
        ({"memory": 1.5e6}, r"memory is 1500000\.0; allowed: 1 and more, whole numbers of bytes"),
        ({"memory": "1G"}, "memory is '1G'"),
        ({"exact": "yes"}, "exact is 'yes'; allowed: True, False"),
        ({"share": 1}, "share is 1; allowed: True, False"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str, small: Small) -> None:
    with pytest.raises(RecipeError, match=message):
        Engine(small, **options)


def test_what_is_no_opened_model_and_what_cannot_write_ahead(small: Small, tokenizer: Tokenizer) -> None:
    with pytest.raises(RecipeError, match=r"not 'runs/quickstart': give it what quire\.load\(path\) returns"):
        Engine("runs/quickstart")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="the draft model is of the kind encoder"):
        Engine(small, guess=random_model("bert", tokenizer.vocab_size))
    opened = Engine(small, guess=small)  # what `load` returns, as well as its model
    assert opened.generate([[1, 2]], GREEDY)[0].ids == alone(small, [1, 2], GREEDY).ids


@pytest.mark.parametrize("given", ["def ", None, 5])
def test_prompts_are_a_list(given: Any, engine: Make) -> None:
    with pytest.raises(RecipeError, match="the prompts are .*allowed: a list of texts"):
        engine().generate(given, GREEDY)


@pytest.mark.parametrize("n", ["2", 1.5, 0, None])
def test_n_is_a_number(n: Any, engine: Make) -> None:
    with pytest.raises(RecipeError, match=f"n is {n!r}; allowed: 1 and more"):
        engine().generate([[1]], GREEDY, n=n)


# -- whose request it is, and how it ended -----------------------------------------------------------------------------------------


def test_a_request_is_put_in_line_once_and_by_its_own_engine(small: Small, engine: Make) -> None:
    one, other = engine(), engine()
    request = one.submit([1, 2], GREEDY)
    with pytest.raises(RecipeError, match="the request is waiting already; each is put in line once"):
        one.add(request)
    for use in (other.add, other.stream, other.abort, other.result):
        with pytest.raises(RecipeError, match="was not made by this engine"):
            use(request)
    with pytest.raises(RecipeError, match="was not made by this engine"):
        other.submit([1], GREEDY, after=request)
    with pytest.raises(RecipeError, match=r"the request is waiting; its answer is not whole yet\. Call step\(\)"):
        one.result(request)
    list(one.stream(request))
    with pytest.raises(RecipeError, match="the request is finished already"):
        one.add(request)
    assert one.result(request).ids == alone(small, [1, 2], GREEDY).ids
    with pytest.raises(RecipeError, match="`after` names is not in line"):
        one.submit([1], GREEDY, after=one.request([2], GREEDY))
    assert not one.busy


def test_an_aborted_request_says_so(engine: Make) -> None:
    it = engine()
    request = it.submit([1, 2], Sampling(max_tokens=50, temperature=0))
    for _ in range(3):
        it.step()
    it.abort(request)
    with pytest.raises(RecipeError, match="the request was aborted after 3 tokens of its answer"):
        it.result(request)
    with pytest.raises(RecipeError, match="aborted"):
        list(it.stream(request))
    it.abort(request)
    assert not it.busy


def test_a_stream_that_nobody_begins_leaves_nothing_in_line(engine: Make) -> None:
    it = engine()
    request = it.submit([1, 2], GREEDY)
    chunks = it.stream(request)
    assert it.busy
    del chunks
    gc.collect()
    assert request.done and not it.busy
    it.blocks.check([])


def test_a_form_follows_one_request(small: Small, engine: Make) -> None:
    it, form = engine(), Form(small.model.config.vocab)
    request = it.submit([1], GREEDY, constraint=form)
    message = "this form follows another request already"
    with pytest.raises(RecipeError, match=message):
        it.submit([2], GREEDY, constraint=form)
    list(it.stream(request))
    with pytest.raises(RecipeError, match=message):  # it stands at its end
        engine().submit([2], GREEDY, constraint=form)
    again = Form(small.model.config.vocab)
    with pytest.raises(RecipeError, match=message):
        it.generate([[1], [2]], GREEDY, constraint=lambda: again)
    assert not it.busy


def test_a_text_of_another_encoder_engine_is_refused(tmp_path: Any) -> None:
    model = quire.load(write_model(tmp_path / "m", "bert"))
    one, other = EncoderEngine(model), EncoderEngine(model)
    reading = one.submit("a text")
    with pytest.raises(RecipeError, match="not in line here"):
        other.result(reading)
    with pytest.raises(RecipeError, match="not in line here"):
        other.abort(reading)
    assert one.result(reading).shape == (32,)


# -- weights that change under an engine -------------------------------------------------------------------------------------------


def _in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)


def _other_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data * 1.1


def _assigned(model: nn.Module) -> None:
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [_in_place, _other_data, _assigned])
def test_changed_weights_are_seen(change: Callable[[nn.Module], None], tokenizer: Tokenizer) -> None:
    own = Small(random_model("llama", tokenizer.vocab_size), Contract(tokenizer))
    it, prompt = Engine(own, memory=1 << 20), [3] * 40
    before = it.generate([prompt], GREEDY)
    change(own.model)
    request = it.submit(prompt, GREEDY)
    list(it.stream(request))
    assert request.cached == 0 and it.result(request).ids == alone(own, prompt, GREEDY).ids != before[0].ids


def test_weights_of_another_number_type_are_refused(tokenizer: Tokenizer) -> None:
    own = Small(random_model("llama", tokenizer.vocab_size), Contract(tokenizer))
    it = Engine(own, memory=1 << 20)
    own.model.to(torch.bfloat16)
    with pytest.raises(ModelError, match="the model's weights are bfloat16 on cpu now; they were float32 on cpu when this engine was made"):
        it.submit([1], GREEDY)
    assert not it.busy


def test_what_is_changed_unseen_can_be_forgotten(tokenizer: Tokenizer) -> None:
    own = Small(random_model("llama", tokenizer.vocab_size), Contract(tokenizer))
    it, prompt = Engine(own, memory=1 << 20), [3] * 40
    it.generate([prompt], GREEDY)
    for p in own.model.parameters():
        p.data.mul_(1.1)  # torch does not count this
    it.forget()
    request = it.submit(prompt, GREEDY)
    list(it.stream(request))
    assert request.cached == 0 and it.result(request).ids == alone(own, prompt, GREEDY).ids


# -- what models are asked ---------------------------------------------------------------------------------------------------------


def test_turns_may_be_dictionaries_and_what_is_none_is_named(tmp_path: Any) -> None:
    model = quire.load(write_model(tmp_path / "m", template=True, context=128))
    turns = [{"role": "user", "content": "def a"}]
    assert model.chat(turns, GREEDY).ids == model.chat([quire.Message("user", "def a")], GREEDY).ids  # type: ignore[list-item, union-attr]
    for wrong, message in [
        ("hi", "a list of messages is needed, not 'hi'"),
        ([{"role": "usr", "content": "a"}], "message 0 has the role 'usr'; allowed: system, user, assistant, tool"),
        ([{"role": "user", "contents": "a"}], "message 0 has the field 'contents'.*Did you mean 'content'"),
        ([{"role": "user", "content": 5}], "message 0 has the content '5', which is no text"),
        (["hi"], "message 0: a Message is needed"),
    ]:
        with pytest.raises(DataError, match=message):
            model.chat(wrong, GREEDY)  # type: ignore[arg-type, union-attr]


def test_packed_weights_are_not_saved(tmp_path: Any) -> None:
    model = quire.load(write_model(tmp_path / "m"), quant="int8")
    with pytest.raises(RecipeError, match="a model with packed weights .* cannot be saved"):
        model.save(tmp_path / "again")


def test_typical_sampling_of_what_has_no_probability_does_not_warn(small: Small, engine: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(engine().generate([[1, 2]], Sampling(max_tokens=4, typical_p=0.5, temperature=0.001, seed=1))[0].ids) == 4
