"""Vectors, ranks, labels and ids over HTTP are those that `quire.load` gives; what cannot be is refused with numbers and what to do."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire
from quire.binding import Contract
from quire.binding.truncation import Truncation
from quire.errors import ContextError, ModelError
from quire.serve.asks import Read
from quire.serve.desk import Desk
from tests.serve.conftest import Running, start
from tests.tasks.readers import write

TEXTS = ["a fox", "The quick brown fox jumps over the lazy dog.", "x"]
SPECIAL = ["<|im_start|>user", "[MASK]", "<|endoftext|>", "[SEP]", "</s>", "<pad>"]
ROUTES = {
    "/v1/embeddings": {"model": "bert", "input": "x"},
    "/rerank": {"model": "bert", "query": "x", "documents": ["y"]},
    "/classify": {"model": "bert", "input": "x"},
    "/tokenize": {"model": "bert", "prompt": "x"},
    "/detokenize": {"model": "bert", "tokens": [1]},
}


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, Path]]]:
    """Models with heads: `labels` (no, yes), `score` (one label)."""
    root = tmp_path_factory.mktemp("judges")
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "labels": ("SequenceClassification", {"labels": ["no", "yes"]}),
        "score": ("SequenceClassification", {"num_labels": 1}),
    }
    for name, (head, more) in kinds.items():
        (root / name).mkdir()
        write(root / name, head, **more)
    running = start(root, *(f"{name}={root / name}" for name in kinds))
    yield running, {name: root / name for name in kinds}
    running.stop()


def refused(running: Running, path: str, body: Any) -> dict[str, Any]:
    answer = running.post(path, body)
    assert answer.status_code == 400, (answer.status_code, answer.text)
    return dict(answer.json()["error"])


@pytest.mark.parametrize("name", ["bert", "chat", "t5"])
def test_vectors_are_those_of_the_model(server: Running, folders: dict[str, Path], name: str) -> None:
    model = quire.load(folders[name])
    wanted = model.embed(TEXTS)
    answer = server.post("/v1/embeddings", {"model": name, "input": TEXTS, "user": "me"}).json()
    assert answer["object"] == "list" and answer["model"] == name
    assert [(one["object"], one["index"]) for one in answer["data"]] == [("embedding", number) for number in range(len(TEXTS))]
    found = np.array([one["embedding"] for one in answer["data"]], dtype=np.float32)
    assert np.allclose(found, wanted, atol=1e-6)
    packed = server.post("/v1/embeddings", {"model": name, "input": TEXTS, "encoding_format": "base64"}).json()
    bits = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    assert np.array_equal(np.stack(bits), found), "both formats hold the same bits"
    count = sum(len(model.contract.whole(text)) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    one = server.post("/v1/embeddings", {"model": name, "input": TEXTS[1]}).json()
    assert np.allclose(one["data"][0]["embedding"], wanted[1], atol=1e-5)


def test_rows_of_ids_are_read_as_they_stand(server: Running, folders: dict[str, Path]) -> None:
    wanted = quire.load(folders["bert"]).embed(TEXTS)
    rows = [server.post("/tokenize", {"model": "bert", "prompt": text}).json()["tokens"] for text in TEXTS]
    found = server.post("/v1/embeddings", {"model": "bert", "input": rows}).json()
    assert np.allclose([one["embedding"] for one in found["data"]], wanted, atol=1e-5)
    assert found["usage"]["prompt_tokens"] == sum(map(len, rows))
    alone = server.post("/v1/embeddings", {"model": "bert", "input": rows[1]}).json()
    assert len(alone["data"]) == 1 and np.allclose(alone["data"][0]["embedding"], wanted[1], atol=1e-5)
    error = refused(server, "/v1/embeddings", {"model": "bert", "input": [[1, 2], [3, 100_000]]})
    assert "row 1 holds 100000; this model's ids go from 0 to " in error["message"]
    assert "holds -1" in refused(server, "/v1/embeddings", {"model": "bert", "input": [-1]})["message"]


def test_dimensions_keep_the_first_numbers_and_make_the_length_one(server: Running, folders: dict[str, Path]) -> None:
    whole = quire.load(folders["bert"]).embed(TEXTS)
    body = {"model": "bert", "input": TEXTS, "dimensions": 8}
    found = np.array([one["embedding"] for one in server.post("/v1/embeddings", body).json()["data"]])
    cut = whole[:, :8]
    assert np.allclose(found, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    error = refused(server, "/v1/embeddings", {**body, "dimensions": 33})
    assert (
        error["message"] == "'dimensions' is 33; this model's vectors have 32, so 1 to 32 are allowed." and error["param"] == "dimensions"
    )


def test_a_text_that_is_too_long_is_refused_with_numbers_or_cut_where_that_is_said(server: Running, folders: dict[str, Path]) -> None:
    long = "fox " * 200
    error = refused(server, "/v1/embeddings", {"model": "bert", "input": ["x", long]})
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("text 1 has ") and "this model reads 64 at once" in error["message"]
    assert '"truncate": true' in error["message"] and "long=" not in error["message"]
    model = quire.load(folders["bert"])
    for more, limit in (({"truncate": True}, 64), ({"truncate_prompt_tokens": -1}, 64), ({"truncate_prompt_tokens": 10}, 10)):
        found = server.post("/v1/embeddings", {"model": "bert", "input": long, **more}).json()
        assert found["usage"]["total_tokens"] == limit
        if limit == 64:
            assert np.allclose(found["data"][0]["embedding"], model.embed([long], long="cut")[0], atol=1e-5)
    row = server.post("/tokenize", {"model": "bert", "prompt": long}).json()["tokens"]
    assert "row 0 has " in refused(server, "/v1/embeddings", {"model": "bert", "input": row})["message"]
    cut = server.post("/v1/embeddings", {"model": "bert", "input": row, "truncate": True})
    left = len(row) - 64
    assert cut.json()["usage"] == {"prompt_tokens": 64, "total_tokens": 64, "truncated_tokens": left}
    assert cut.json()["data"][0]["truncated_tokens"] == left
    error = refused(server, "/v1/embeddings", {"model": "bert", "input": "x", "truncate_prompt_tokens": 1})
    assert error["message"] == "'truncate_prompt_tokens' is 1; with the 2 tokens around a text, 3 is the least. Raise it."
    assert error["param"] == "truncate_prompt_tokens" and error["code"] == "invalid_value"
    both = {"model": "bert", "input": "x", "truncate": False, "truncate_prompt_tokens": 3}
    assert "say different things" in refused(server, "/v1/embeddings", both)["message"]


def test_what_was_left_out_is_told_of_each_text_and_of_all(tmp_path: Path, server: Running) -> None:
    """Asked for, or as a model was tuned: by every route that cuts. A text that was read whole says nothing."""
    long, row = "fox " * 200, len(server.post("/tokenize", {"model": "bert", "prompt": "fox " * 200}).json()["tokens"])
    for packed in ("float", "base64"):
        body = {"model": "bert", "input": ["x", long], "truncate": True, "encoding_format": packed}
        found = server.post("/v1/embeddings", body).json()
        assert [one.get("truncated_tokens") for one in found["data"]] == [None, row - 64]
        assert found["usage"]["truncated_tokens"] == row - 64
    body = {"model": "bert", "query": long, "documents": ["x", long], "truncate": True}
    found = server.post("/rerank", body).json()
    assert {one["index"]: one.get("truncated_tokens") for one in found["results"]} == {0: None, 1: row - 64}
    assert found["usage"]["truncated_tokens"] == 2 * (row - 64), "the query, which is read alone, was cut too"
    assert "truncated_tokens" not in str(server.post("/rerank", {**body, "query": "x", "documents": ["y"]}).json())

    folder = write(tmp_path / "tuned", "SequenceClassification", labels=["no", "yes"])
    replace(Contract.open(folder), truncation=Truncation(16, "head-tail")).save(folder)
    running = start(tmp_path, f"tuned={folder}")
    try:
        cut: list[int] = []
        wanted = quire.load(folder).classify(["x", long, ("x", long)], cut=cut)
        found = [running.post("/classify", {"model": "tuned", "input": texts}).json() for texts in (["x", long], [["x", long]])]
        assert [one.get("truncated_tokens") for one in found[0]["data"]] == [None, cut[1]]
        assert found[0]["usage"]["truncated_tokens"] == cut[1]
        assert found[0]["data"][1]["scores"] == pytest.approx(wanted[1], abs=1e-5)
        assert found[1]["usage"] == {"prompt_tokens": 16, "total_tokens": 16, "truncated_tokens": cut[2], "completion_tokens": 0}
        ranked = running.post("/rerank", {"model": "tuned", "query": "x", "documents": [long, "y"], "label": "yes"}).json()
        assert {one["index"]: one.get("truncated_tokens") for one in ranked["results"]} == {0: cut[2], 1: None}
        error = refused(running, "/classify", {"model": "tuned", "input": long, "truncate": False})
        assert "this model was tuned on texts of at most 16 tokens. Shorten or divide it" in error["message"]
        assert 'leave out "truncate": false: it is then cut as the model was tuned (head-tail).' in error["message"]
        assert '"truncate": true' not in error["message"] and error["param"] == "input"
        error = refused(running, "/classify", {"model": "tuned", "input": [["x", long]], "truncate_prompt_tokens": 4})
        assert error["message"] == "'truncate_prompt_tokens' is 4; with the 3 tokens around a pair, 5 is the least. Raise it."
    finally:
        running.stop()


def test_ranks_by_vectors_and_by_labels(server: Running, folders: dict[str, Path], judges: tuple[Running, dict[str, Path]]) -> None:
    judge, heads = judges
    for running, name, folder, label in (
        (server, "bert", folders["bert"], None),
        (judge, "score", heads["score"], None),
        (judge, "labels", heads["labels"], "yes"),
    ):
        wanted = quire.load(folder).rerank("a fox", TEXTS, label)
        body = {"model": name, "query": "a fox", "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]], "label": label}
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            found = running.post(path, body).json()
            assert [one["index"] for one in found["results"]] == [number for number, _ in wanted]
            assert [one["relevance_score"] for one in found["results"]] == pytest.approx([score for _, score in wanted], abs=1e-5)
            assert all(one["document"] == {"text": TEXTS[one["index"]]} for one in found["results"])
            assert found["model"] == name and found["usage"]["total_tokens"] > 0
        best = running.post("/rerank", {**body, "top_n": 1, "return_documents": False}).json()
        assert [sorted(one) for one in best["results"]] == [["index", "relevance_score"]]
    error = refused(judge, "/rerank", {"model": "labels", "query": "x", "documents": ["y"]})
    assert "this model has no, yes. Name the one whose score counts" in error["message"]
    assert judge.post("/classify", {"model": "labels", "input": "x"}).status_code == 200, "the refusal has ended nothing else"


def test_labels_are_those_of_the_model(judges: tuple[Running, dict[str, Path]]) -> None:
    judge, heads = judges
    model, pairs = quire.load(heads["labels"]), [("a fox", "x"), ("x", "the lazy dog")]
    for given in (TEXTS, pairs):
        found = judge.post("/classify", {"model": "labels", "input": given}).json()
        for number, (one, wanted) in enumerate(zip(found["data"], model.classify(given), strict=True)):
            assert one["index"] == number and one["num_classes"] == 2 and one["label"] == next(iter(wanted))
            assert one["scores"] == pytest.approx(wanted, abs=1e-5)
            assert one["probs"] == pytest.approx([wanted["no"], wanted["yes"]], abs=1e-5)
    row = judge.post("/tokenize", {"model": "labels", "prompt": TEXTS[1]}).json()["tokens"]
    [one] = judge.post("/classify", {"model": "labels", "input": row}).json()["data"]
    assert one["scores"] == pytest.approx(model.classify([TEXTS[1]])[0], abs=1e-5)


def test_a_model_without_the_head_says_what_it_can(server: Running, tmp_path: Path) -> None:
    said = refused(server, "/classify", {"model": "bert", "input": "x"})["message"]
    assert said == "this model gives no labels of texts. It makes vectors (/v1/embeddings), ranks texts by them (/rerank)."
    assert (
        "writes (/v1/completions), answers (/v1/chat/completions)"
        in refused(server, "/classify", {"model": "chat", "input": "x"})["message"]
    )
    tags = Desk(quire.load(write(tmp_path, "TokenClassification", num_labels=3)), {})
    with pytest.raises(ModelError, match="gives no labels of texts"):
        tags.prepare(1, Read("rerank", ["y"], query="x"))
    said = refused(server, "/tokenize", {"model": "base", "messages": [{"role": "user", "content": "x"}]})["message"]
    assert said.startswith("this model has no chat template, so it has no conversations. It makes vectors")


def test_ids_of_texts_and_of_conversations_and_back(server: Running, folders: dict[str, Path]) -> None:
    model = quire.load(folders["chat"])
    body = {"model": "chat", "prompt": TEXTS[1], "return_token_strs": True}
    found = server.post("/tokenize", body).json()
    assert found["tokens"] == model.contract.prompt(TEXTS[1]) and found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["token_strs"] == [model.contract.tokenizer.token(id) for id in found["tokens"]] and found["max_model_len"] == 512
    bare = server.post("/tokenize", {**body, "add_special_tokens": False, "return_token_strs": None}).json()
    assert bare["tokens"] == model.contract.tokenizer.encode(TEXTS[1]) and bare["token_strs"] is None
    assert server.post("/detokenize", {"model": "chat", "tokens": bare["tokens"]}).json() == {"prompt": TEXTS[1]}
    turns = [{"role": "user", "content": "hello"}]
    asked = server.post("/tokenize", {"model": "chat", "messages": turns}).json()
    assert asked["tokens"] == model.chat_ids([quire.Message("user", "hello")])
    said = server.post("/v1/chat/completions", {"model": "chat", "messages": turns, "max_tokens": 1}).json()
    assert said["usage"]["prompt_tokens"] == asked["count"]
    assert "give either 'prompt' or 'messages'" in refused(server, "/tokenize", {**body, "messages": turns})["message"]
    assert "'tokens' holds the id 100000" in refused(server, "/detokenize", {"model": "chat", "tokens": [100_000]})["message"]


def test_the_tokenizer_is_told_of_one_model_and_never_of_another(server: Running, folders: dict[str, Path]) -> None:
    answer = server.client.get("/tokenizer_info")
    assert answer.status_code == 400 and "Name one: /tokenizer_info?model=" in answer.json()["error"]["message"]
    found = server.client.get("/tokenizer_info", params={"model": "base"}).json()
    assert found["special_ids"] == quire.load(folders["base"]).contract.tokenizer.special_ids and found["eos_token"] is None
    assert (found["model"], found["model_max_length"]) == ("base", 512)


def test_spelt_special_tokens_stay_text(server: Running, folders: dict[str, Path], judges: tuple[Running, dict[str, Path]]) -> None:
    for name in ("chat", "bert", "t5"):
        special = set(quire.load(folders[name]).contract.tokenizer.special_tokens.values())
        for text in SPECIAL:
            ids = server.post("/tokenize", {"model": name, "prompt": f"a {text} b", "add_special_tokens": False}).json()["tokens"]
            assert not special & set(ids) - {quire.load(folders[name]).contract.tokenizer.unk}, (name, text)
    judge, heads = judges
    plain = {text: len(quire.load(heads["labels"]).contract.whole(text)) for text in ("[SEP] [MASK]", "x")}
    assert plain["[SEP] [MASK]"] > 4, "the spellings are several tokens each"
    one = judge.post("/v1/embeddings", {"model": "labels", "input": "[SEP] [MASK]"}).json()["usage"]["total_tokens"]
    labelled = judge.post("/classify", {"model": "labels", "input": "[SEP] [MASK]"}).json()["usage"]["total_tokens"]
    ranked = judge.post("/rerank", {"model": "score", "query": "x", "documents": ["[SEP] [MASK]"]}).json()["usage"]["total_tokens"]
    assert (one, labelled, ranked) == (plain["[SEP] [MASK]"], plain["[SEP] [MASK]"], plain["[SEP] [MASK]"] + plain["x"] - 1)


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("/v1/embeddings", {"input": []}, "none of the lists may be empty"),
        ("/v1/embeddings", {"input": ["x", 1]}, "the entry 1 is not a text or a list of ids like the first"),
        ("/v1/embeddings", {"input": [True]}, "the entry 0 is not a text"),
        ("/v1/embeddings", {"input": [["a", "b"]]}, "the entry 0 is not a text or a list of ids"),
        ("/v1/embeddings", {"input": ["x"] * 10_001}, "there are 10,001 texts; at most 10,000"),
        ("/v1/embeddings", {"encoding_format": "int8"}, "'float' or 'base64'"),
        ("/v1/embeddings", {"dimensions": 0}, "greater than or equal to 1"),
        ("/v1/embeddings", {"dimensions": 9999}, "'dimensions' is 9999; this model's vectors have "),
        ("/v1/embeddings", {"input": [[100_000]]}, "row 0 holds 100000; this model's ids go from 0 to "),
        ("/v1/embeddings", {"truncate_prompt_tokens": 0}, "'truncate_prompt_tokens' is 0"),
        ("/rerank", {"label": "x"}, "'label' is 'x'; this model has no labels: it compares vectors. Leave it out."),
        ("/detokenize", {"tokens": [100_000]}, "'tokens' holds the id 100000"),
        ("/v1/embeddings", {"dimension": 8}, "unknown field 'dimension'"),
        ("/rerank", {"documents": []}, "'documents' should have at least 1 item; it is a list of 0."),
        ("/rerank", {"documents": [{"text": "a", "title": "b"}]}, "title"),
        ("/rerank", {"max_tokens_per_doc": 10}, "documents are cut only where 'truncate'"),
        ("/rerank", {"rank_fields": ["title"]}, "a document is one text"),
        ("/classify", {"priority": 3}, "all requests have one priority"),
        ("/tokenize", {"chat_template": "{{ x }}"}, "the model's own template is used"),
        ("/tokenize", {"tools": [{}]}, "'tools' belong to 'messages'"),
        ("/detokenize", {"tokens": [-1]}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(server: Running, path: str, more: dict[str, Any], said: str) -> None:
    error = refused(server, path, {**ROUTES[path], **more})
    assert said in error["message"] and error["param"] and error["code"] in ("invalid_value", "unknown_field", "unsupported_field", None)
    assert error["code"] is not None or more.keys() == {"tools"}, "what contradicts another field has no code"


def test_what_a_model_refuses_names_the_field(server: Running, judges: tuple[Running, dict[str, Path]]) -> None:
    """As the request calls it, though a worker knows no request."""
    judge, _ = judges
    long = "fox " * 700
    for running, path, body, param in (
        (server, "/v1/embeddings", {"model": "bert", "input": long}, "input"),
        (server, "/v1/embeddings", {"model": "bert", "input": [[9999]]}, "input"),
        (server, "/rerank", {"model": "bert", "query": long, "documents": ["x"]}, "query"),
        (server, "/rerank", {"model": "bert", "query": "x", "documents": [long]}, "documents"),
        (judge, "/rerank", {"model": "labels", "query": "x", "documents": ["y"]}, "label"),
        (server, "/classify", {"model": "bert", "input": "x"}, "model"),
        (server, "/detokenize", {"model": "bert", "tokens": [9999]}, "tokens"),
        (server, "/generate", {"model": "chat", "prompt": long}, "prompt"),
        (server, "/generate", {"model": "chat", "prompt": "x", "max_length": 1}, "max_length"),
        (server, "/v1/completions", {"model": "chat", "prompt": long}, "prompt"),
        (server, "/v1/completions", {"model": "chat", "prompt": "x", "suffix": "y"}, "suffix"),
        (server, "/v1/completions", {"model": "chat", "prompt": "x", "max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        (server, "/v1/completions", {"model": "chat", "prompt": "x", "structured_outputs": {"regex": "("}}, "structured_outputs"),
        (server, "/v1/chat/completions", {"model": "base", "messages": [{"role": "user", "content": "x"}]}, "model"),
        (server, "/v1/responses", {"model": "chat", "input": long}, "input"),
        (server, "/v1/responses", {"model": "chat", "input": "x", "tool_choice": "required"}, "tool_choice"),
    ):
        error = refused(running, path, body)
        assert error["param"] == param, error
        assert not error["message"].startswith((f"{param} is ", "sampling"))


def test_a_key_may_bound_the_length_of_a_text(folders: dict[str, Path]) -> None:
    desk = Desk(quire.load(folders["bert"]), {})
    with pytest.raises(ContextError, match=r"a text has 9 tokens with those around it; this key may send 8\."):
        desk.prepare(1, Read("embed", [[5] * 9, [5]], most_input=8))
    desk.prepare(1, Read("embed", [[5] * 9], long="cut", limit=8, most_input=8))


def test_every_text_field_bears_what_no_tokenizer_takes(server: Running) -> None:
    half = '{"model": "bert", "input": "\\ud800"}'
    answer = server.client.post("/v1/embeddings", content=half, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
