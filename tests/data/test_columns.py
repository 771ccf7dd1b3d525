"""Typed rows of records: the usual spellings are known, two readings are never guessed between, and every wrong value is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.data import columns
from quire.data.problems import MOST
from quire.data.records import Record, read
from quire.errors import DataError
from quire.tasks.tuning.schemas import SCHEMAS, Chat, Labelled, Prompt, Question, Ranked, Rewrite, Row, Similar, Tagged
from quire.types import Message


def rows(*fields: dict[str, Any], **options: Any) -> list[Row]:
    return list(columns.rows([Record(one, f"a.jsonl:{line}") for line, one in enumerate(fields, start=1)], **options))


def refusal(*fields: dict[str, Any], **options: Any) -> str:
    with pytest.raises(DataError) as error:
        rows(*fields, **options)
    return str(error.value)


def say(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]


def talk(*turns: Any) -> dict[str, Any]:
    return {"messages": [{"role": turn[0], "content": turn[1]} if isinstance(turn, tuple) else turn for turn in turns]}


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
}
ASKED = say(("user", "q"), ("assistant", "a"))
SPAN = {"question": "q", "context": "ab Jack", "id": 7}
FORMS: list[tuple[dict[str, Any], Row]] = [
    (talk(("user", "q"), ("assistant", "a")) | {"id": 1}, Chat(ASKED)),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, Chat(ASKED)),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        Chat((Message("system", "s"), *ASKED)),
    ),
    ({"instruction": "q", "input": "", "output": "a"}, Chat(ASKED)),
    ({"instruction": "q", "input": "i", "response": "a"}, Chat(say(("user", "q\n\ni"), ("assistant", "a")))),
    ({"system_prompt": "s", "question": "q", "response": "a"}, Chat((Message("system", "s"), *ASKED))),
    ({"question": "q", "answer": "a", "system": ""}, Chat(ASKED)),
    ({"prompt": "p", "completion": " c"}, Prompt("p", " c")),
    ({"text": "t", "label": "x", "rating": 3}, Labelled("t", ("x",))),
    ({"review": "t", "stars": 5}, Labelled("t", ("5",))),
    ({"sentence": "t", "labels": ["x", 2]}, Labelled("t", ("x", "2"))),
    ({"text": "t", "label": True}, Labelled("t", ("true",))),
    ({"text": "t", "score": "2.5"}, Labelled("t", number=2.5)),
    ({"premise": "t", "hypothesis": "u", "label": 0}, Labelled("t", ("0",), "u")),
    ({"question": "t", "sentence": "u", "label": 0, "idx": 1}, Labelled("t", ("0",), "u")),
    ({"tokens": ["a", "b"], "tags": ["B-PER", "O"]}, Tagged(("a", "b"), ("B-PER", "O"))),
    ({"words": ["a", "-"], "tags": ["NN", "-LRB-"]}, Tagged(("a", "-"), ("NN", "-LRB-"))),
    (SPAN | {"answers": [{"text": "Jack", "answer_start": 3}], "is_impossible": False}, Question("q", "ab Jack", (("Jack", 3),), "7")),
    (SPAN | {"answers": {"text": [], "answer_start": []}}, Question("q", "ab Jack", (), "7")),
    ({"source": "s", "target": "t"}, Rewrite("s", "t")),
    ({"source": ["s.", "", "u"], "target": ["t", "v", "t"]}, Rewrite("s. u", "t", ("v",))),
    ({"source": "s", "target": ["t", "", None, "v"]}, Rewrite("s", "t", ("v",))),
    ({"article": "s", "summary": "t"}, Rewrite("s", "t")),
    ({"anchor": "a", "positive": "b"}, Similar("a", "b")),
    ({"anchor": "a", "positive": "b", "score": 0.5}, Similar("a", "b", 0.5)),
    ({"anchor": "a", "positive": "b", "negative": "c"}, Ranked("a", "b", ("c",))),
    ({"query": "a", "positive": "b", "negatives": ["c", "d"], "scores": [2, 1.5, 0]}, Ranked("a", "b", ("c", "d"), (2.0, 1.5, 0.0))),
]


@pytest.mark.parametrize(("fields", "row"), FORMS)
def test_usual_forms_are_read(fields: dict[str, Any], row: Row) -> None:
    assert rows(fields) == [row] == rows(fields, schema=row.schema)
    assert rows(fields)[0].where == "a.jsonl:1"


def test_every_schema_has_a_form() -> None:
    assert {row.schema for _, row in FORMS} == set(SCHEMAS)


def test_tool_calls_come_out_as_the_server_has_them() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    bare = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
    for call, identity in ((CALL, {"id": "1"}), (bare, {})):
        (row,) = rows(
            talk(("user", "q"), call, {"role": "tool", "content": "4", "tool_call_id": "1"}, ("assistant", "a")) | {"tools": tools}
        )
        assert isinstance(row, Chat) and row.tools == tuple(tools)
        assert row.messages[1].tool_calls == (identity | {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},)
    said = json.dumps({"name": "f", "arguments": {"x": 1}})
    turns = [("human", "q"), ("function_call", said), ("observation", "4"), ("gpt", "a")]
    (row,) = rows({"conversations": [{"from": who, "value": what} for who, what in turns], "tools": json.dumps(tools)})
    assert isinstance(row, Chat) and row.messages[1].tool_calls[0]["function"]["arguments"] == '{"x": 1}' and row.tools == tuple(tools)


def test_columns_rename_join_and_reach_inside() -> None:
    assert rows({"body": "t", "y": "x"}, columns={"text": "body", "label": "y"}) == [Labelled("t", ("x",))]
    assert rows({"title": "t", "body": "u", "label": 1}, columns={"text": "title+body"}) == [Labelled("t u", ("1",))]
    translation = {"translation": {"en": "s", "de": "t"}}
    assert rows(translation, columns={"source": "translation.en", "target": "translation.de"}) == [Rewrite("s", "t")]
    assert "Say which language is the source: set data.columns to 'source=translation.en', 'target=translation.de'" in refusal(translation)
    assert rows({"text": "t", "label": "3", "score": 1.5}, columns={"label": "score"}) == [Labelled("t", number=1.5)]
    assert rows({"text": "t", "label": "3"}, number=True) == [Labelled("t", number=3.0)]


def test_label_names() -> None:
    for names in (("neg", "pos"), {"0": "neg", "1": "pos"}):
        found = rows(*({"text": "t", "label": label} for label in (0, "1", "pos")), label_names=names)
        assert [row.answers() for row in found] == [("neg",), ("pos",), ("pos",)]
    assert rows({"tokens": ["a"], "ner_tags": [1]}, label_names=("O", "B-PER")) == [Tagged(("a",), ("B-PER",))]
    said = refusal({"text": "t", "label": 2}, {"text": "t", "label": "poss"}, label_names=("neg", "pos"))
    assert "'label' is '2', which is none of the labels. Does the file count from 1?" in said and "(1=neg)" in said
    assert "'label' is 'poss', which is none of the labels. Did you mean 'pos'? Known: 0=neg, 1=pos." in said


def test_class_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("World\nSci/Tech\n\n")
    assert columns.class_names(tmp_path / "classes.txt", first=1) == {"1": "World", "2": "Sci/Tech"}
    (tmp_path / "classes.txt").write_text("World\nWorld\n")
    with pytest.raises(DataError, match="the name of a class on each line, each once"):
        columns.class_names(tmp_path / "classes.txt")


def test_two_readings_are_not_guessed_between() -> None:
    pair = {"sentence1": "a", "sentence2": "b", "score": "4.2"}
    said = refusal(pair)
    assert "a.jsonl:1 can be read as labelled (labelled pairs: 'sentence1', 'sentence2', 'score') or as similar" in said
    assert "set data.schema to 'labelled' or 'similar'" in said
    assert rows(pair, schema="similar") == [Similar("a", "b", 4.2)] and rows(pair, number=True) == [Labelled("a", (), "b", 4.2)]
    assert "set data.schema to 'labelled' or 'rewrite'" in refusal({"text": "t", "label": "x", "summary": "s"})
    said = refusal({"text": "t", "label": "x", "category": "y"})
    assert (
        "has 'label' and 'category', and each could be the label. Say which is: set data.columns to 'label=label' or 'label=category'"
        in said
    )
    assert rows({"text": "t", "label": "x", "category": "y"}, columns={"label": "category"}) == [Labelled("t", ("y",))]
    assert "its 'question' would be left out" in refusal({"text": "t", "question": "q", "label": "x"})


def test_what_is_no_known_form_is_refused_with_the_way_out() -> None:
    said = refusal({"a stirring film": "x", "1": "0"})
    assert (
        "a.jsonl:1 has the columns 'a stirring film', '1', which is no form that is known (chat: messages" in said and "data.names" in said
    )
    said = refusal({"text": "t", "y": 1}, schema="labelled")
    assert "labelled (labelled texts) lacks 'label' (usually label|labels" in said
    assert (
        "data.schema is 'labeled'; allowed: auto, chat" in (said := refusal({"text": "t"}, schema="labeled"))
        and "Did you mean 'labelled'?" in said
    )
    assert (
        "names 'txt', which is no column of any schema" in (said := refusal({"a": "t"}, columns={"txt": "a"}))
        and "Did you mean 'text'?" in said
    )
    assert "the column 'reviw', which a.jsonl:1 does not have. Did you mean 'review'?" in refusal(
        {"review": "t"}, columns={"text": "reviw"}
    )
    assert "no schema has all of the columns" in refusal({"a": "t", "b": "u"}, columns={"text": "a", "prompt": "b"})
    assert "there are no rows" in refusal()


def test_mixed_schemas_name_both_places_and_what_counts_may_be_named() -> None:
    one, two, three = {"text": "t", "label": "x"}, {"text": "t", "labels": ["x"]}, {"text": "t", "label": "x", "extra": 1}
    said = refusal(one, two)
    assert "a.jsonl:2: mixed schemas: it lacks ['label'] and has also ['labels'], unlike the first row (a.jsonl:1: labelled texts" in said
    assert "has also ['extra']" in refusal(one, three)
    assert len(rows(one, three, columns={"text": "text", "label": "label"})) == 2
    assert "lacks ['label']" in refusal(one, {"text": "t"}, columns={"text": "text", "label": "label"})
    assert len(rows(*(talk(("user", "q"), ("assistant", "a")) | more for more in ({}, {"tools": []}, {"tools": None})))) == 3
    assert "'label' is a list of labels, but one label in a.jsonl:1" in refusal(one, {"text": "t", "label": ["x"]})


USER, SAID = ("user", "q"), ("assistant", "a")
WRONG_TURNS: list[tuple[dict[str, Any], str]] = [
    (talk(SAID, USER), "'messages[1]' is an assistant turn at the beginning; a user turn"),
    (talk(("system", "s"), SAID), "'messages[2]' is an assistant turn after a system turn"),
    (talk(USER, USER, SAID), "'messages[2]' is a user turn after a user turn"),
    (talk(USER, SAID, SAID), "'messages[3]' is an assistant turn after an assistant turn"),
    (talk(USER, SAID, USER), "'messages' ends with a user turn; the assistant must have the last word"),
    (talk(), "'messages' has no turns"),
    (talk(USER, ("system", "s"), SAID), "'messages[2]' is a system turn after a user turn; only the first"),
    (talk(USER, ("tool", "4"), SAID), "'messages[2]' is a tool's answer, and no call"),
    (talk(USER, CALL, SAID), "'messages[3]' is an assistant turn, but 1 calls before it have no tool's answer"),
    (talk(USER, CALL, {"role": "tool", "content": "4", "tool_call_id": "2"}, SAID), "answers the call '2'; the calls that wait are ['1']"),
    (talk(USER, CALL, ("tool", "4"), USER, SAID), "'messages[4]' is a user turn after a tool turn"),
    (
        talk(USER, ("asistant", "a")),
        "'messages[2]' has the role 'asistant'; allowed: system, user, assistant, tool. Did you mean 'assistant'?",
    ),
    (talk(("human", "q"), SAID), "Such names are ShareGPT's"),
    (talk(USER, ("assistant", " ")), "'messages[2].content' is empty"),
    (talk(USER, ("assistant", None)), "'messages[2].content' is missing; a text is needed"),
    (talk(USER, ("assistant", [{"type": "text"}])), "'messages[2].content' is [{'type': 'text'}], of type list; a text is needed"),
    (talk(USER, {"role": "assistant", "content": "a", "weight": 0}), "'messages[2]' has 'weight', which no template is given"),
    (talk(USER, {"content": "a"}), "'messages[2]' has no 'role'; its keys are ['content']"),
    (talk(USER, "a"), "'messages[2]' is 'a'; an object with role is needed"),
    (talk(USER, {**CALL, "tool_calls": "{x"}), "'messages[2].tool_calls' is '{x', which is no JSON"),
    (talk(USER, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}), "arguments' is '{x', which is no JSON"),
    (talk(USER, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}), "an object, or JSON of one, is needed"),
    (talk(USER, {**CALL, "tool_calls": [{"type": "function"}]}), "a call is {function: {name, arguments}}"),
    (talk({**CALL, "role": "user"}, SAID), "is a user turn with tool_calls"),
    (talk(USER, CALL) | {"tools": [{"function": {"name": "ff"}}]}, "the function 'f' is called, which 'tools' does not define (ff)."),
    (talk(USER, CALL) | {"tools": [{"description": "d"}]}, "'tools[1]' is {'description': 'd'}; a tool is"),
    ({"messages": "q"}, "'messages' is 'q', of type str; a list of turns"),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, "'conversations[1]' is an assistant turn at the beginning"),
    ({"conversations": [{"from": "bot", "value": "a"}]}, "'conversations[1]' is from 'bot'; allowed: human"),
    ({"conversations": [{"role": "user", "content": "a"}]}, "'conversations[1]' has no 'from'; its keys are ['role', 'content']"),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "q", "output": ""}, "'output' is empty. Take the row out, or give it its text."),
    ({"question": "q", "answer": ["a"]}, "'answer' is ['a'], of type list; a text is needed"),
    ({"instruction": "q", "output": None}, "'output' is missing"),
    ({"prompt": "p", "completion": "\n"}, "'completion' is empty"),
    ({"prompt": [{"role": "user"}], "completion": "c"}, "'prompt' is [{'role': 'user'}], of type list"),
    ({"text": "", "label": "x"}, "'text' is empty"),
    ({"text": "a\ud800", "label": "x"}, "'text' holds half a surrogate pair at character 1"),
    ({"text": "a\0", "label": "x"}, "'text' holds a NUL character"),
    ({"text": "ü\0", "label": "x"}, "'text' holds a NUL character"),
    ({"text": "t", "label": None}, "'label' is missing (None)"),
    ({"text": "t", "label": ""}, "'label' is empty"),
    ({"text": "t", "label": float("nan")}, "'label' is nan, which is no label. Take the row out"),
    ({"text": "t", "label": 0.5}, "'label' is 0.5, a number with a fraction. For a regression set task.labels to 'number'"),
    (
        {"text": "t", "label": 1.0},
        "'label' is 1.0, a number written with a point. For a regression set task.labels to 'number'; a class is",
    ),
    ({"text": "t", "label": {"a": 1}}, "'label' is {'a': 1}, of type dict"),
    ({"text": "t", "labels": ["x", "x"]}, "'labels' is ['x', 'x'], with a label twice"),
    ({"text": "t", "score": float("nan")}, "'score' is nan; a finite number is needed"),
    ({"text": "t", "score": "high"}, "'score' is 'high'; a number is needed"),
    ({"text": "t", "score": True}, "'score' is True; a number is needed"),
    ({"premise": "t", "hypothesis": " ", "label": 0}, "'hypothesis' is empty"),
    ({"tokens": ["a", "b"], "tags": ["O"]}, "'tags' has 1 tags for 2 words"),
    ({"tokens": ["a"], "tags": ["X-PER"]}, "'tags' holds the tag 'X-PER'; allowed: B-NAME"),
    ({"tokens": ["a"], "tags": ["b-PER"]}, "'tags' holds the tag 'b-PER'"),
    ({"tokens": ["a"], "tags": ["B-"]}, "'tags' holds the tag 'B-'"),
    ({"tokens": ["a"], "ner_tags": [3]}, "holds the number 3; which tag is it? Give the tags' names, in order from 0, in data.label_names"),
    ({"tokens": "a b", "tags": ["O", "O"]}, "'tokens' is 'a b', of type str; a list of words"),
    ({"tokens": [], "tags": []}, "'tokens' is an empty list"),
    ({"tokens": ["a", ""], "tags": ["O", "O"]}, "'tokens' is empty"),
    (
        SPAN | {"answers": [{"text": "Jack", "answer_start": 1}]},
        "the answer 'Jack' is not at character 1 of the context (there stands 'b Ja'); it begins at 3",
    ),
    (SPAN | {"answers": [{"text": "Jack", "answer_start": -4}]}, "not at character -4 of the context, which has 7; it begins at 3"),
    (SPAN | {"answers": [{"text": "jack", "answer_start": 3}]}, "(there stands 'Jack'), nor anywhere else in it"),
    (
        SPAN | {"answers": [{"text": "Jack", "answer_start": "3"}]},
        "'answers.answer_start' is '3'; the number of the answer's first character",
    ),
    (SPAN | {"answers": [{"text": "", "answer_start": 0}]}, "'answers.text' is empty"),
    (SPAN | {"answers": ["Jack"]}, "'answers' holds 'Jack'; an answer is {text, answer_start}"),
    (SPAN | {"answers": {"text": ["Jack"], "answer_start": []}}, "'answers' has 1 texts and 0 starts"),
    (SPAN | {"answers": None}, "'answers' is missing; a list of answers"),
    (SPAN | {"answers": [], "is_impossible": False}, "'is_impossible' is False, and there are 0 answers"),
    (SPAN | {"answers": [{"text": "Jack", "answer_start": 3}], "is_impossible": True}, "'is_impossible' is True, and there are 1 answers"),
    ({"source": "s", "target": ""}, "'target' is empty"),
    ({"source": [], "target": "t"}, "'source' is empty"),
    ({"source": "s", "target": []}, "'target' is empty"),
    ({"anchor": "a", "positive": "b", "score": float("inf")}, "'score' is inf; a finite number"),
    ({"messages": [{"role": {"a": 1}, "content": "x"}]}, "has the role {'a': 1}; allowed: "),
    ({"conversations": [{"from": ["human"], "value": "x"}]}, "is from ['human']; allowed: human"),
    ({"anchor": "a", "positive": "b", "score": 1e300}, "'score' is 1e+300, whose square no number of the model holds"),
    ({"anchor": "a", "positive": 1}, "'positive' is 1, of type int"),
    ({"anchor": "a", "positive": "b", "negatives": 1}, "'negatives' is 1, of type int; a list of texts"),
    (
        {"anchor": "a", "positive": "b", "negatives": ["c"], "scores": [1]},
        "'scores' has 1 numbers; 1 for the positive and 1 for the negatives",
    ),
    ({"anchor": "a", "positive": "b", "negatives": ["c"], "scores": [1, float("nan")]}, "'scores' is nan"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG_TURNS + WRONG)
def test_wrong_values_are_refused_with_their_place(fields: dict[str, Any], message: str) -> None:
    said = refusal(fields)
    assert said.startswith("a.jsonl:1: ") and message in said


def test_faults_are_gathered_and_values_cut() -> None:
    bad = {"text": "", "label": "x"}
    said = refusal({"text": "t", "label": "x"}, *[bad] * 7)
    assert "(7 faults; the first 5)" in said and "a.jsonl:2: " in said and "a.jsonl:6: " in said and "a.jsonl:7" not in said
    assert "more than 1,000 faults" in refusal(*[bad] * (MOST + 9))
    assert len(refusal({"text": ["x" * 5000] * 99, "label": "x"})) < 300


def test_rows_stream() -> None:
    def endless() -> Any:
        while True:
            yield Record({"text": "t", "label": "x"}, "here")

    assert next(columns.rows(endless())) == Labelled("t", ("x",))


def test_instructions_in_a_real_json_file(tmp_path: Path) -> None:
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "q", "input": "", "output": "a"}]))
    assert list(columns.rows(read([str(tmp_path / "alpaca.json")]))) == [Chat(ASKED)]


STSB = ("genre", "file", "year", "id", "score", "sentence1", "sentence2", "...")
REAL: list[tuple[str, int, type[Row], tuple[str, ...], dict[str, Any]]] = [
    ("classification/sst2/train.tsv", 6920, Labelled, ("text", "label"), {}),
    ("classification/ag_news/ag_news_a.csv.gz", 6025, Labelled, ("label", "title", "body"), {"columns": {"text": "title+body"}}),
    ("classification/banking77", 13083, Labelled, (), {}),
    ("classification/imdb/train.jsonl.gz", 24902, Labelled, (), {}),
    ("qa/squad2_dev_a.json.gz", 2943, Question, (), {}),
    ("qa/xquad_en.json", 1009, Question, (), {}),
    ("ner/wnut17", 5690, Tagged, (), {}),
    ("retrieval/stsb/sts-train.tsv", 3749, Similar, STSB, {"schema": "similar"}),
    ("summaries", 2611, Rewrite, (), {}),
    ("instructions/instruction_data_1100.json", 1100, Chat, (), {}),
    ("instructions/gsm8k_train.jsonl.gz", 7473, Chat, (), {}),
    ("translation/multi30k/train.en.gz+{}translation/multi30k/train.de.gz", 29000, Rewrite, (), {}),
]


@pytest.mark.needs_data
@pytest.mark.parametrize(("source", "count", "kind", "names", "options"), REAL)
def test_real_data(data_folder: Path, source: str, count: int, kind: type[Row], names: tuple[str, ...], options: dict[str, Any]) -> None:
    if "ag_news" in source:
        options = options | {"label_names": columns.class_names(data_folder / "classification/ag_news/classes.txt", first=1)}
    found = list(columns.rows(read([f"{data_folder}/{source.format(f'{data_folder}/')}"], names), **options))
    assert len(found) == count and {type(row) for row in found} == {kind}


def test_one_column_whose_name_holds_a_separator_is_said_to_be_several() -> None:
    assert "is one column, and its name looks like several: the values seem to be parted by semicolons" in refusal({"text;label": "a;b"})
    assert "parted by tabs: name the file .tsv" in refusal({"text\tlabel": "a\tb"}, columns={}, schema="labelled")
    assert "looks like several" not in refusal({"text;label": "a", "other": "b"})
