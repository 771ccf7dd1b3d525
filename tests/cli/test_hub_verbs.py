"""pull, list and rm, as they are typed, against a hub on loopback."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from quire.cli.main import main
from quire.hub import Name, find
from tests.hub_server import Hub
from tests.small import write_model
from tests.test_hub import MODEL, NAME, WEIGHTS


def printed(capsys, *words: str, code: int = 0):
    capsys.readouterr()
    assert main(list(words)) == code
    return capsys.readouterr()


def test_pull_says_what_comes_from_where_and_how_to_use_it(hub: Hub, capsys):
    commit = hub.add(NAME, MODEL | {"pytorch_model.bin": b"pickle"})
    said = printed(capsys, "pull", NAME)
    assert f"{NAME}  commit {commit}  7 files, 1.02MB" in said.out and "left out: pytorch_model.bin" in said.out
    assert "1.02MB fetched, 7 files with their hashes in" in said.out and f"quire.load('{NAME}')" in said.out
    assert "100%" in said.err and "1.02MB of 1.02MB" in said.err and "done in" in said.err
    again = printed(capsys, "pull", NAME)
    assert "nothing to fetch: it was here already" in again.out and again.err == ""


def test_dry_run_fetches_no_weights(hub: Hub, capsys, tmp_path):
    commit = hub.add(NAME, MODEL)
    row = json.loads(printed(capsys, "pull", NAME, "--dry-run", "--json").out)
    assert row["commit"] == commit and row["missing"] == row["bytes"] and row["files"]["model.safetensors"] == len(WEIGHTS)
    assert "model.safetensors" in printed(capsys, "pull", NAME, "--dry-run").out
    assert not (tmp_path / "hub").exists() and "model.safetensors" not in hub.fetched()


def test_json_holds_what_was_recorded(hub: Hub, capsys):
    commit = hub.add("someone/rows", {"a.csv": b"text\none\n", "b.parquet": b"PAR1"}, kind="dataset")
    row = json.loads(printed(capsys, "pull", "someone/rows", "--dataset", "--json").out)
    assert (row["kind"], row["commit"], row["fetched"]) == ("dataset", commit, 13) and set(row["files"]) == {"a.csv", "b.parquet"}
    assert all(len(kept["sha256"]) == 64 for kept in row["files"].values()) and Path(row["folder"]).is_dir()
    assert "--data.sources someone/rows" in printed(capsys, "pull", "someone/rows", "--dataset").out


def test_an_error_is_one_line(hub: Hub, capsys):
    said = printed(capsys, "pull", "nobody/nothing", code=2)
    assert said.err.startswith("quire pull: nobody/nothing was not found") and said.err.count("\n") == 1 and not said.out


def test_what_an_error_quotes_does_not_move_the_cursor(hub: Hub, capsys):
    hub.add(NAME, MODEL | {"config.json": json.dumps({"auto_map": "\x1b[2J\x9b2J"}).encode()})
    said = printed(capsys, "pull", NAME, code=2).err
    assert "carries code" in said and "\x1b" not in said and "\x9b" not in said


def test_list_shows_everything_in_the_cache(hub: Hub, capsys, tmp_path):
    assert "quire pull" in printed(capsys, "list").out
    old = hub.add(NAME, MODEL)
    printed(capsys, "pull", NAME)
    new = hub.add(NAME, MODEL | {"README.md": b"# new"})
    printed(capsys, "pull", NAME)
    hub.add("someone/rows", {"a.csv": b"text\none\n"}, kind="dataset")
    printed(capsys, "pull", "someone/rows", "--dataset")
    lines = printed(capsys, "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", NAME, f"{NAME}@{old[:12]}", "someone/rows"]
    assert any(NAME in line and new[:12] in line and "1.02MB" in line and "model" in line for line in lines) and "data set" in lines[-1]
    rows = [json.loads(line) for line in printed(capsys, "list", "--json").out.splitlines()]
    assert {row["commit"] for row in rows} > {old, new} and all(row["pulled"] for row in rows)
    # what another tool left is listed too, only not as pulled by us
    for record in (tmp_path / "hub").rglob(".quire/*.json"):
        record.unlink()
    assert not any(json.loads(line)["pulled"] for line in printed(capsys, "list", "--json").out.splitlines())


def test_rm_frees_what_no_other_revision_needs(hub: Hub, capsys):
    old = hub.add(NAME, MODEL)
    printed(capsys, "pull", NAME)
    new = hub.add(NAME, MODEL | {"README.md": b"#" * 5000})
    printed(capsys, "pull", NAME)
    said = printed(capsys, "rm", f"{NAME}@{old[:12]}", "--yes").out
    assert old[:12] in said and said.endswith("7B freed\n")  # its README; the weights belong to the other one too
    folder = find(Name.parse(NAME))
    assert folder is not None and folder.name == new and (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert find(Name.parse(f"{NAME}@{old}")) is None
    assert "1.03MB freed" in printed(capsys, "rm", NAME, "--yes").out
    assert find(Name.parse(NAME)) is None and not Name.parse(NAME).place.exists()
    assert "is not in the cache" in printed(capsys, "rm", NAME, "--yes", code=2).err


def test_rm_removes_the_rest_of_a_pull_that_was_cut(hub: Hub, capsys, monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.add(NAME, MODEL)
    hub.faults.cut["model.safetensors"] = [300_000, *[0] * 9]
    assert "What has arrived is kept" in printed(capsys, "pull", NAME, code=2).err
    assert "not whole" in printed(capsys, "list").out
    assert "300kB freed" in printed(capsys, "rm", NAME, "--yes").out and not Name.parse(NAME).place.exists()


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("", False), ("no", False)])
def test_rm_asks(hub: Hub, capsys, monkeypatch, answer, gone):
    hub.add(NAME, MODEL)
    printed(capsys, "pull", NAME)
    assert "add --yes" in printed(capsys, "rm", NAME, code=2).err  # nobody is there to ask
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    said = printed(capsys, "rm", NAME).out
    assert ("Nothing was removed" in said) is not gone and (find(Name.parse(NAME)) is None) is gone


def test_what_is_damaged_is_listed_and_can_be_removed(hub: Hub, capsys):
    hub.add(NAME, MODEL)
    printed(capsys, "pull", NAME)
    folder = find(Name.parse(NAME))
    assert folder is not None
    (folder / "tokenizer.json").resolve().unlink()  # the link leads nowhere now
    assert "not whole" in printed(capsys, "list").out
    assert "MB freed" in printed(capsys, "rm", NAME, "--yes").out and not Name.parse(NAME).place.exists()


def test_verify_holds_a_pulled_model_against_its_hashes(hub: Hub, capsys, tmp_path):
    made = write_model(tmp_path / "made", template=True, bound=False)
    hub.add(NAME, {path.name: path.read_bytes() for path in made.iterdir()})
    printed(capsys, "pull", NAME)
    said = printed(capsys, "verify", NAME).out
    assert "pulled files" in said and "equal to what the hub gave" in said and "the same model whichever way it is computed" in said
    folder = find(Name.parse(NAME))
    assert folder is not None and not (folder / "certificate.json").exists()  # another tool's cache is not written into
    tokenizer = (folder / "tokenizer.json").resolve()
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    assert "tokenizer.json is not what was pulled" in printed(capsys, "verify", NAME, code=1).err
