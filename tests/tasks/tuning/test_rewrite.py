"""Rewrite rows: what is learned is what the reference learns, and what the verbs use; from a model that is there, and from nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import quire
from quire import durable
from quire import recipe as recipes
from quire.binding import Contract
from quire.errors import ContextError, DataError, ModelError, RecipeError
from quire.families import ModelFolder
from quire.nn.batch import IGNORE, Batch
from quire.tasks.rewrite import plan
from quire.tasks.tuning.rewrite import Rewriting
from quire.tasks.tuning.schemas import Rewrite
from quire.train.recipe import DataPart, ModelPart, OptimPart, TaskPart, TokenizerPart, TrainPart, TrainRecipe
from quire.train.run import resume, train
from quire.types import Beam, Completion
from tests.small import write_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ROWS = [
    Rewrite("The quick brown fox", "Der schnelle braune Fuchs", where="a:1"),
    Rewrite("x", "y", where="a:2"),
    Rewrite("for the lazy dog jumps over", "für", where="a:3"),
    Rewrite("jumps", "springt über den faulen Hund und noch weiter", where="a:4"),
]
WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("rewrite") / "t5", "t5")


def task(folder: Path, **how: Any) -> Rewriting:
    return Rewriting(Contract.open(folder), 64, ROWS, **how)


def write_rows(path: Path, start: int, stop: int) -> str:
    """Numbers as words in two languages, word by word, with a point at the end: some of all 340 that have one to four words."""
    every = [row for length in range(1, 5) for row in itertools.product(WORDS, repeat=length)]
    random.Random(0).shuffle(every)
    lines = [{"source": " ".join(row), "target": " ".join(WORDS[word] for word in row) + "."} for row in every[start:stop]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def tiny(tmp_path: Path, **changes: Any) -> TrainRecipe:
    recipe = TrainRecipe(
        out=str(tmp_path / "run"),
        model=ModelPart(family="marian", width=32, layers=1, heads=2, context=48),
        tokenizer=TokenizerPart(vocab=300),
        data=DataPart(
            sources=(write_rows(tmp_path / "train.jsonl", 0, 60),),
            eval=(write_rows(tmp_path / "eval.jsonl", 316, 328),),
            test=(write_rows(tmp_path / "test.jsonl", 328, 340),),
        ),
        task=TaskPart("rewrite", verb="translation", smoothing=0.1, beams=2),
        optim=OptimPart(lr=3e-3, betas=(0.9, 0.98), warmup=0.1, weight_decay=0.0),
        train=TrainPart(steps=6, batch=8, dtype="fp32", threads=1, compile="off", eval_every=3, save_every=3),
    )
    for key, value in changes.items():
        recipe = recipes.replace(recipe, key, value)
    return recipe


# -- rows to losses ------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_references(folder: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    mine, model = task(folder, prefix="to German: "), ModelFolder.open(folder).build()
    batch = mine.batch(mine.examples(ROWS))
    loss, count = mine.terms(model, batch)["lm"]
    assert mine.counts(batch) == {"lm": count}

    words = AutoTokenizer.from_pretrained(folder)
    given = words(["to German: " + row.source for row in ROWS], return_tensors="pt", padding=True)
    labels = words(text_target=[row.target for row in ROWS], return_tensors="pt", padding=True)["input_ids"]
    labels[labels == words.pad_token_id] = -100
    kept = batch.labels["lm"][:, : labels.shape[1]]
    assert torch.equal(kept, labels) and bool((batch.labels["lm"][:, labels.shape[1] :] == IGNORE).all())
    with torch.no_grad():
        theirs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()(**given, labels=labels).loss
    torch.testing.assert_close(loss / count, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_eight_rows_are_eight_times_one(folder: Path, smoothing: float) -> None:
    mine, model = task(folder, smoothing=smoothing), ModelFolder.open(folder).build()
    examples = mine.examples(ROWS * 2)

    def gradient(sizes: int) -> list[torch.Tensor]:
        model.zero_grad()
        batch = mine.batch(examples)
        for part in batch.split(sizes):
            (mine.terms(model, part)["lm"][0] / mine.counts(batch)["lm"]).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for one, eight in zip(gradient(1), gradient(8), strict=True):
        torch.testing.assert_close(one, eight, rtol=1e-4, atol=1e-5)


def test_targets_that_are_too_long_are_counted_and_do_not_end(folder: Path) -> None:
    contract = Contract.open(folder)
    short = Rewriting(contract, 12, ROWS)
    examples = short.examples(ROWS)
    assert [example.cut > 0 for example in examples] == [True, False, False, True]
    last = examples[3]
    assert last.target is not None and len(last.target) == 12 and contract.tokenizer.eos not in last.target
    assert contract.tokenizer.eos == examples[1].target[-1]  # type: ignore[index]
    with pytest.raises(ContextError, match=r"a:1: the target has .* There are 2 such rows\. .* data\.long = 'cut'\.$"):
        Rewriting(contract, 12, ROWS, long="error")
    strict = Rewriting(contract, 12, [ROWS[1]], long="error")
    with pytest.raises(ContextError, match=r"c:9: the source has .* this model reads 12.* data\.long = 'cut' or 'head-tail'\.$"):
        strict.examples([Rewrite("The quick brown fox " * 9, "y", where="c:9")])


def test_an_empty_target_and_a_model_without_a_decoder_start_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="b:7: the target is empty"):
        task(folder).examples([*ROWS, Rewrite("a", " ", where="b:7")])
    with pytest.raises(ModelError, match="needs an encoder-decoder"):
        task(write_model(tmp_path / "decoder", "llama"))


def test_the_loss_that_is_reported_is_without_smoothing(folder: Path) -> None:
    model = ModelFolder.open(folder).build()
    plain, smooth = task(folder), task(folder, smoothing=0.2)
    batch = plain.batch(plain.examples(ROWS))
    total, count = plain.terms(model, batch)["lm"]
    found = smooth.evaluate(model, ROWS)
    assert found.figures["loss"] == pytest.approx(float(total) / count, rel=1e-4)
    assert len(found.found) == len(ROWS) and {"bleu", "rougeL", "ended"} <= found.figures.keys()
    assert smooth.describe() != plain.describe()


@pytest.mark.parametrize("best", ["loss", "bleu"])
def test_a_model_that_gives_no_numbers_has_a_figure_that_is_none(folder: Path, best: Any) -> None:
    model = ModelFolder.open(folder).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    found = task(folder, best=best).evaluate(model, ROWS)
    assert math.isnan(found.figures["loss"]) and math.isnan(found.figures[best]) and not found.intervals


# -- runs ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["marian", "t5", "bart"])
def test_a_model_from_nothing_is_opened_by_others(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    made = train(tiny(tmp_path, **{"model.family": family, "train.steps": 2})).model
    assert made is not None
    theirs, words = AutoModelForSeq2SeqLM.from_pretrained(made).eval(), AutoTokenizer.from_pretrained(made)
    ours = quire.load(made)
    assert theirs.config.decoder_start_token_id == theirs.generation_config.decoder_start_token_id == ours.contract.decoder_start
    texts = ["one two", "four three three one"]
    for text in texts:
        given = words(text, return_tensors="pt")
        assert given["input_ids"][0].tolist() == ours.contract.whole(text)
        answer = torch.tensor([[ours.contract.decoder_start, *words(text_target="eins zwei.")["input_ids"][:-1]]])
        with torch.no_grad():
            wanted = theirs(**given, decoder_input_ids=answer).logits
            found = ours.model.head(ours.model(Batch(answer, source=Batch(given["input_ids"]))))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        ids = theirs.generate(**given, num_beams=1, do_sample=False, max_new_tokens=9)[0]
        greedy = ours.translate([text], Beam(1, 9, early_stopping=True))[0]
        assert greedy.text == words.decode(ids, skip_special_tokens=True)
    (tmp_path / "again").mkdir()
    again = train(tiny(tmp_path / "again", **{"model": ModelPart(start=str(made)), "train.steps": 1})).model
    assert again is not None and quire.load(again).config == ours.config


def test_it_learns_and_the_verb_uses_what_it_has_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from quire.cli.main import main

    changes = {"model.family": "t5", "model.tied": False, "train.steps": 160, "train.batch": 32, "train.eval_every": 80, "optim.lr": 1e-2}
    recipe = tiny(tmp_path, **changes, **{"task.best": "bleu", "task.prefix": "say: "})
    write_rows(tmp_path / "train.jsonl", 0, 300)
    result = train(recipe)
    run = result.folder
    assert result.model is not None
    figures = result.evaluation
    assert figures["metric"] == "bleu" and figures["test"]["bleu"] > 5 and figures["test"]["ended"] > 0.9
    assert figures["test"]["loss"] < 1.5, "a model that has learned nothing is at 5.6"
    low, high = (figures["test"]["intervals"]["bleu"][side] for side in ("low", "high"))
    assert low <= figures["bleu"] <= high
    looks = [row for row in durable.read_lines(run / "metrics.jsonl") if row["kind"] == "eval"]
    assert len(looks) == 2 and all({"bleu", "rougeL", "loss"} <= row.keys() for row in looks)
    assert result.outcome.best["metric"] == "bleu"

    answers = durable.read_lines(run / "answers_test.jsonl")
    model = quire.load(result.model)
    rows = durable.read_lines(tmp_path / "test.jsonl")
    told = [one.text for one in model.translate([row["source"] for row in rows])]
    assert told == [answer["text"] for answer in answers]
    assert main(["translate", str(result.model), rows[0]["source"]]) == 0
    assert capsys.readouterr().out.strip() == told[0]


def test_the_plan_of_the_task_is_the_plan_of_the_folder(tmp_path: Path) -> None:
    changes = {"task.verb": "summarization", "task.prefix": "summarize: ", "task.beams": 3, "task.length_penalty": 2.0, "train.steps": 1}
    made = train(tiny(tmp_path, **changes)).model
    assert made is not None
    contract = Contract.open(made)
    rows = [Rewrite(**row) for row in durable.read_lines(tmp_path / "train.jsonl")]
    how = {"verb": "summarization", "prefix": "summarize: ", "beams": 3, "length_penalty": 2.0}
    mine = Rewriting(contract, 48, rows, **how)  # type: ignore[arg-type]
    vocab = quire.load(made).config.vocab
    assert mine.plan(vocab, 3) == plan(made, vocab, "summarization", None, None, None)
    assert isinstance(mine.plan(vocab, 3).how, Beam) and mine.plan(vocab, 3).how.length_penalty == 2.0  # type: ignore[union-attr]


def test_lengths_of_the_base_do_not_go_on(folder: Path) -> None:
    """BART's summaries have 56 tokens at least; a model that is tuned to short answers must be able to end."""
    contract = dataclasses.replace(Contract.open(folder), defaults={"min_length": 56, "max_new_tokens": 3, "no_repeat_ngram_size": 3})
    how = Rewriting(contract, 64, ROWS).plan(400, 4).how
    assert isinstance(how, Beam) and (how.min_tokens, how.no_repeat_ngram) == (0, 0) and how.max_tokens > 3


def test_two_sides_may_be_longer_together_than_a_context(tmp_path: Path) -> None:
    """Plans measure a row of the longest side; both sides in one row have no positions."""
    line = {"source": "one two three four " * 9, "target": "eins zwei drei vier " * 9}
    recipe = tiny(tmp_path, **{"train.steps": 1, "data.test": (), "data.eval": ()})
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert train(recipe).model is not None


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(tiny(tmp_path / "a", **{"model.dropout": 0.1}))
    part = train(tiny(tmp_path / "b", **{"model.dropout": 0.1}), stop_at=4)
    assert part.model is None
    went_on = resume(part.folder)
    assert whole.model is not None and went_on.model is not None
    name = "model.safetensors"
    assert durable.sha256_file(whole.model / name) == durable.sha256_file(went_on.model / name)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_that_is_there_is_tuned(folder: Path, method: str, tmp_path: Path) -> None:
    changes = {"model": ModelPart(start=str(folder)), "adapt.method": method, "task.prefix": "translate English to German: "}
    made = train(tiny(tmp_path, **changes)).model
    assert made is not None
    config = json.loads((made / "config.json").read_text())
    assert config["task_specific_params"]["translation"]["prefix"] == "translate English to German: "
    assert config["task_specific_params"].keys() == {"translation"}
    assert len(quire.load(made).translate(["one"])) == 1


def test_a_classifier_from_nothing(tmp_path: Path) -> None:
    lines = [{"text": word, "label": label} for word, label in zip(list(WORDS) * 2 + list(WORDS.values()), "ab" * 6)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = DataPart(sources=(str(tmp_path / "labels.jsonl"),), held_out=0.0)
    recipe = tiny(tmp_path, **{"model.family": "bert", "task": TaskPart("classify"), "data": rows, "train.steps": 1})
    made = train(recipe).model
    assert made is not None and quire.load(made).classify(["one"])[0].keys() == {"a", "b"}


def test_what_cannot_begin_from_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs encoder-decoders: give model.family \(bart, marian, t5\), or a model that is there"):
        train(tiny(tmp_path, **{"model.family": "llama"}))
    with pytest.raises(RecipeError, match="adapts a model that is there"):
        train(tiny(tmp_path, **{"adapt.method": "lora"}))
    with pytest.raises(RecipeError, match="a new one has learned nothing yet"):
        train(tiny(tmp_path, **{"adapt.frozen": ("embed",)}))
    with pytest.raises(RecipeError, match="tunes a model that is there"):
        train(tiny(tmp_path, **{"task": TaskPart("chat"), "model.family": "llama"}))


def test_the_recipes_of_this_task_train(tmp_path: Path) -> None:
    for name in ("translate", "summarize"):
        path = Path(__file__).resolve().parents[3] / "recipes" / f"{name}.toml"
        recipe = recipes.load(TrainRecipe, path)
        small = tiny(tmp_path, **{"task": recipe.task, "optim": recipe.optim, "model.family": recipe.model.family, "train.steps": 2})
        result = train(recipes.replace(small, "out", str(tmp_path / name)))
        assert result.model is not None and result.evaluation["test"]["rows"] > 0


def test_every_target_counts_and_the_first_is_learned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [dataclasses.replace(ROWS[0], others=("Ein flinker brauner Fuchs läuft",)), ROWS[3]]
    made = task(folder, best="bleu")
    one, other = made.examples(rows)
    assert one.labels["lm"].tolist() == made.examples([ROWS[0]])[0].labels["lm"].tolist()
    assert (
        one.notes == ("there are several targets: the first is learned, and all of them count when a model is measured",)
        and not other.notes
    )
    written = [Completion(text, (), "stop", 1) for text in ("Ein flinker brauner Fuchs läuft", ROWS[3].target)]
    monkeypatch.setattr(made, "_written", lambda *given: written)
    found = made.evaluate(ModelFolder.open(folder).build(), rows)
    assert found.figures["bleu"] == pytest.approx(100) and found.figures["rougeL"] == 1.0
