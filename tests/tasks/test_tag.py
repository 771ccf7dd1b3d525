"""Entities as transformers' pipeline finds them, in every aggregation, with offsets into the text; windows; what is refused."""

from __future__ import annotations

import json
import re

import pytest
import transformers

import quire
from quire.errors import ContextError, DataError, ModelError, RecipeError
from quire.tasks.tag import AGGREGATIONS, windows
from tests.tasks.readers import CONTEXT, TEXTS, write

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]


def expected(folder, text, aggregation, **how):
    pipe = transformers.pipeline("token-classification", model=str(folder), device="cpu", aggregation_strategy=aggregation, **how)
    found = pipe(text)
    return [(entry.get("entity_group", entry.get("entity")), float(entry["score"]), entry["start"], entry["end"]) for entry in found]


def same(found, wanted, text):
    assert [(entity.label, entity.start, entity.end) for entity in found] == [(label, start, end) for label, _, start, end in wanted]
    assert [entity.score for entity in found] == pytest.approx([score for _, score, _, _ in wanted], abs=2e-5)
    assert all(entity.text == text[entity.start : entity.end] for entity in found)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_entities_are_the_pipelines(tmp_path, kind):
    folder = write(tmp_path, "TokenClassification", kind, length=96, labels=LABELS)
    model = quire.load(folder)
    for aggregation in AGGREGATIONS[:-1]:  # the last is not among theirs
        found = model.tag(TEXTS, aggregation)
        for text, entities in zip(TEXTS, found):
            same(entities, expected(folder, text, aggregation), text)
        assert aggregation != "none" or sum(map(len, found)) > 8
    same(model.tag(TEXTS[:1], ignore=())[0], expected(folder, TEXTS[0], "simple", ignore_labels=[]), TEXTS[0])


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_long_texts_are_read_in_the_pipelines_windows_or_refused(tmp_path, kind):
    folder = write(tmp_path, "TokenClassification", kind, length=24, labels=LABELS)
    model = quire.load(folder)
    text = TEXTS[0] + " " + CONTEXT
    for aggregation, stride in (("simple", 6), ("first", 0), ("max", 21)):
        same(model.tag(["x", text, ""], aggregation, stride=stride)[1], expected(folder, text, aggregation, stride=stride), text)
    with pytest.raises(ContextError, match=r"text 1 has \d+ tokens with those around it; this model reads 24 at once. .* give a stride"):
        model.tag(["x", text])
    with pytest.raises(ContextError, match="windows of 22 tokens cannot overlap by 22"):
        model.tag([text], stride=22)


def test_windows_cover_everything_once_and_overlap_as_asked():
    assert windows(0, 5, 2) == [(0, 0)] and windows(5, 5, 4) == [(0, 5)]
    assert windows(10, 5, 2) == [(0, 5), (3, 8), (6, 10)]
    assert windows(6, 5, 0) == [(0, 5), (5, 6)]


def test_what_is_no_aggregation_is_refused(tmp_path):
    model = quire.load(write(tmp_path, "TokenClassification", labels=LABELS))
    with pytest.raises(RecipeError, match="aggregation is 'mean'; allowed: none, simple, first, average, max"):
        model.tag(["x"], "mean")
    with pytest.raises(RecipeError, match="Use 'simple'"):
        model.tag(["x"], "none", stride=2)
    with pytest.raises(DataError, match="a list of texts is needed"):
        model.tag("x")
    folder = model.folder
    config = json.loads((folder / "config.json").read_text())
    for value in ("mean", None, ["words"]):
        told = {"task_specific_params": {"token-classification": {"aggregation": value}}}
        (folder / "config.json").write_text(json.dumps(config | told))
        said = f"of config.json has aggregation = {str(value)!r} for token-classification; allowed: none, simple, first"
        with pytest.raises(ModelError, match=re.escape(said)):
            quire.load(folder).tag(["x"])
        assert quire.load(folder).tag(["x"], "simple") == model.tag(["x"], "simple")
    assert model.tag([]) == [] and model.tag([""]) == [[]]
