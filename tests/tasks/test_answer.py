"""Answers as the question-answering pipeline of transformers 4 defines them, which version 5 no longer has: it is written out here again,
on its published definition and the span search that version 5 still holds for documents, over the reference's logits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers.pipelines.document_question_answering import select_starts_ends

import quire
from quire.errors import ContextError, DataError, RecipeError
from quire.types import Answer
from tests.tasks.readers import CONTEXT, TEXTS, write

QUESTION = "Where is the basin?"


def expected(folder, question, context, top=1, length=384, stride=128, longest=15, no_answer=False):
    """The pipeline's steps in their order: windows with a stride, p_mask, softmax, top spans, whole words, equal answers joined."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    how = {"truncation": "only_second", "max_length": length, "stride": stride, "return_overflowing_tokens": True}
    rows = words(question, context, return_offsets_mapping=True, **how)
    nothing, answers = 1000000, []
    for number, ids in enumerate(rows["input_ids"]):
        p_mask = np.array([[place != 1 for place in rows.sequence_ids(number)]], dtype=int)
        p_mask[0, np.array(ids) == words.cls_token_id] = 0
        given = {name: torch.tensor([rows[name][number]]) for name in words.model_input_names if name in rows}
        with torch.no_grad():
            out = model(**given)
        keep = np.ones((1, len(ids)), dtype=int)
        starts, ends, scores, nothing = select_starts_ends(
            out.start_logits.numpy(), out.end_logits.numpy(), p_mask, keep, nothing, 2 * top + 10, no_answer, longest
        )
        encoding = rows[number] if not hasattr(rows, "encodings") else rows.encodings[number]
        for s, e, score in zip(starts, ends, scores):
            try:
                start = encoding.word_to_chars(encoding.token_to_word(int(s)), 1)[0]
                end = encoding.word_to_chars(encoding.token_to_word(int(e)), 1)[1]
            except Exception:
                start, end = encoding.offsets[s][0], encoding.offsets[e][1]
            text = context[start:end]
            known = next((entry for entry in answers if entry["answer"].lower() == text.lower()), None)
            if known:
                known["score"] += float(score)
            else:
                answers.append({"score": float(score), "start": start, "end": end, "answer": text})
    if no_answer:
        answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    return [entry for entry in sorted(answers, key=lambda entry: -entry["score"])[:top] if entry["score"] > 0]


def same(found, wanted):
    assert [entry.score for entry in found] == pytest.approx([entry["score"] for entry in wanted], rel=1e-3, abs=1e-6)
    for mine, theirs in zip(found, wanted):
        assert (mine.text, mine.start, mine.end) == (theirs["answer"], theirs["start"], theirs["end"])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_answers_are_the_pipelines(tmp_path, kind):
    folder = write(tmp_path, "QuestionAnswering", kind, length=128)
    model = quire.load(folder)
    pairs = [(QUESTION, TEXTS[0]), ("x", TEXTS[4]), (QUESTION, CONTEXT), ("Who?", TEXTS[2])]
    windows = {"length": 48, "stride": 16, "top": 3, "no_answer": True}
    for how in ({}, {"top": 4}, {"no_answer": True, "top": 3}, {"longest": 2, "top": 2}, windows):
        found = model.answer(pairs, **how)
        for (question, context), answers in zip(pairs, found):
            full = {"length": 128, "stride": min(128, how.get("length", 128) // 2)} | how
            same(answers, expected(folder, question, context, **full))
            assert all(entry.text == context[entry.start : entry.end] for entry in answers)


def test_words_found_twice_are_one_answer_and_grow_whole(tmp_path):
    model = quire.load(write(tmp_path, "QuestionAnswering", length=128))
    (answers,) = model.answer([(QUESTION, "unbelievably large and unbelievably believable")], top=30)
    assert len({entry.text.lower() for entry in answers}) == len(answers)
    for entry in answers:
        assert entry.text == " ".join(entry.text.split()) and entry.text.strip() == entry.text
        assert set(entry.text.split()) <= {"unbelievably", "large", "and", "believable"}


def test_a_context_without_an_answer(tmp_path):
    model = quire.load(write(tmp_path, "QuestionAnswering", length=32))
    assert model.answer([("x", "")]) == [[]]
    assert model.answer([("x", "")], no_answer=True) == [[Answer("", 1.0, 0, 0)]]
    assert model.answer([]) == []


def test_what_leaves_no_room_is_refused_before_any_work(tmp_path):
    model = quire.load(write(tmp_path, "QuestionAnswering", length=48))
    done: list[int] = []
    with pytest.raises(ContextError, match=r"question of pair 1 has \d+ tokens; with 3 around it a window of 48 keeps \d+ for the"):
        model.answer([("x", "y"), (TEXTS[1] * 2, CONTEXT)], progress=done.append)
    assert not done
    with pytest.raises(RecipeError, match="top is 0; allowed is 1 and more"):
        model.answer([("x", "y")], top=0)


def test_one_pair_for_a_list_of_pairs_is_named(tmp_path):
    model = quire.load(write(tmp_path, "QuestionAnswering", length=32))
    with pytest.raises(DataError, match=r"a list of pairs is needed, not one pair: write \[\('q', 'c d e'\)\]"):
        model.answer(("q", "c d e"))
    with pytest.raises(DataError, match="row 0: a pair of texts is needed, not NoneType"):
        model.answer([None])
