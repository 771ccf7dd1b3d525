"""Conversations as examples: which tokens are learned, what is cut, what is refused, rows that share one, answers as `quire chat` gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import quire
from quire import recipe as recipes
from quire.binding import Contract
from quire.data import pydoc_questions
from quire.data.rows import load
from quire.errors import DataError, RecipeError
from quire.families import ModelFolder
from quire.nn.batch import IGNORE
from quire.nn.config import FFN, Attn, Layer, ModelConfig, MoE, Norm, Rope, Stack
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.tasks.tuning.chat import Chat
from quire.tasks.tuning.conversation import last_answer
from quire.tasks.tuning.example import Example, join
from quire.tasks.tuning.schemas import Chat as ChatRow
from quire.tasks.tuning.schemas import Prompt, Row
from quire.text.template import CHATML, Template
from quire.text.tokenizer import Tokenizer
from quire.text.training import train as train_tokenizer
from quire.train.folder import RunFolder
from quire.train.recipe import AdaptPart, DataPart, ModelPart, OptimPart, TaskPart, TrainPart, TrainRecipe
from quire.train.run import train
from quire.types import Message, Sampling
from tests.small import TEXTS, write_model

TOOLS = ({"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {"key": {"type": "string"}}}}},)
CALL = {"type": "function", "id": "1", "function": {"name": "lookup", "arguments": '{"key": "fox"}'}}


def chat(*texts: str, system: str = "", where: str = "rows.jsonl:1") -> ChatRow:
    """user, assistant, user, assistant ..."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[place % 2], text) for place, text in enumerate(texts))  # type: ignore[arg-type]
    return ChatRow(((Message("system", system),) if system else ()) + turns, where=where)


ROWS: list[Row] = [
    chat("What jumps?", "The quick brown fox."),
    chat("Over whom?", "The lazy dog.", "Who?", "The fox", "And?", "That is all, señor.", system="Answer in short."),
    chat("def", "parse_line(line)"),
    ChatRow(
        (Message("user", "Find it"), Message("assistant", "", (CALL,)), Message("tool", "a fox", (), "1"), Message("assistant", "A fox.")),
        TOOLS,
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("chat") / "model", template=True, context=512)


@pytest.fixture(scope="module")
def contract(folder: Path) -> Contract:
    return Contract.open(folder)


@pytest.fixture
def model(folder: Path) -> Transformer:
    return ModelFolder.open(folder).build()


def task(contract: Contract, rows: Sequence[Row] = ROWS, context: int = 512, **more) -> Chat:
    return Chat(contract, context, rows, **more)


def learned(one: Example, words: Tokenizer) -> str:
    """All that is learned of an example, in order."""
    labels = one.labels["lm"]
    return words.decode(labels[labels != IGNORE].tolist(), special=True)


# -- which tokens are learned ------------------------------------------------------------------------------------------------------


def test_labels_are_those_of_transformers(folder: Path, contract: Contract) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for row, one in zip(ROWS, task(contract).examples(ROWS)):
        assert isinstance(row, ChatRow)
        turns = [
            {"role": turn.role, "content": turn.content} | ({"tool_calls": list(turn.tool_calls)} if turn.tool_calls else {})
            for turn in row.messages
        ]
        found = theirs.apply_chat_template(
            turns, tools=list(row.tools) or None, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )
        ids, mask = np.array(found["input_ids"]), np.array(found["assistant_masks"])
        size = len(one.ids)
        assert one.ids.tolist() == ids[:size].tolist() and not mask[size:].any()
        wanted = np.where(mask[1:size] == 1, ids[1:size], IGNORE)
        assert one.labels["lm"].tolist() == [*wanted, IGNORE]


def test_the_loss_is_that_of_transformers(folder: Path, contract: Contract, model: Transformer) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = task(contract)
    batch = made.batch(made.examples(ROWS))
    labels = torch.full_like(batch.tokens, IGNORE)
    labels[:, 1:] = batch.labels["lm"][:, :-1]  # theirs are shifted inside
    assert batch.keep is not None
    wanted = theirs(input_ids=batch.tokens, attention_mask=batch.keep.long(), labels=labels).loss
    total, count = made.terms(model, batch)["lm"]
    assert count == made.counts(batch)["lm"]
    assert float(total.detach()) / count == pytest.approx(float(wanted.detach()), rel=1e-5)
    judged = made.evaluate(model, ROWS)
    assert judged.figures["loss"] == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert judged.figures["perplexity"] == pytest.approx(float(wanted.detach().exp()), rel=1e-5)


def test_every_turn_of_the_assistant_is_learned_with_its_end_and_nothing_else(contract: Contract) -> None:
    words = contract.tokenizer
    found = [learned(one, words) for one in task(contract).examples(ROWS)]
    assert found[0] == "The quick brown fox.<|im_end|>"
    assert found[1] == "The lazy dog.<|im_end|>The fox<|im_end|>That is all, señor.<|im_end|>"
    assert found[3] == '<tool_call>{"name": "lookup", "arguments": {"key": "fox"}}</tool_call><|im_end|>A fox.<|im_end|>'


def test_padding_is_never_learned_though_it_is_the_end_of_text(contract: Contract) -> None:
    words = contract.tokenizer
    assert words.pad == words.eos  # the usual case in which ends of texts lose their labels
    base = replace(contract, template=None)
    made = task(base, [Prompt("a", " b")])
    batch = made.batch(made.examples([Prompt("The quick brown", " fox jumps over the lazy dog. It does."), Prompt("def", " x")]))
    assert batch.keep is not None
    assert (batch.labels["lm"][~batch.keep] == IGNORE).all()
    assert all((row == words.eos).sum() == 1 for row in batch.labels["lm"])


def test_a_plain_prompt_begins_and_ends_as_a_text(contract: Contract) -> None:
    base = replace(contract, template=None)
    row = Prompt("The quick", " brown fox")
    made = task(base, [row])
    (one,) = made.examples([row])
    words = base.tokenizer
    prompt, rest = base.prompt(row.prompt), words.encode(row.completion)
    assert one.ids.tolist() == [*prompt, *rest, words.eos]
    assert one.ids.tolist().count(words.bos) == 2  # what stands before a text, and its end: here they are one id
    assert learned(one, words) == " brown fox<|endoftext|>"
    assert made.reader.prompt(row) == prompt


def test_a_seam_that_the_tokenizer_joins_is_read_as_it_is_served(contract: Contract) -> None:
    base = replace(contract, template=None)
    words = base.tokenizer
    row = Prompt("The qui", "ck brown")
    whole = words.encode("The quick brown")
    assert words.encode(row.prompt) != whole[: len(words.encode(row.prompt))]
    (one,) = task(base, [row]).examples([row])
    assert one.ids.tolist()[: len(base.prompt(row.prompt))] == base.prompt(row.prompt)
    assert words.decode(one.ids.tolist()) == "The quick brown"


def test_prompts_go_through_the_template_of_a_model_that_has_one(contract: Contract) -> None:
    row = Prompt("What jumps?", "The fox.")
    (one,) = task(contract, [row]).examples([row])
    assert "as a question and its answer, through the model's chat template" in one.notes[0]
    assert one.ids.tolist() == task(contract).examples([chat("What jumps?", "The fox.")])[0].ids.tolist()


def test_a_base_model_with_marks_of_turns_gets_a_template(tmp_path: Path) -> None:
    base = Contract.open(write_model(tmp_path / "base"))
    assert base.template is None
    made = task(base)
    assert made.contract.template is not None and made.contract.template.source == CHATML
    assert base.tokenizer.special_tokens["<|im_end|>"] in (made.contract.stop_ids or ())
    assert task(base, [Prompt("a", "b")]).contract.template is None


def test_a_base_model_without_marks_is_refused_conversations() -> None:
    words = train_tokenizer("bpe", TEXTS, 400, special="denoise")
    with pytest.raises(DataError, match=r"no chat template.*chat_template\.jinja, or give rows with the columns prompt and completion"):
        task(Contract(words))


# -- what would teach the wrong thing -------------------------------------------------------------------------------------------------


def test_a_template_that_teaches_another_thing_than_it_serves(contract: Contract) -> None:
    source = CHATML.replace("{%- generation %}", "{{- '- ' }}{%- generation %}")
    wrong = replace(contract, template=Template(source, contract.tokenizer.special))
    with pytest.raises(DataError, match=r"4 of 4 rows cannot be learned from(.|\n)*something else before an answer"):
        task(wrong).examples(ROWS)


def test_long_conversations_lose_their_oldest_turns_first(contract: Contract) -> None:
    long = chat(*(f"{word} {number}" for number in range(6) for word in ("Question", "Answer")), system="Count.")
    made = task(contract)
    (whole,) = made.examples([long])
    (shorter,) = task(contract, context=len(whole.ids) - 1).examples([long])
    text = contract.tokenizer.decode(shorter.ids.tolist(), special=True)
    assert text.startswith("<|im_start|>system\nCount.<|im_end|>\n<|im_start|>user\nQuestion 1<|im_end|>")
    assert learned(shorter, contract.tokenizer).endswith("Answer 5<|im_end|>")
    assert shorter.cut == len(whole.ids) - len(shorter.ids) > 0
    assert "the end of its answer is kept" in shorter.notes[0] and not whole.notes


def test_an_answer_cut_at_its_end_learns_no_end(contract: Contract) -> None:
    row = chat("Who?", "The quick brown fox jumps over the lazy dog, and over the other one.")
    (whole,) = task(contract).examples([row])
    (cut,) = task(contract, context=len(whole.ids) - 4).examples([row])
    assert cut.cut == 4 and "<|im_end|>" not in learned(cut, contract.tokenizer) and "teaches no end" in cut.notes[0]
    assert learned(whole, contract.tokenizer).startswith(learned(cut, contract.tokenizer))
    with pytest.raises(DataError, match=r"1 of 1 rows.*\n  rows\.jsonl:1: \d+ tokens, and 40 are read at once\. .*'cut' or 'head-tail'"):
        task(contract, context=40, long="error").examples([row])


def test_a_middle_that_is_cut_out_is_not_learned_across(contract: Contract) -> None:
    row = chat("Who? " * 20, "The quick brown fox jumps over the lazy dog, " * 3)
    (whole,) = task(contract).examples([row])
    (cut,) = task(contract, context=60, long="head-tail").examples([row])
    assert len(cut.ids) == 60 and learned(cut, contract.tokenizer).endswith("<|im_end|>")
    assert cut.ids.tolist() == [*whole.ids[:30], *whole.ids[-30:]] and cut.labels["lm"][29] == IGNORE
    assert cut.labels["lm"][30:].tolist() == whole.labels["lm"][-30:].tolist()


def test_rows_of_which_no_answer_is_left_are_refused_with_their_places(contract: Contract) -> None:
    rows = [chat("Who? " * 60, "Me.", where=f"rows.jsonl:{line}") for line in range(1, 8)]
    with pytest.raises(DataError, match=r"7 of 8 rows cannot be learned from") as refusal:
        task(contract, context=50).examples([*rows, ROWS[0]])
    said = str(refusal.value)
    assert "rows.jsonl:1: nothing of its answer is left within 50 tokens" in said and "2 more: rows.jsonl:6, rows.jsonl:7" in said
    assert len(task(contract, context=50, long="head-tail").examples(rows)) == 7


# -- rows that share one ----------------------------------------------------------------------------------------------------------


def experts(vocab: int) -> Transformer:
    ffn = MoE(4, 2, FFN(24, "silu", gated=True), balance=0.1)
    layer = Layer(Attn(4, 2, 8, rope=Rope()), ffn, Norm("rms", 1e-5))
    made = Transformer(ModelConfig(32, vocab, 512, decoder=Stack((layer,) * 2, final_norm=Norm("rms", 1e-5))))
    initialise(made, torch.Generator().manual_seed(0))
    return made


def gradients(made: Chat, model: Transformer, examples: Sequence[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    batch = made.batch(examples)
    model.zero_grad()
    total, count = made.terms(model, batch)["lm"]
    (total / count).backward()
    return float(total.detach() / count), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_packed_rows_learn_what_they_learn_alone(contract: Contract, model: Transformer, kind: str) -> None:
    made = task(contract)
    model = experts(contract.tokenizer.vocab_size) if kind == "experts" else model
    examples = made.examples(ROWS)
    alone = gradients(made, model, examples)
    packed = gradients(made, model, [join(examples[:2]), join(examples[2:])])
    batch = made.batch([join(examples[:2])])
    assert batch.positions is not None and (batch.positions[0] == 0).sum() >= 2
    assert packed[0] == pytest.approx(alone[0], rel=1e-5)
    for name, wanted in alone[1].items():
        torch.testing.assert_close(packed[1][name], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_padding_changes_nothing(contract: Contract, model: Transformer, kind: str) -> None:
    """The forward knows nothing of padding, which stands where no token of a text looks; the experts' balance does not count it."""
    made = task(contract)
    model = experts(contract.tokenizer.vocab_size) if kind == "experts" else model
    examples = made.examples([ROWS[0], ROWS[0], ROWS[0]])
    narrow, wide = made.batch(examples), made.batch([*examples, made.examples([ROWS[1]])[0]])
    wide = wide.split(3)[0]
    padded = replace(
        narrow,
        tokens=torch.nn.functional.pad(narrow.tokens, (0, 40)),
        labels={"lm": torch.nn.functional.pad(narrow.labels["lm"], (0, 40), value=IGNORE)},
        keep=torch.arange(narrow.tokens.shape[1] + 40).expand(3, -1) < len(examples[0].ids),
    )
    wanted = made.terms(model, narrow)["lm"]
    for batch in (wide, padded):
        total, count = made.terms(model, batch)["lm"]
        assert count == wanted[1] and float(total.detach()) == pytest.approx(float(wanted[0].detach()), rel=1e-5)


# -- answers ------------------------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_opened_model(folder: Path, contract: Contract, model: Transformer) -> None:
    opened = quire.load(folder)
    found = task(contract, generate_rows=10).evaluate(model, ROWS)
    for row, said in zip(ROWS, found.found):
        assert isinstance(row, ChatRow)
        done = opened.chat(list(row.messages[:-1]), Sampling(max_tokens=64, temperature=0), tools=list(row.tools), tool_choice="auto")
        assert (said["answer"], said["ended"]) == (done.text, done.finish_reason == "stop") or row.tools
    assert set(found.intervals) == {"loss", "accuracy", "rouge_l", "exact", "ended", "within_2x"}
    assert found.figures["length_ratio"] > 0
    none = task(contract, generate_rows=0).evaluate(model, ROWS)
    assert set(none.figures) == {"loss", "perplexity", "accuracy"} and all("answer" not in one for one in none.found)


def test_a_model_that_gives_no_numbers_has_a_figure_that_is_none(folder: Path, contract: Contract) -> None:
    model = ModelFolder.open(folder).build()
    with torch.no_grad():
        model.decoder.norm.weight.fill_(float("nan"))  # type: ignore[union-attr]
    found = task(contract).evaluate(model, ROWS)
    assert np.isnan(found.figures["loss"]) and not found.intervals and len(found.found) == len(ROWS)


def test_rows_to_be_answered_are_spread_and_whole(contract: Contract, model: Transformer) -> None:
    rows: list[Row] = [chat(f"Count to {number}", f"{number}") for number in range(9)]
    long = chat("Who? " * 4, "The quick brown fox jumps over the lazy dog. " * 8)
    made = task(contract, context=60, generate_rows=3)
    found = made.evaluate(model, [long, *rows]).found
    assert [place for place, one in enumerate(found) if "answer" in one] == [1, 5, 9]
    assert len(found) == 10 and all(one["loss"] > 0 for one in found)
    shown = made.samples(model, rows)
    assert len(shown) == 4 and shown[0] == {"prompt": "Count to 0\n", "text": shown[0]["text"], "wanted": "0"}


def test_the_last_answer_is_what_was_wanted(contract: Contract) -> None:
    found = [contract.tokenizer.decode(last_answer(one).tolist(), special=True) for one in task(contract).examples(ROWS)]
    assert found[:3] == ["The quick brown fox.<|im_end|>", "That is all, señor.<|im_end|>", "parse_line(line)<|im_end|>"]


# -- a whole run ----------------------------------------------------------------------------------------------------------------------


def recipe(tmp_path: Path, start: Path, rows: Sequence[dict[str, object]], **changes: object) -> TrainRecipe:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = TrainRecipe(
        out=str(tmp_path / "run"),
        model=ModelPart(start=str(start)),
        data=DataPart(sources=(str(data),), eval=(str(data),), allow=("test-rows-leak",)),
        task=TaskPart(name="chat"),
        adapt=AdaptPart(),
        optim=OptimPart(lr=1e-2, weight_decay=0.0, schedule="linear", final=0.0),
        train=TrainPart(steps=60, batch=4, dtype="fp32", threads=1, compile="off", eval_every=30),
    )
    for key, value in changes.items():
        made = recipes.replace(made, key.replace("__", "."), value)
    return made


ASKED = {"What jumps?": "The fox.", "Over whom?": "The lazy dog.", "Which parser?": "parse_line", "Who asks?": "señor"}
TALKS = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in ASKED.items()]


@pytest.mark.parametrize("pack", [False, True])
def test_a_tuned_base_model_answers_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch, pack: bool) -> None:
    import io

    from quire.cli.main import main

    start = write_model(tmp_path / "base", context=64)
    result = train(recipe(tmp_path, start, TALKS, data__pack=pack, **({"train__batch": 1} if pack else {})))
    figures = result.evaluation["held_out"]
    assert (figures["exact"], figures["ended"], figures["rouge_l"] > 0.7) == (1.0, 1.0, True)
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers_held_out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(one["wanted"], one["answer"], one["ended"]) for one in answers] == [([text], text, True) for text in ASKED.values()]
    shown = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert {row["step"] for row in shown} == {0, 30, 60}
    last = {row["prompt"]: (row["text"], row["wanted"]) for row in shown if row["step"] == 60}
    assert last == {f"{asked}\n": (text, text) for asked, text in ASKED.items()}
    # served: the same template, the same stop rule
    assert result.model is not None
    monkeypatch.setattr("sys.stdin", io.StringIO("What jumps?\nOver whom?\n"))
    assert main(["chat", str(result.model), "--temperature", "0"]) == 0
    assert "The fox.\n" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_an_adapter_learns_to_answer_too(tmp_path: Path, method: str) -> None:
    start = write_model(tmp_path / "base", template=True, context=64)
    changes = {
        "adapt__method": method,
        **({"adapt__tokens": 4} if method == "prompt" else {}),
        "train__steps": 12,
        "train__eval_every": 12,
        "optim__lr": 3e-2,
    }
    result = train(recipe(tmp_path, start, TALKS, **changes))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    before = next(line["loss"] for line in lines if line["kind"] == "step")
    assert result.evaluation["held_out"]["loss"] < before


def test_a_resumed_run_says_its_first_samples_once(tmp_path: Path) -> None:
    from quire.train.run import resume

    start = write_model(tmp_path / "base", context=64)
    made = recipe(tmp_path, start, TALKS, train__steps=4, train__eval_every=2)
    train(made, stop_at=1)
    RunFolder.open(tmp_path / "run")
    resume(tmp_path / "run")
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["step"] for line in lines] == [0] * 4 + [2] * 4 + [4] * 4


def test_only_decoders_learn_to_answer(tmp_path: Path) -> None:
    start = write_model(tmp_path / "bert", "bert")
    with pytest.raises(RecipeError, match=r"task\.name = 'chat' is for models of kind decoder; .* is of kind encoder"):
        train(recipe(tmp_path, start, [{"prompt": "a", "completion": "b"}]))


def test_questions_about_the_standard_library_are_split_by_what_they_ask_about(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(pydoc_questions.rows(texts))
    monkeypatch.setattr(pydoc_questions, "rows", lambda: iter(rows))
    sets = load(["pydoc"], share=0.3)
    groups = [{row.group for row in side} for side in (sets.train, sets.held_out)]
    assert len({row.where for row in [*sets.train, *sets.held_out]}) == len(rows) and groups[0] and groups[1] and not groups[0] & groups[1]
    with pytest.raises(DataError, match=r"data\.columns does not go with the source 'pydoc'"):
        load(["pydoc"], columns=["text=body"])


def test_pydoc_beside_a_file_of_other_rows_is_refused(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(pydoc_questions.rows(texts))
    monkeypatch.setattr(pydoc_questions, "rows", lambda: iter(rows))
    (tmp_path / "labels.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(DataError, match=r"'pydoc' makes chat rows, and .*labels\.jsonl:1 is a labelled row"):
        load(["pydoc", str(tmp_path / "labels.jsonl")])
