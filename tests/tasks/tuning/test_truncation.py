"""A tuned model reads long texts as it was trained: the same tokens by every way of using it, unless it is told otherwise."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

import quire
from quire import Sampling, search
from quire.binding import Contract
from quire.binding.truncation import Truncation
from quire.cli.main import main
from quire.engine.encoder import EncoderEngine
from quire.errors import ContextError, DataError, ModelError
from quire.nn.batch import Batch
from quire.serve.reading import Classify as ClassifyBody
from quire.tasks.tag import window as tag_window
from quire.tasks.tuning.example import as_used, collate
from quire.tasks.tuning.make import make
from quire.tasks.tuning.rerank import Rerank
from quire.tasks.tuning.schemas import Labelled, Question, Ranked, Rewrite, Tagged
from quire.train.recipe import TaskPart, TrainRecipe
from quire.train.run import train
from tests.small import write_model
from tests.tasks.readers import write
from tests.tasks.tuning.conftest import ranked, similar, text

ROWS = [Labelled(f"{text(n)} {n}", (("good", "bad", "so so")[n % 3],), where=f"rows.jsonl:{n + 1}") for n in range(24)]
LONG = " ".join(text(n) for n in range(12))
WAYS: dict[str, Any] = {"data.longest": 12, "data.long": "head-tail", "data.most_cut": 1.0, "train.steps": 2}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", "bert")


def logits(path: Path, ids: list[list[int]], adapter: Path | None = None) -> np.ndarray[Any, Any]:
    """Of rows as the trainer's evaluation reads them, by the saved weights."""
    model = quire.load(path, adapter=adapter).model
    with torch.inference_mode():
        return np.concatenate([model.head(model(Batch(torch.tensor([row]))), None).numpy() for row in ids])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_labels_of_a_long_text_are_those_of_the_evaluation(
    base: Path, tuned: Callable[..., TrainRecipe], tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """Logits by the model's own method, the engine and the command are those that the trainer's evaluation has found."""
    rows = [*ROWS, *(Labelled(f"{LONG} {n}", ("good", "bad")[n % 2 : n % 2 + 1], where=f"long:{n}") for n in range(9))]
    path = train(tuned("classify", base, rows, **WAYS, **{"adapt.method": method})).model
    assert path is not None
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers_held_out.jsonl").read_text().splitlines()]
    texts = {row.where: row.text for row in rows}
    held = {int(answer["where"].rpartition(":")[2]): answer for answer in answers}
    number, answer = next((number, answer) for number, answer in held.items() if number > len(ROWS))
    long = texts[f"long:{number - len(ROWS) - 1}"]

    contract = Contract.open(path)
    ids = contract.whole(long)
    assert contract.truncation == Truncation(12, "head-tail") and len(ids) > 12
    kept = [ids[0], *ids[1:6], *ids[-6:-1], ids[-1]]
    for how in ({}, {"adapter": tmp_path / "run" / "adapter"})[: 1 + (method == "lora")]:
        model = quire.load(base if how else path, **how)
        wanted = logits(base if how else path, [kept], how.get("adapter"))[0]
        found = model.classify([long], "none", cut=[])[0]
        assert [found[label] for label in model.labels.values()] == pytest.approx(wanted.tolist(), abs=1e-5)
        engine = EncoderEngine(model)
        assert engine.classify([long], cut=[])[0] == pytest.approx(model.classify([long], cut=[])[0], abs=1e-5)
        label, score = next(iter(model.classify([long], cut=[])[0].items()))
        assert (label, round(score, 3)) == (answer["label"], pytest.approx(answer["score"], abs=2e-3))
        assert len(engine.readings([long], "embed")[0].row) == 12

    assert main(["classify", str(path), long, "--json"]) == 0
    out, err = capsys.readouterr()
    assert next(iter(json.loads(out)["labels"].items())) == (answer["label"], pytest.approx(answer["score"], abs=2e-3))
    assert f"1 text was too long: {len(ids) - 12} tokens left out" in err
    assert main(["classify", str(path), long, "--long", "error"]) == 2
    said = (
        f"has {len(ids)} tokens with those around it; this model was tuned on texts of at most 12 tokens. Shorten or divide it, or leave "
    )
    assert said + "out --long error: it is then cut as the model was tuned (head-tail)." in capsys.readouterr().err
    assert main(["classify", str(path), long, "--long", "middle"]) == 2
    assert "allowed: error, cut, head-tail" in capsys.readouterr().err
    with pytest.raises(ContextError, match="was tuned on texts of at most 12 tokens"):
        model.classify([long], long="error")
    assert model.classify([long], long="cut") != model.classify([long], cut=[])


def test_a_model_that_never_saw_a_cut_makes_none_unasked(base: Path, tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    """Nothing was said and no row was cut: a text that is too long is refused by the model, its adapter and the engine, as before tuning.
    The adapter's word holds over that of a base which was tuned on shorter texts."""
    Contract.open(base).save(base)
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | Truncation(16).settings()))
    path = train(tuned("classify", base, ROWS, **{"train.steps": 2, "adapt.method": "lora"})).model
    assert path is not None and json.loads((tmp_path / "run" / "data.json").read_text())["cut"]["examples"] == 0
    adapter = tmp_path / "run" / "adapter"
    merged = quire.load(base, adapter=adapter).save(tmp_path / "merged")
    for model in (quire.load(path), quire.load(base, adapter=adapter), quire.load(merged)):
        assert model.contract.truncation is None and model.contract.limit(model.config.context) == 64
        with pytest.raises(ContextError, match="this model reads 64 at once"):
            model.classify([LONG * 3])
        with pytest.raises(ContextError, match="this model reads 64 at once"):
            EncoderEngine(model).classify([LONG * 3])
        cut: list[int] = []
        assert model.classify([LONG * 3], long="cut", cut=cut) and cut[0] > 0


def recorded(base: Path, name: str, rows: list[Any], context: int, **ways: Any) -> Truncation | None:
    """What a model of these rows would keep, by the recipe's `data`."""
    part, long = TaskPart(name=name, stride=5), ways.get("long", "auto")  # type: ignore[arg-type]
    contract = replace(Contract.open(base), truncation=None)
    task: Any = make(part, long, contract, context, rows, base, 32)
    return as_used(task.contract, long != "auto", "longest" in ways, task.examples(rows)).truncation


def test_what_a_model_keeps_is_what_was_said_or_seen(base: Path) -> None:
    short, long = ROWS, [*ROWS, Labelled(LONG, ("good",), where="long")]
    most = max(len(Contract.open(base).whole(row.text)) for row in short)
    assert recorded(base, "classify", short, 64) is None
    assert recorded(base, "classify", short, 64, long="cut") == Truncation(64, "cut")
    assert recorded(base, "classify", short, 64, long="error") == Truncation(64, "error")
    assert recorded(base, "classify", short, most, longest=most) == Truncation(most, "error")
    assert recorded(base, "classify", long, 40) == Truncation(40, "head-tail")
    pairs = similar(24, scores=False)
    assert recorded(base, "embed", pairs, 64) is None
    assert recorded(base, "embed", [*pairs, replace(pairs[0], second=LONG)], 40) == Truncation(40, "cut")
    for task, row in (("embed", replace(pairs[0], second=LONG, where="long:1")), ("rerank", Ranked("dog", LONG, ("fox",), where="long:1"))):
        rows = [*(pairs if task == "embed" else ranked(24)), row]
        with pytest.raises(DataError, match=r"1 row has more than 63 tokens \(long:1: \d+ tokens too many\)"):
            recorded(base, task, rows, 63, long="error")
    assert recorded(base, "rerank", ranked(24), 63) is None
    assert recorded(base, "rerank", [*ranked(24), replace(ranked(1)[0], negatives=(LONG,))], 63) == Truncation(63, "cut")


def test_only_what_is_read_counts_as_cut_where_texts_are_written(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "t5")
    rows = [Rewrite(text(n), text(n + 1), where=f"rows:{n}") for n in range(4)]
    assert recorded(base, "rewrite", rows, 64) is None
    assert recorded(base, "rewrite", [*rows, Rewrite("dog", LONG, where="target")], 40) is None
    assert recorded(base, "rewrite", [*rows, Rewrite(LONG, "dog", where="source")], 40) == Truncation(40, "cut")


def test_windows_stay_where_no_row_was_cut_for_they_leave_nothing_out(base: Path) -> None:
    tagged = [Tagged(tuple(text(n).split()), tuple(("O", "B-X", "I-X", "O")[(n + k) % 4] for k in range(4))) for n in range(8)]
    assert recorded(base, "tag", tagged, 64) == Truncation(64, "error", 5)
    assert recorded(base, "tag", tagged, 64, long="error") == Truncation(64, "error")
    contract = replace(Contract.open(base), truncation=Truncation(16, "error", 5))
    assert tag_window(contract, 64, None, "simple") == (14, 5) and tag_window(contract, 64, None, "none") == (14, None)
    asked = [Question(f"{n} who?", f"{n} {text(n)}", ((text(n).split()[0], len(str(n)) + 1),), where=f"rows:{n}") for n in range(8)]
    assert recorded(base, "answer", asked, 64) == Truncation(64, "error", 5)


def test_other_tools_find_the_length(base: Path, tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    path = train(tuned("classify", base, ROWS, **WAYS, **{"adapt.method": "lora"})).model
    assert path is not None
    for folder in (path, tmp_path / "run" / "adapter"):
        words = transformers.AutoTokenizer.from_pretrained(str(folder))
        assert words.model_max_length == 12
        words.save_pretrained(str(tmp_path / "again"))
        assert Truncation.read(tmp_path / "again") == Truncation(12, "head-tail")  # what transformers writes still says it
    merged = quire.load(base, adapter=tmp_path / "run" / "adapter").save(tmp_path / "merged")
    assert Contract.open(merged).truncation == Truncation(12, "head-tail")
    assert Contract.open(base).truncation is None and Contract.open(base).id == Contract.open(path).id


def test_words_are_tagged_in_the_windows_of_the_training(base: Path, tuned: Callable[..., TrainRecipe]) -> None:
    tags = ("O", "B-X", "I-X", "O")
    rows = [Tagged(tuple(text(n).split()), tuple(tags[(n + k) % 4] for k in range(4))) for n in range(24)]
    path = train(tuned("tag", base, rows, **WAYS | {"data.longest": 16, "task.stride": 5})).model
    assert path is not None
    model = quire.load(path)
    assert model.contract.truncation == Truncation(16, "head-tail", 5)
    seen: list[int] = []
    assert model.tag([LONG], progress=seen.append) == model.tag([LONG], stride=5) and seen[-1] > 1
    with pytest.raises(ContextError, match="this model was tuned on texts of at most 16 tokens"):
        model.tag([LONG], "none")


def test_answers_are_looked_for_in_the_windows_of_the_training(base: Path, tuned: Callable[..., TrainRecipe]) -> None:
    rows = [Question(f"{n} who?", f"{n} {text(n)}", ((text(n).split()[0], len(str(n)) + 1),), where=f"rows:{n}") for n in range(24)]
    path = train(tuned("answer", base, rows, **WAYS | {"data.longest": 32, "task.stride": 4})).model
    assert path is not None
    model, asked = quire.load(path), [("who?", LONG)]
    assert model.contract.truncation == Truncation(32, "head-tail", 4)
    assert model.answer(asked, 3) == model.answer(asked, 3, length=32, stride=4) != model.answer(asked, 3, length=64)


@pytest.mark.parametrize("plain", [True, False])
def test_vectors_of_long_texts_are_those_of_the_training(tuned: Callable[..., TrainRecipe], tmp_path: Path, plain: bool) -> None:
    """A folder that reads 64 tokens and was tuned on 12 reads 12, here and in sentence-transformers; a cut in the middle is ours alone."""
    start = write(tmp_path / "start", "MaskedLM", length=64)
    if not plain:
        SentenceTransformer(str(start), device="cpu").save(str(tmp_path / "sentence"))
        start = tmp_path / "sentence"
    path = train(tuned("embed", start, similar(24), **WAYS | {"data.long": "cut"})).model
    assert path is not None
    model, theirs = quire.load(path), SentenceTransformer(str(path), device="cpu")
    assert theirs.max_seq_length == 12 and model.contract.truncation == Truncation(12, "cut")
    vectors = model.embed([LONG], cut=[])
    assert np.abs(vectors - theirs.encode([LONG])).max() < 2e-5
    assert np.abs(EncoderEngine(model).embed([LONG], cut=[]) - vectors).max() < 1e-5
    assert np.abs(vectors - model.embed([LONG], long="head-tail")).max() > 1e-4


def test_an_adapter_for_vectors_is_merged_with_the_length_of_its_training(tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    """The base's folder reads 64 tokens: merged with an adapter that learned from 12, it reads 12, here and in sentence-transformers."""
    start = write(tmp_path / "start", "MaskedLM", length=64)
    SentenceTransformer(str(start), device="cpu").save(str(tmp_path / "sentence"))
    start = tmp_path / "sentence"
    train(tuned("embed", start, similar(24), **WAYS | {"data.long": "cut", "adapt.method": "lora"}))
    adapter, merged = tmp_path / "run" / "adapter", tmp_path / "merged"
    assert main(["merge", str(start), str(adapter), str(merged)]) == 0
    with_adapter, model, theirs = quire.load(start, adapter=adapter), quire.load(merged), SentenceTransformer(str(merged), device="cpu")
    assert theirs.max_seq_length == model.sentence.limit == 12 and with_adapter.contract.truncation == model.contract.truncation
    assert np.abs(model.embed([LONG], cut=[]) - with_adapter.embed([LONG], cut=[])).max() < 1e-5
    assert np.abs(model.embed([LONG], cut=[]) - theirs.encode([LONG])).max() < 2e-5


def test_pairs_are_ranked_as_they_were_learned(tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    start = write(tmp_path / "start", "MaskedLM", length=64)
    path = train(tuned("rerank", start, ranked(24), **WAYS | {"data.longest": 20})).model
    assert path is not None
    model, question = quire.load(path), "question near a basin"
    assert model.contract.truncation == Truncation(20, "head-tail")
    [example] = Rerank(model.contract, 20, ranked(24), long="head-tail").examples([Ranked(question, LONG, ("x",))])
    assert len(example.ids) == 20 and example.cut > 0
    batch = collate([example], 0)
    with torch.inference_mode():
        wanted = model.model.head(model.model(batch), None).sigmoid().item()
    found = dict(model.rerank(question, [LONG, "x"], cut=[]))
    assert found[0] == pytest.approx(wanted, abs=1e-6)
    assert found != dict(model.rerank(question, [LONG, "x"], long="cut"))


def test_sources_are_rewritten_as_they_were_learned(tuned: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    rows = [Rewrite(text(n), text(n + 1), where=f"rows:{n}") for n in range(24)]
    path = train(tuned("rewrite", write_model(tmp_path / "base", "t5"), rows, **WAYS)).model
    assert path is not None
    cut: list[int] = []
    found = quire.load(path).text2text([LONG], cut=cut)[0]
    assert found.prompt_tokens == 12 and cut[0] > 0


def test_nothing_is_left_out_in_silence(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody asked for a cut and nobody counts, a warning with the caller's own line says how much of how many texts was not read."""
    labelled = write(tmp_path / "labelled", "SequenceClassification", labels=["no", "yes"])
    sources = write_model(tmp_path / "t5", "t5")
    for folder in (base, labelled, sources):
        replace(Contract.open(folder), truncation=Truncation(12, "head-tail")).save(folder)
    encoder, labels, writer = quire.load(base), quire.load(labelled), quire.load(sources)
    ways: list[tuple[Any, Callable[..., Any]]] = [
        (encoder, lambda **more: encoder.embed([LONG, "x", LONG], **more)),
        (encoder, lambda **more: EncoderEngine(encoder).embed([LONG, "x", LONG], **more)),
        (encoder, lambda **more: encoder.cluster([LONG, "x", "y", LONG], 2, **more)),
        (encoder, lambda **more: encoder.similar([LONG], [LONG], **more)),
        (encoder, lambda **more: encoder.rerank(LONG, [LONG], **more)),
        (labels, lambda **more: labels.classify([LONG, "x", LONG], **more)),
        (labels, lambda **more: labels.rerank("x", [LONG, LONG], "yes", **more)),
        (labels, lambda **more: EncoderEngine(labels).rerank("x", [LONG, LONG], "yes", **more)),
        (writer, lambda **more: writer.text2text([LONG, "x", LONG], Sampling(max_tokens=1), **more)),
    ]
    for model, way in ways:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            way()
        cut: list[int] = []
        way(cut=cut)
        way(long="cut")
        over = len(model.contract.whole(LONG)) - 12
        assert sum(1 for tokens in cut if tokens) == 2 and sum(cut) >= 2 * over
        counted = [
            re.match(r"(\d) texts? (?:was|were) too long: ([\d,]+) tokens left out, as this model was tuned", str(one.message))
            for one in told
        ]
        assert sum(int(one[1]) for one in counted if one) == 2
        assert sum(int(one[2].replace(",", "")) for one in counted if one) == sum(cut)
        assert {one.filename for one in told} == {__file__}

    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "short.py").write_text(f'"""A door."""\ndef shut():\n    """{LONG}"""\n')
    cut = []
    index = search.build_or_open(encoder, None, tmp_path / "library", cut=[])
    index.search(LONG, cut=cut)
    assert [tokens > 0 for tokens in index.cut] == [False, True] and cut[0] > 0
    for _ in range(2):  # built, and kept
        assert main(["search", LONG, "x", "--library", str(tmp_path / "library"), "--model", str(base), "--dtype", "fp32"]) == 0
        said = capsys.readouterr().err
        assert f"1 docstring was too long: {sum(index.cut):,} tokens left out" in said
        assert f"1 text was too long: {cut[0]:,} tokens left out" in said and "warning" not in said


def test_a_cut_is_not_handed_on_to_another_training(base: Path, tmp_path: Path) -> None:
    """A tokenizer's file says it too, so that every tool carries it along: a new model with that tokenizer was not trained so."""
    contract = replace(Contract.open(base), truncation=Truncation(16, "head-tail"))
    contract.save(tmp_path / "tuned")
    contract = Contract.open(tmp_path / "tuned")
    assert contract.truncation == Truncation(16, "head-tail")
    replace(contract, truncation=None).save(tmp_path / "other")
    assert Contract.open(tmp_path / "other").truncation is None
    assert "model_max_length" not in json.loads((tmp_path / "other" / "tokenizer_config.json").read_text())


def test_rows_of_ids_are_never_cut_unasked(base: Path) -> None:
    Contract.open(base).save(base)
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | Truncation(16).settings()))
    engine = EncoderEngine(quire.load(base))
    with pytest.raises(ContextError, match="16"):
        engine.readings([[5] * 20])
    [reading] = engine.readings([[5] * 20], long="cut")
    assert len(reading.row.ids) == 16 and reading.cut == 4


def test_the_server_says_so_too() -> None:
    body = {"input": "x"}
    assert ClassifyBody(**body).long() == {"long": None, "limit": None}
    assert ClassifyBody(**body, truncate=False).long()["long"] == "error"
    assert ClassifyBody(**body, truncate_prompt_tokens=5).long() == {"long": "cut", "limit": 5}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quire_truncation": "cut", "model_max_length": 5}, "quire_truncation is 'cut'"),
        ({"quire_truncation": {"long": "tail"}, "model_max_length": 5}, "allowed is an object with long .error, cut, head-tail"),
        ({"quire_truncation": {"long": "cut"}, "model_max_length": 1e30}, "model_max_length is 1e\\+30; .* a whole number"),
        ({"quire_truncation": {"long": "cut", "stride": -1}, "model_max_length": 5}, "the stride of quire_truncation is -1"),
    ],
)
def test_a_damaged_record_is_refused_by_name(base: Path, settings: dict[str, Any], said: str) -> None:
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(ModelError, match=said):
        quire.load(base)
