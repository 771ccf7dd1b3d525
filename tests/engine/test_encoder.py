"""Many callers' texts read together are what the model says of each alone; the line is fair, and a text that fails fails alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire
from quire.engine.encoder import EncoderEngine, Reading
from quire.errors import ContextError, DataError, ModelError, RecipeError
from quire.model.local import Local
from tests.tasks.readers import TEXTS as LONG
from tests.tasks.readers import write

TEXTS = [text[:40] for text in LONG] + ["a fox", "the dog", "x y z " * 4]
PAIRS = [(TEXTS[0], "a fox"), ("x", "y z"), (TEXTS[1], TEXTS[3])]


def opened(folder: Path, head: str = "SequenceClassification", kind: str = "bert", **config: Any) -> Local:
    return quire.load(write(folder, head, kind, **config))


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_vectors_and_labels_are_those_of_the_model(tmp_path: Path, kind: str) -> None:
    model = opened(tmp_path, kind=kind, num_labels=3)
    engine = EncoderEngine(model, budget=40)
    readings = [engine.submit(text, "embed" if number % 2 else "classify") for number, text in enumerate([*TEXTS, TEXTS[0]])]
    pairs = [engine.submit(pair, "classify") for pair in PAIRS]
    while engine.busy:
        assert engine.step() > 0
    assert engine.step() == 0
    for number, (text, reading) in enumerate(zip([*TEXTS, TEXTS[0]], readings, strict=True)):
        if number % 2:
            assert np.allclose(engine.result(reading), model.embed([text])[0], atol=1e-5)
        else:
            assert engine.result(reading) == pytest.approx(model.classify([text])[0], abs=1e-5)
    for pair, reading in zip(PAIRS, pairs, strict=True):
        found = engine.result(reading)
        assert found == pytest.approx(model.classify([pair])[0], abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert np.allclose(engine.embed(TEXTS), model.embed(TEXTS), atol=1e-5) and engine.embed([]).shape == (0, 32)
    assert engine.classify(PAIRS) == [pytest.approx(row, abs=1e-5) for row in model.classify(PAIRS)]


def test_rows_of_ids_are_read_as_they_stand_and_vectors_can_be_cut(tmp_path: Path) -> None:
    model = opened(tmp_path, num_labels=2, length=32)
    engine = EncoderEngine(model)
    rows = [model.contract.whole(text)[:32] for text in TEXTS]
    readings = engine.readings(rows) + engine.readings(rows, "classify")
    assert not engine.busy, "what is made ready waits until it is put in line"
    engine.add(readings)
    gone = readings.pop()
    engine.abort(gone, gone)
    vectors, found = model.embed(TEXTS, long="cut"), model.classify(TEXTS, long="cut")
    for number, reading in enumerate(readings):
        if number < len(rows):
            assert np.allclose(engine.result(reading), vectors[number], atol=1e-5)
        else:
            assert engine.result(reading) == pytest.approx(found[number - len(rows)], abs=1e-5)
    assert gone.value is None and not engine.busy
    [cut] = engine.readings([[5] * 40], long="cut", limit=7, dimensions=4)
    engine.add([cut])
    assert engine.result(cut).shape == (4,) and len(cut.row) == 7 and np.linalg.norm(cut.value) == pytest.approx(1)
    for row, error, said in (
        ([160], RecipeError, "row 0 holds 160; this model's ids go from 0 to 159"),
        ([True], RecipeError, "row 0 holds True"),
        ([5] * 33, ContextError, "row 0 has 33 tokens; this model reads 32 at once"),
        ([], ContextError, "row 0 is empty"),
    ):
        with pytest.raises(error, match=said):
            engine.readings([row])
    with pytest.raises(RecipeError, match="dimensions is 33; this model's vectors have 32"):
        engine.readings(["x"], dimensions=33)


def test_ranks_by_one_label_by_a_named_one_and_by_vectors(tmp_path: Path) -> None:
    query = "Where is the fox?"
    for folder, config, label in (("one", {"num_labels": 1}, None), ("two", {"labels": ["no", "yes"]}, "yes")):
        (tmp_path / folder).mkdir()
        model = opened(tmp_path / folder, **config)
        wanted = [model.classify([(query, text)])[0] for text in TEXTS]
        scores = [row[label] if label else max(row.values()) for row in wanted]
        for found in (model.rerank(query, TEXTS, label), EncoderEngine(model).rerank(query, TEXTS, label)):
            assert [number for number, _ in found] == sorted(range(len(TEXTS)), key=lambda number: -scores[number])
            assert [score for _, score in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    with pytest.raises(RecipeError, match="label is None; this model has no, yes. Name the one whose score counts") as refused:
        model.rerank(query, TEXTS)
    assert refused.value.field == "label"
    (tmp_path / "vectors").mkdir()
    model = opened(tmp_path / "vectors", "MaskedLM")
    near = model.similar([query], TEXTS)[0]
    for found in (model.rerank(query, TEXTS), EncoderEngine(model).rerank(query, TEXTS)):
        assert [number for number, _ in found] == np.argsort(-near, kind="stable").tolist()
        assert [score for _, score in found] == pytest.approx(sorted(near, reverse=True), abs=1e-5)
    assert model.rerank(query, []) == EncoderEngine(model).rerank(query, []) == []
    for one in (model, EncoderEngine(model)):
        for texts in (TEXTS, []):
            with pytest.raises(RecipeError, match="label is 'yes'; this model has no labels: it compares vectors") as refused:
                one.rerank(query, texts, "yes")
            assert refused.value.field == "label"


@pytest.mark.parametrize("seed", range(3))
def test_random_traces_are_fair_and_keep_to_the_budget(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(tmp_path, num_labels=2)
    draw, engine = random.Random(seed), EncoderEngine(model, budget=48)
    live: list[tuple[Reading, Any]] = []
    read, sizes = engine._read, list[tuple[int, int]]()

    def watched(part: list[Reading]) -> None:
        sizes.append((len(part), max(len(reading.row) for reading in part)))
        assert engine.waiting[0] in part
        read(part)

    monkeypatch.setattr(engine, "_read", watched)
    done = 0
    for _ in range(120):
        if draw.random() < 0.7:
            text = draw.choice(TEXTS)
            live.append((engine.submit(text, draw.choice(["embed", "classify"])), text))
        if live and draw.random() < 0.1:
            engine.abort(live.pop(draw.randrange(len(live)))[0])
        if draw.random() < 0.4:
            engine.step()
        for entry in [entry for entry in live if entry[0].done]:
            live.remove(entry)
            found = engine.result(entry[0])
            if isinstance(found, dict):
                assert found == pytest.approx(model.classify([entry[1]])[0], abs=1e-5)
            else:
                assert np.allclose(found, model.embed([entry[1]])[0], atol=1e-5)
            done += 1
    assert done > 30 and all(rows * width <= 48 or rows == 1 for rows, width in sizes) and any(rows > 2 for rows, _ in sizes)


def test_who_brings_many_texts_and_who_brings_few_share_the_line(tmp_path: Path) -> None:
    model = opened(tmp_path, num_labels=2)
    engine = EncoderEngine(model, budget=64)
    many = engine.readings([[5] * 16] * 200)
    engine.add(many)
    for _ in range(10):
        engine.step()
    one = engine.submit("x")
    engine.step()
    engine.step()
    assert one.done and not all(reading.done for reading in many), "200 texts do not hold up one"
    engine, steps = EncoderEngine(model, budget=64), 0
    many = engine.readings([[5] * 16] * 30)
    engine.add(many)
    while not all(reading.done for reading in many):
        engine.submit("x")
        engine.submit("a fox", "classify")
        engine.step()
        steps += 1
        assert steps < 500, "nor do new ones, without end, hold up the 30"


def test_a_text_that_fails_ends_alone_and_what_cannot_be_done_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(tmp_path, num_labels=2, length=32)
    engine = EncoderEngine(model)
    readings = [engine.submit(text) for text in ("a fox", "the dog", "x")]
    forward = model.model.encode

    def failing(tokens: Any, *more: Any) -> Any:
        if any(set(readings[1].row.ids) == set(row[row != 0].tolist()) for row in tokens):
            raise RuntimeError("not enough memory")
        return forward(tokens, *more)

    monkeypatch.setattr(model.model, "encode", failing)
    assert np.allclose(engine.result(readings[0]), engine.result(readings[0])) and engine.result(readings[2]) is not None
    with pytest.raises(RuntimeError, match="not enough memory"):
        engine.result(readings[1])
    with pytest.raises(ContextError, match=r"text 0 has \d+ tokens with those around it; this model reads 32"):
        engine.submit("x y " * 40)
    assert engine.result(engine.submit("x y " * 40, long="cut")).shape == (32,)
    with pytest.raises(RecipeError, match="use is 'tag'; allowed: embed, classify"):
        engine.submit("x", "tag")  # type: ignore[arg-type]
    with pytest.raises(ContextError, match=r"text 1 has \d+ tokens"):
        engine.classify(["x", "x y " * 40])
    with pytest.raises(DataError, match="row 0: a text is needed, not tuple"):
        engine.submit(("x", "y"))
    with pytest.raises(RecipeError, match="budget is 0"):
        EncoderEngine(model, budget=0)
    with pytest.raises(RecipeError, match=r"has none \(its kind: encoder\).*there is EncoderEngine"):
        quire.Engine(model)
    (tmp_path / "words").mkdir()
    with pytest.raises(ModelError, match="gives no labels"):
        EncoderEngine(opened(tmp_path / "words", "MaskedLM")).submit("x", "classify")
    assert not engine.busy
