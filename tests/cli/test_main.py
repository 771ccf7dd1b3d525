"""The verb table: every verb exists, and what is misspelt is answered with the nearest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from quire.cli import main as cli


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS)
    assert max(map(len, text.splitlines())) <= 80


def test_a_misspelt_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "there is no verb 'trian'. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_a_file_and_tells_its_options_in_80_columns(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    try:
        code = cli.verb_function(verb)(["--help"])
    except SystemExit as stopped:  # tyro leaves this way
        code = stopped.code
    assert code == 0
    shown = capsys.readouterr().out
    assert "--" in shown and max(len(line) for line in shown.splitlines() if not line.startswith("usage: ")) <= 80


@pytest.mark.parametrize(
    ("verb", "first"),
    [
        ("classify", "Which label fits a text, or a pair of texts?"),
        ("next-sentence", "Does one text follow another? The probability that it does."),
        ("embed", "Texts as vectors."),
        ("similar", "Which texts mean the same? Cosines of their vectors: 1 is the same meaning,"),
        ("search", "Search the standard library's documentation by meaning, offline."),
    ],
)
def test_help_begins_with_what_the_verb_does(verb: str, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.verb_function(verb)(["--help"])
    told = capsys.readouterr().out.split("\n\n", 1)[1]
    assert told.splitlines()[0] == first
    assert "quire " + verb in told and told.count("quire ") == told.count(f"quire {verb} ")


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(buffered: str) -> None:
    """`quire --help | head -1`, with the pipe closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quire.cli.main", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
