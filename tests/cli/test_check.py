"""`quire check`: what it prints, writes and returns for sound and unsound rows, with a model and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import ours
from benchmarks.faults.seeds import Row, chats, labelled, tagged
from quire.cli import check
from quire.cli.main import main
from quire.train import defaults
from quire.train.recipe import TrainRecipe


def rows(path: Path, found: tuple[Row, ...]) -> str:
    return ours.jsonl(path, found)


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with ours.start("user-turns-trained") as folder:
        yield str(folder)


def test_rows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rows(tmp_path / "rows.jsonl", labelled())]) == 0
    told = capsys.readouterr().out
    assert "checks in " in told and "a run would begin" in told and "With --model they are looked at as that model reads them." in told
    assert "11 of 11 checks found nothing (--json names them)" in told and "label-spellings" not in told


def test_what_would_be_refused_is_shown_with_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spelt = (*labelled(), {"text": "one more text", "label": "Positive"})
    code = main(["check", rows(tmp_path / "rows.jsonl", spelt), "--test", rows(tmp_path / "test.jsonl", labelled(4))])
    told = capsys.readouterr().out
    assert code == 2 and "2 of them would refuse a run" in told and " of 11 checks found nothing" in told
    assert "one label in two spellings" in told and "rows that answer nothing" not in told
    assert "refused label-spellings: 1 label looks like another one in a second spelling" in told
    assert "rows.jsonl:49) against 'positive'" in told
    assert "refused test-rows-leak: 4 of 4 rows" in told or "refused test-rows-leak: 4 of " in told


def test_rows_that_cannot_be_read_are_a_finding_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": \n')
    assert main(["check", str(tmp_path / "rows.jsonl"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)["checks"]
    assert [(one["check"], one["outcome"]) for one in found] == [("readable", "refused")] and "rows.jsonl:2: no JSON" in found[0]["says"]


def test_all_faults_of_a_file_are_counted_and_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"text": "a", "label": "x"}\n{"text": \n{"text": "b", "label": "x"}\n{"text": "", "label": "x"}\n'
    )
    assert main(["check", str(tmp_path / "rows.jsonl")]) == 2
    told = capsys.readouterr().out
    assert "(2 faults)" in told and "rows.jsonl:2: no JSON" in told and "rows.jsonl:4: 'text' is empty" in told
    assert told[told.index("rows that cannot be read") :].splitlines()[0].split()[-3:-1] == ["refused", "2"]
    assert main(["check", str(tmp_path / "other.jsonl")]) == 2  # here nothing was counted
    told = capsys.readouterr().out
    assert (
        "refused readable: the source" in told and told[told.index("rows that cannot be read") :].splitlines()[0].split()[-2] == "refused"
    )


def test_which_column_is_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{number},a review of number {number},{'good' if number % 2 else 'bad'}\n" for number in range(30)]
    (tmp_path / "rows.csv").write_text("id,review,stars\n" + "".join(lines))
    (tmp_path / "test.csv").write_text("sentence,class\nsomething else,good\n")
    words = ["check", str(tmp_path / "rows.csv"), "--test", str(tmp_path / "test.csv")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "columns: text = review, label = stars; not read: 'id'\n" in told
    assert "columns of data.test: text = sentence, label = class\n" in told
    assert main([*words, "--json"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert columns["train"] == {"read": {"text": "review", "label": "stars"}, "unread": ["id"]}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_number_among_names_of_labels_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [{"text": f"number {number}", "label": "good" if number % 2 else "bad"} for number in range(30)]
    found[4]["label"] = 3  # type: ignore[assignment]
    lines = [f"{row['text']},{row['label']}\n" if kind == "csv" else json.dumps(row) + "\n" for row in found]
    path = tmp_path / f"rows.{kind}"
    path.write_text("text,label\n" * (kind == "csv") + "".join(lines))
    assert main(["check", str(path)]) == 2
    told = capsys.readouterr().out
    assert "refused label-numbers: 1 of 30 rows (3.3 %) have a number as label ('3') among names" in told
    assert f"rows.{kind}:{6 if kind == 'csv' else 5}: '3'" in told and "data.label_names" in told
    assert main(["check", str(path), "--data.allow", "label-numbers"]) == 0
    assert main(["check", str(path), "--data.label-names", "1=bad", "3=good"]) == 0


def test_an_evaluation_of_which_nothing_is_left_is_a_finding_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = rows(tmp_path / "eval.jsonl", ({"text": "something else", "label": "never"},))
    code = main(["check", rows(tmp_path / "rows.jsonl", labelled()), "--eval", strange, "--data.allow", "label-unknown"])
    told = capsys.readouterr().out
    assert code == 2 and "refused readable: every row of the evaluation" in told and "1 of them would refuse a run" in told


def test_chats_are_shown_with_what_is_learned(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rows(tmp_path / "rows.jsonl", chats(6)), "--model", model, "--show", "1"]) == 0
    told = capsys.readouterr().out
    row = told[told.index("rows.jsonl:1: ") :] if "rows.jsonl:1: " in told else told[told.index("rows.jsonl:") :]
    assert " of them learned" in row
    learned = "".join(part.partition("»")[0] for part in row.split("«")[1:]).replace("|", "")
    assert learned.count("</s>") == 2 and "the " in learned and "what" not in learned


def test_what_is_advised_for_cut_rows_is_what_the_model_can_read(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(tmp_path / "rows.jsonl", chats(12, long=6))
    assert main(["check", path, "--model", model, "--longest", "96"]) == 2
    told = capsys.readouterr().out
    longest = told[told.index("With data.longest = ") :].split()[3]
    assert main(["check", path, "--model", model, "--longest", longest]) == 0
    more = ({"messages": [{"role": "user", "content": "and then?"}, {"role": "assistant", "content": "the end and " * 300}]},)
    main(["check", rows(tmp_path / "rows.jsonl", (*chats(8), *more)), "--model", model])
    context = json.loads((Path(model) / "config.json").read_text())["max_position_embeddings"]
    assert f"This model reads at most {context} tokens of a row (data.longest = {context})" in capsys.readouterr().out


def test_a_page_of_rows(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = ({"messages": [{"role": "user", "content": "<script>alert(1)</script> & more"}, {"role": "assistant", "content": "no"}]},)
    page = tmp_path / "page.html"
    assert main(["check", rows(tmp_path / "rows.jsonl", (*chats(4), *hostile)), "--model", model, "--html", str(page)]) == 0
    html = page.read_text()
    assert "Rows as the model sees them" in html and 'class="t l' in html and 'class="t r' in html
    assert "<script>alert" not in html and 'src="http' not in html and 'href="http' not in html


def test_a_recipe_names_rows_and_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ours.start("tags-misaligned", "MaskedLM", "bert") as folder:
        source = rows(tmp_path / "rows.jsonl", tagged())
        recipe = f'[model]\nstart = "{folder}"\n[data]\nsources = ["{source}"]\n[task]\nname = "tag"\n'
        (tmp_path / "recipe.toml").write_text(recipe)
        assert main(["check", str(tmp_path / "recipe.toml"), "--show", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "tag" and found["train"] > 10
    labels = {token["label"] for token in found["rows"][0]["parts"][0]}
    assert labels == {"", "O", "B-THING"}


def test_showing_needs_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rows(tmp_path / "rows.jsonl", labelled()), "--show"]) == 2
    assert "name it with --model" in capsys.readouterr().err


def test_the_names_of_tags_do_not_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    piece = {"text": "a", "learned": True, "special": False, "label": "B-\x1b]0;title\x07"}
    lines = check.painted({"where": "rows:1", "answers": [], "cut": 0, "parts": [[piece]]})
    assert "\x07" not in "".join(lines) and "\x1b]" not in "".join(lines)


def test_rows_are_split_as_a_run_splits_them(tmp_path: Path) -> None:
    source = rows(tmp_path / "rows.jsonl", labelled())

    def recipe(*words: str) -> TrainRecipe:
        return check.recipe_of(check.Check((source,), task="classify"), words)

    tuned = defaults.load(None, ["--task.name", "classify", "--data.sources", source], "quire tune")
    assert recipe().data == tuned.data and recipe().data.held_out == 0.1
    assert check.recipe_of(check.Check((source,))).data.held_out == 0.1  # the task is told by the rows
    assert recipe("--data.held-out", "0.2").data.held_out == 0.2
    (tmp_path / "recipe.toml").write_text(f'[data]\nsources = ["{source}"]\nheld_out = 0.3\n[task]\nname = "classify"\n')
    assert check.recipe_of(check.Check((str(tmp_path / "recipe.toml"),))).data.held_out == 0.3


def test_keys_of_a_recipe_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"a review of number {number},{'good' if number % 2 else 'bad'}\n" for number in range(30)]
    (tmp_path / "rows.csv").write_text("review,verdict\n" + "".join(lines))
    words = ["check", str(tmp_path / "rows.csv"), "--json"]
    assert main(words) == 2 and "Set data.columns" in capsys.readouterr().out
    assert main([*words, "--data.columns", "text=review", "label=verdict"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "labelled"
    (tmp_path / "rows.csv").write_text("".join(lines))
    named = ["--data.names", "review", "verdict", "--data.columns", "text=review", "label=verdict", "--task", "classify"]
    assert main([*words, *named]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == ""  # no model, so nothing was read as a task reads it


def test_without_arguments_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("usage: quire check DATA...") and not told.out
    assert main(["check", "--data.held-out", "0.1"]) == 2 and "there are no rows" in capsys.readouterr().err
