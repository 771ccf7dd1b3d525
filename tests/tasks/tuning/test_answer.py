"""Questions: windows and marks against transformers' run_qa, the loss against its models, figures against values by hand."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import transformers

import quire
from quire import recipe as recipes
from quire.binding.contract import Contract
from quire.cli.main import main
from quire.errors import DataError, ModelError
from quire.families import ModelFolder
from quire.metrics.spans import best_threshold
from quire.model import merge
from quire.tasks.answer import Read
from quire.tasks.tuning.answer import BEGINS, ENDS, LONGEST, Answer, tokens_of
from quire.tasks.tuning.schemas import Question
from quire.train.run import train
from tests.tasks.readers import CONTEXT, TEXTS, write
from tests.tasks.tuning.conftest import write_rows


def asked(question: str, context: str, text: str = "", where: str = "q:1", at: int | None = None) -> Question:
    return Question(question, context, ((text, context.index(text) if at is None else at),) if text else (), where=where)


ROWS = [
    asked("Whom did she meet?", TEXTS[0], "Barack Obama", "q:1"),
    asked("Who was not there?", TEXTS[2], "", "q:2"),
    asked("Where does he live?", TEXTS[2], "São Paulo", "q:3"),
    asked("What is there?", TEXTS[4], "日本語", "q:4"),
    asked("And?", TEXTS[4], "Double  spaces", "q:5"),
    asked("Where?", CONTEXT, "South America", "q:6", CONTEXT.rindex("South America")),
    asked("What is large?", CONTEXT, "This basin", "q:7"),
]


def run_qa(tokenizer, row: Question, length: int, stride: int) -> list[tuple[list[int], int, int]]:
    """transformers' documented preparation: (ids, start, end) of each window, [CLS] where the answer is not in it."""
    how = {"truncation": "only_second", "max_length": length, "stride": stride}
    read = tokenizer(row.question, row.context, **how, return_overflowing_tokens=True, return_offsets_mapping=True)
    features = []
    for number, ids in enumerate(read["input_ids"]):
        offsets, sides = read["offset_mapping"][number], read.sequence_ids(number)
        if not row.spans:
            features.append((ids, 0, 0))
            continue
        begins = row.spans[0][1]
        ends = begins + len(row.spans[0][0])
        first = sides.index(1)
        last = len(ids) - 1
        while sides[last] != 1:
            last -= 1
        if not (offsets[first][0] <= begins and offsets[last][1] >= ends):
            features.append((ids, 0, 0))
            continue
        while first < len(offsets) and offsets[first][0] <= begins:
            first += 1
        while offsets[last][1] >= ends:
            last -= 1
        features.append((ids, first - 1, last + 1))
    return features


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("length", [128, 40])
def test_windows_and_marks_are_those_of_run_qa(tmp_path, kind, length):
    folder = write(tmp_path, "QuestionAnswering", kind, length=128)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    contract = Contract.open(folder)
    rows = [row for row in ROWS if kind == "bert" or length == 128 or row.where != "q:4"]  # a byte-level question fills a small window
    task = Answer(contract, length, rows, stride=10)
    examples = task.examples(rows)
    assert sum(np.any(example.labels["span"][1:]) for example in examples) >= sum(bool(row.spans) for row in rows)
    for row in rows:
        mine = [example for example in examples if example.where == row.where]
        wanted = run_qa(theirs, row, length, 10)
        assert [example.ids.tolist() for example in mine] == [ids for ids, _, _ in wanted]
        for example, (ids, start, end) in zip(mine, wanted, strict=True):
            marks = example.labels["span"]
            first, last = int((marks & BEGINS).argmax()), int((marks & ENDS).argmax())
            if kind == "bert":
                assert (first, last) == (start, end)
            else:  # of a character's several bytes run_qa takes the last at the beginning and the first at the end; the place is the same
                read = theirs.convert_ids_to_tokens(ids)
                assert first <= start <= end <= last and (first == 0) == (start == 0)
                assert theirs.convert_tokens_to_string(read[first : last + 1]).strip() == (row.spans[0][0] if first else "<s>")
            assert marks.sum() == BEGINS + ENDS


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_marked_tokens_are_the_answer(tmp_path, kind):
    contract = Contract.open(write(tmp_path, "QuestionAnswering", kind, length=256))
    for row in ROWS:
        if row.spans:
            text, start = row.spans[0]
            (context,) = Read(contract, [(row.question, row.context)], 256, 0).contexts
            first, last = tokens_of(context, text, start)
            assert row.context[context.offsets[first][0] : context.offsets[last][1]].strip() == text
    examples = Answer(contract, 256, ROWS).examples(ROWS)
    assert len(examples) == len(ROWS) and not any(example.notes for example in examples)


def test_an_answer_inside_a_token_is_learned_with_the_whole_token_and_told(tmp_path):
    contract = Contract.open(write(tmp_path, "QuestionAnswering", length=128))
    (context,) = Read(contract, [("x", TEXTS[0])], 128, 0).contexts
    token = next(number for number, (start, end) in enumerate(context.offsets) if end - start > 2)
    start, end = context.offsets[token]
    row = asked("x", TEXTS[0], TEXTS[0][start + 1 : end], "q:9", start + 1)
    task = Answer(contract, 128, [row])
    (example,) = task.examples([row])
    assert example.notes and example.notes[0].startswith("the answer does not begin and end where tokens do")
    assert tokens_of(context, *row.spans[0]) == (token, token)


@pytest.mark.parametrize("head", ["bert", "roberta"])
def test_the_loss_is_the_references_and_does_not_depend_on_the_division(tmp_path, head):
    folder = write(tmp_path, "QuestionAnswering", head, length=128)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    model, task = ModelFolder.open(folder).build(), Answer(Contract.open(folder), 128, ROWS)
    examples = task.examples(ROWS)
    wanted = []
    for example in examples:  # alone, without padding: the reference lets padding take part in the softmax
        marks = torch.from_numpy(example.labels["span"])[None]
        types = {"token_type_ids": torch.from_numpy(example.types)[None]} if example.types is not None and head == "bert" else {}
        places = {"start_positions": (marks & BEGINS).argmax(1), "end_positions": (marks & ENDS).argmax(1)}
        with torch.no_grad():
            wanted.append(float(theirs(torch.from_numpy(example.ids)[None], **types, **places).loss))
    batch = task.batch(examples)
    assert batch.keep is not None
    with torch.no_grad():
        total, count = task.terms(model, batch)["span"]
        parts = [task.terms(model, part)["span"] for part in batch.split(2)]
    assert count == task.counts(batch)["span"] == 2 * len(examples)
    assert float(total) / count == pytest.approx(float(np.mean(wanted)), abs=1e-5)
    assert sum(float(part) for part, _ in parts) == pytest.approx(float(total), rel=1e-5) and sum(n for _, n in parts) == count
    assert task.evaluate(model, ROWS).figures["loss"] == pytest.approx(float(np.mean(wanted)), abs=1e-5)


def test_what_is_learned_by_heart_is_found_by_the_verb(tmp_path):
    folder = write(tmp_path, "QuestionAnswering", length=128)
    model, contract = ModelFolder.open(folder).build(), Contract.open(folder)
    rows = [ROWS[0], ROWS[1], ROWS[2], ROWS[6]]
    task = Answer(contract, 64, rows, stride=16)
    examples, optimizer = task.examples(rows), torch.optim.AdamW(model.parameters(), lr=5e-3)
    assert len(examples) > len(rows)
    before = task.evaluate(model, rows).figures["f1"]
    for _ in range(80):
        total, count = task.terms(model, task.batch(examples))["span"]
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    found = task.evaluate(model, rows)
    assert found.figures["exact"] == found.figures["f1"] == 1.0 > before
    assert [one["answer"] for one in found.found] == ["Barack Obama", "", "São Paulo", "This basin"]
    saved = ModelFolder.save(tmp_path / "tuned", model, ModelFolder.open(folder).config)
    contract.save(saved.path)
    served = quire.load(saved.path).answer(
        [(row.question, row.context) for row in rows], length=64, stride=16, longest=LONGEST, no_answer=True
    )
    assert [answers[0].text for answers in served] == [one["answer"] for one in found.found]


def test_figures_are_split_by_whether_there_is_an_answer(tmp_path, monkeypatch):
    folder = write(tmp_path, "QuestionAnswering", length=128)
    model, task = ModelFolder.open(folder).build(), Answer(Contract.open(folder), 128, ROWS)
    rows = [
        Question("a", TEXTS[1], (("quick brown fox", 4), ("brown fox", 10)), where="r:1"),
        Question("b", TEXTS[1], (("lazy dog", 35),), where="r:2"),
        Question("c", TEXTS[1], (), where="r:3"),
        Question("d", TEXTS[1], (), where="r:4"),
        Question("e", TEXTS[1], (("fox", 16),), where="r:5"),
    ]
    told = ["The brown fox", "over the lazy dog", "", "jumps", ""]
    monkeypatch.setattr(Read, "best", lambda *_: [[quire.types.Answer(text, 0.5, 0, 0)] for text in told])
    found = task.evaluate(model, rows)
    overlap = 2 * 2 / (3 + 2)  # "lazy dog" in "over lazy dog": articles do not count
    wanted = {"exact": 2 / 5, "f1": (1 + overlap + 1 + 0 + 0) / 5, "has_answer_exact": 1 / 3, "has_answer_f1": (1 + overlap) / 3}
    assert {name: found.figures[name] for name in wanted} == pytest.approx(wanted)
    assert found.figures["no_answer_exact"] == found.figures["no_answer_f1"] == 0.5
    assert found.intervals["has_answer_f1"].n == 3 and found.intervals["f1"].value == pytest.approx(wanted["f1"])
    counts = found.tables["errors"]["counts"]
    assert counts == {"found where there is none": 1, "none found": 1, "too long": 1, "too short": 0, "partly": 0, "elsewhere": 0}
    assert found.tables["errors"]["examples"]["too long"] == [
        {"where": "r:2", "question": "b", "wanted": ["lazy dog"], "found": "over the lazy dog"}
    ]


# -- what cannot be learned ---------------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_learned_are_named(tmp_path):
    contract = Contract.open(write(tmp_path, "QuestionAnswering", length=128))
    task = Answer(contract, 48, ROWS, stride=8)
    with pytest.raises(DataError, match=r"^q:8: the question has \d+ tokens; with 3 around it a window of 48 keeps"):
        task.examples([ROWS[0], asked(TEXTS[1] * 3, CONTEXT, where="q:8")])
    with pytest.raises(DataError, match=r"1 answers become no token .*: q:9: '\\x07\\x07'"):
        task.examples([asked("x", "a \x07\x07 b", "\x07\x07", where="q:9")])
    long = asked("x", CONTEXT, CONTEXT[10:290], where="q:10")
    with pytest.raises(DataError, match=r"1 answers are longer than the 8 tokens by which windows overlap, .*: q:10: \d+ tokens"):
        task.examples([ROWS[0], long])
    with pytest.raises(DataError, match=r"q:6 has \d+ tokens of context, more than a window of 48 holds"):
        Answer(contract, 48, ROWS, long="error").examples(ROWS[5:6])


def test_a_model_that_cannot_say_no_answer_learns_only_what_is_there(tmp_path):
    folder = write(tmp_path, "SequenceClassification", "llama", length=128)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    raw["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    contract = Contract.open(folder)
    with pytest.raises(DataError, match=r"q:2 has no answer, and this model's texts do not begin with a token that could say so"):
        Answer(contract, 128, ROWS)
    rows = [row for row in ROWS if row.spans]
    task = Answer(contract, 100, rows, stride=40)
    examples = task.examples(rows)
    assert not task.can_refuse and all((example.labels["span"] & BEGINS).any() for example in examples)
    windows = Read(contract, [(row.question, row.context) for row in rows], 100, 40).windows
    assert len(examples) < len(windows)


# -- how sure "no answer" must be -----------------------------------------------------------------------------------------------------


def official(margins, scores, there):
    """`find_best_thresh` of SQuAD 2.0's evaluate-v2.0.py: (the best total, its threshold)."""
    current = best = sum(not one for one in there)
    threshold = 0.0
    for number in sorted(range(len(margins)), key=lambda number: margins[number]):
        current += scores[number] if there[number] else -1
        if current > best:
            best, threshold = current, margins[number]
    return best, threshold


def test_the_threshold_is_as_good_as_the_official_one():
    draw = random.Random(0)
    for _ in range(200):
        count = draw.randrange(1, 12)
        margins = [round(draw.gauss(0, 2), 1) for _ in range(count)]
        scores, there = [draw.choice((0.0, 0.4, 1.0)) for _ in range(count)], [draw.random() < 0.5 for _ in range(count)]
        found = best_threshold(margins, scores, there)
        total = sum((not one) if margin > found else score * one for margin, score, one in zip(margins, scores, there))
        at_zero = sum((not one) if margin > 0 else score * one for margin, score, one in zip(margins, scores, there))
        if len(set(margins)) == count:  # of equal margins theirs may count one on each side
            assert total == pytest.approx(official(margins, scores, there)[0])
        assert total >= at_zero and (found == 0 or total > at_zero)
    assert best_threshold([-3.0, -1.0, 2.0], [1.0, 0.0, 0.0], [True, False, False]) == -2.0


def test_a_run_finds_the_threshold_on_held_out_rows_and_the_verb_uses_it(tmp_path, tuned):
    folder = write(tmp_path, "QuestionAnswering", length=128)
    rows = [asked(f"who is {n}?", TEXTS[0], "Barack Obama" if n % 2 else "", where=f"q:{n}") for n in range(16)]
    changes = {"train.steps": 1, "data.eval": (write_rows(tmp_path / "eval.jsonl", rows[8:]),)}
    recipe = tuned("answer", folder, rows[:8], **changes, **{"data.test": (write_rows(tmp_path / "test.jsonl", rows[8:12]),)})
    recipe = recipes.replace(recipe, "data.allow", ("test-rows-leak", "near-copies-leak"))
    run = train(recipe).folder
    figures = json.loads((run / "evaluation.json").read_text())
    held, test = figures["held_out"], figures["test"]
    assert held["threshold"] == test["threshold"] != 0 and held["f1"] > held["f1_at_0"] and "f1_at_0" in test["intervals"]
    told = json.loads((run / "model" / "config.json").read_text())["task_specific_params"]
    assert told == {"question-answering": {"longest": LONGEST, "no_answer_threshold": held["threshold"]}}
    assert served(quire.load(run / "model"), rows[8:]) == measured(run)
    config = (run / "model" / "config.json").read_text()
    for value, said in (('"much"', "'much'"), ("-1000", "'-1000'"), ("9" * 400, "'9999")):
        (run / "model" / "config.json").write_text(config.replace(f'threshold": {held["threshold"]}', f'threshold": {value}'))
        with pytest.raises(ModelError, match=f"no_answer_threshold = {said}"):
            quire.load(run / "model").answer([("who?", TEXTS[0])], no_answer=True)


def served(model, rows):
    return [one[0].text for one in model.answer([(row.question, row.context) for row in rows], no_answer=True)]


def measured(run):
    return [json.loads(line)["answer"] for line in (run / "answers_held_out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("own", [True, False], ids=["a base with answers", "a base without"])
def test_an_adapter_takes_the_threshold_along_and_a_merge_keeps_it(tmp_path, tuned, capsys, own):
    """Also over that of a base which has one."""
    other = {"question-answering": {"no_answer_threshold": 90.0, "longest": 2}, "translation": {"prefix": "x"}} if own else None
    folder = write(tmp_path / "base", "QuestionAnswering" if own else "MaskedLM", length=128, task_specific_params=other)
    rows = [asked(f"who is {n}?", TEXTS[0], "Barack Obama" if n % 2 else "", where=f"q:{n}") for n in range(16)]
    changes = {"train.steps": 1, "data.eval": (write_rows(tmp_path / "eval.jsonl", rows[8:]),), "adapt.method": "lora"}
    run = train(tuned("answer", folder, rows[:8], **changes)).folder
    threshold = json.loads((run / "evaluation.json").read_text())["held_out"]["threshold"]
    assert threshold not in (0, 90)
    merged = merge(folder, run / "adapter", tmp_path / "merged")
    for where in (run / "model", merged):
        told = json.loads((where / "config.json").read_text())["task_specific_params"]
        assert told == (other or {}) | {"question-answering": {"longest": LONGEST, "no_answer_threshold": threshold}}
    for model in (quire.load(folder, adapter=run / "adapter"), quire.load(merged)):
        assert served(model, rows[8:]) == measured(run)
    command = ["answer", str(folder), rows[8].question, "--context", rows[8].context, "--adapter", str(run / "adapter")]
    assert main([*command, "--no-answer", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["text"] == measured(run)[0]


def test_an_answer_is_as_long_as_in_training_by_every_way(tmp_path, capsys):
    """The folder's length is the usual one, 15 without; another may be asked for."""
    folder = write(tmp_path, "QuestionAnswering", length=128)
    asks, config = [("Where is the basin?", CONTEXT)], json.loads((folder / "config.json").read_text())
    plain = quire.load(folder)
    assert plain.answer(asks, 20) == plain.answer(asks, 20, longest=15) != plain.answer(asks, 20, longest=LONGEST)
    task = Answer(Contract.open(folder), 128, [row for row in ROWS if row.spans])
    (folder / "config.json").write_text(json.dumps(config | task.settings(config)))
    tuned = quire.load(folder)
    assert tuned.answer(asks, 20) == plain.answer(asks, 20, longest=LONGEST)
    assert tuned.answer(asks, 20, longest=15) == plain.answer(asks, 20)
    for more, longest in (([], LONGEST), (["--longest", "3"], 3)):
        assert main(["answer", str(folder), asks[0][0], "--context", CONTEXT, "--top", "20", "--json", *more]) == 0
        found = [(one["text"], one["start"]) for one in json.loads(capsys.readouterr().out)["answers"]]
        assert found == [(one.text, one.start) for one in plain.answer(asks, 20, longest=longest)[0]]
    for value, said in (("0", "0"), ('"x"', "x"), ("true", "True"), ("1.5", "1.5")):
        told = {"task_specific_params": {"question-answering": {"longest": json.loads(value)}}}
        (folder / "config.json").write_text(json.dumps(config | told))
        with pytest.raises(ModelError, match=f"of config.json has longest = '{said}' for question-answering; allowed is a number of"):
            quire.load(folder).answer(asks)
    (folder / "config.json").write_text(json.dumps(config | {"task_specific_params": {"question-answering": {"longest": 10**40}}}))
    assert quire.load(folder).answer(asks, 20) == plain.answer(asks, 20, longest=128)


def test_what_else_a_config_says_is_kept(tmp_path):
    task = Answer(Contract.open(write(tmp_path, "QuestionAnswering", length=128)), 128, ROWS)
    given = {"task_specific_params": {"question-answering": {"doc_stride": 64, "no_answer_threshold": 3.0}, "summarization": {"a": 1}}}
    kept = {"doc_stride": 64, "longest": LONGEST}
    told = {"question-answering": kept, "summarization": {"a": 1}}
    assert task.settings(given) == {"task_specific_params": told}  # the threshold was that of another training
    task.threshold = -1.5
    assert task.settings(given) == {"task_specific_params": told | {"question-answering": kept | {"no_answer_threshold": -1.5}}}
    for nothing in ({}, {"task_specific_params": None}, {"task_specific_params": {"question-answering": 3}}):
        assert task.settings(nothing)["task_specific_params"]["question-answering"]["longest"] == LONGEST


def test_without_unanswerable_rows_there_is_no_threshold(tmp_path):
    folder = write(tmp_path, "QuestionAnswering", length=128)
    model, rows = ModelFolder.open(folder).build(), [ROWS[0], ROWS[1]]
    task = Answer(Contract.open(folder), 64, [row for row in ROWS if row.spans][:2], stride=16)
    found = task.evaluate_last(model, [row for row in rows if row.spans])
    assert task.threshold == 0.0 and "threshold" not in found.figures
    assert task.settings({}) == {"task_specific_params": {"question-answering": {"longest": LONGEST}}}
