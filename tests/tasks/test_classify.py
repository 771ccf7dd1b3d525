"""Labels of texts and pairs: the scores of transformers' own pipeline, for models of every kind; lengths; what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import quire
from quire.errors import ContextError, DataError, ModelError, RecipeError
from quire.tasks.lengths import batches, by_length
from quire.tasks.reading import shorten
from tests.tasks.readers import TEXTS, write

PAIRS = [("A man is eating.", "Somebody eats."), ("x", "y " * 12), (TEXTS[0][:40], "no")]


def expected(folder, texts, **how):
    pipe = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    inputs = [{"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else text for text in texts]
    return [{entry["label"]: entry["score"] for entry in pipe(one, top_k=None, **how)} for one in inputs]


def same(found, wanted):
    assert [set(row) for row in found] == [set(row) for row in wanted]
    for mine, theirs in zip(found, wanted):
        assert list(mine.values()) == sorted(mine.values(), reverse=True)
        assert mine == pytest.approx(theirs, abs=2e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "bart"])
def test_one_label_of_texts_and_pairs_as_the_pipeline_says(tmp_path, kind):
    folder = write(
        tmp_path, "SequenceClassification", kind, labels=["bad", "fine", "good"], **({} if kind == "bart" else {"num_labels": 3})
    )
    model = quire.load(folder)
    texts = [text for text in TEXTS if len(model.contract.whole(text)) <= 64] + PAIRS
    assert len(texts) > 5 and model.labels == {0: "bad", 1: "fine", 2: "good"}
    same(model.classify(texts), expected(folder, texts))
    same(model.classify(texts, "none"), expected(folder, texts, function_to_apply="none"))
    assert [model.classify([text])[0] for text in texts[:2]] == [pytest.approx(row, abs=1e-5) for row in model.classify(texts)[:2]]


@pytest.mark.parametrize("problem, labels", [("multi_label_classification", 3), ("regression", 1), (None, 1), ("regression", 2)])
def test_the_function_follows_from_the_problem(tmp_path, problem, labels):
    folder = write(tmp_path, "SequenceClassification", num_labels=labels, problem_type=problem)
    model = quire.load(folder)
    same(model.classify(TEXTS[1:4]), expected(folder, TEXTS[1:4]))
    for function in ("softmax", "sigmoid"):
        same(model.classify(TEXTS[1:2], function), expected(folder, TEXTS[1:2], function_to_apply=function))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_what_does_not_fit_is_refused_or_cut_as_the_tokenizer_cuts(tmp_path, kind):
    model = quire.load(write(tmp_path, "SequenceClassification", kind, length=32))
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    long = " ".join(TEXTS)
    for text in (long, (long, "short"), ("short", long), (long, long), (long, TEXTS[1])):
        with pytest.raises(RecipeError, match="long is 'head_tail'; allowed: error, cut, head-tail."):
            model.classify(["x"], long="head_tail")
        with pytest.raises(ContextError, match=r"text 1 has \d+ tokens .* this model reads 32 at once.*long=\"cut\""):
            model.classify(["x", text])
        pair = text if isinstance(text, tuple) else (text,)
        row = words(*pair, truncation=True, max_length=32, return_tensors="pt", return_token_type_ids=kind == "bert")
        cut: list[int] = []
        found = model.classify(["x", text], "none", long="cut", cut=cut)[1]
        with torch.no_grad():
            logits = reference(**row).logits[0]
        assert found == pytest.approx({model.labels[i]: float(value) for i, value in enumerate(logits)}, abs=2e-5)
        assert cut == [0, len(words(*pair).input_ids) - 32]
    assert shorten([1] * 9, [2] * 3, 7) == ([1] * 4, [2] * 3)


def test_batches_hold_their_budget_and_results_their_order():
    draw = np.random.default_rng(0)
    rows = [list(range(n)) for n in draw.integers(0, 200, 300)] + [list(range(999))]
    done: list[int] = []
    assert by_length(rows, lambda part: [row[-1:] for row in part], 600, done.append) == [row[-1:] for row in rows]
    assert done == sorted(done) and done[-1] == len(rows) and done[0] == 1
    lengths = [len(row) for row in rows]
    made = list(batches(lengths, 600))
    assert sorted(number for batch in made for number in batch) == list(range(len(rows)))
    for batch in made:
        assert len(batch) * max(lengths[i] for i in batch) <= 600 or len(batch) == 1
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in made)
    assert padded < 1.15 * sum(lengths)
    assert by_length([], lambda part: part, 10) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id2label": {"0": "a", "1": "a"}}, "several labels the name 'a'"),
        ({"id2label": {"0": "a", "2": "b"}}, "each of 0 to 1 needs a name"),
        ({"id2label": {"0": "a", "one": "b"}}, "allowed is a table of numbers and names"),
        ({"problem_type": "guess"}, "problem_type is 'guess'; allowed: regression"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(tmp_path, change, message):
    folder = write(tmp_path, "SequenceClassification")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        quire.load(folder).classify(["x"])


def test_a_model_without_the_head_says_what_it_has(tmp_path):
    model = quire.load(write(tmp_path, "TokenClassification"))
    with pytest.raises(
        ModelError, match=r"gives labels of tokens \(tag\); this needs labels of texts: .* ends in ForSequenceClassification"
    ):
        model.classify(["x"])
    with pytest.raises(ModelError, match="ends in ForQuestionAnswering"):
        model.answer([("a", "b")])
    assert model.labels == {0: "LABEL_0", 1: "LABEL_1"}
    classifier = quire.load(write(tmp_path / "b", "SequenceClassification"))
    with pytest.raises(RecipeError, match="function is 'relu'; allowed: softmax"):
        classifier.classify(["x"], "relu")
    with pytest.raises(ModelError, match="ends in ForTokenClassification"):
        classifier.tag(["x"])
    with pytest.raises(DataError, match="row 0: a text, or a tuple of two, is needed, not int"):
        classifier.classify([3])
    with pytest.raises(DataError, match=r"a list of texts is needed, not one text: write \['one text'\]"):
        classifier.classify("one text")
