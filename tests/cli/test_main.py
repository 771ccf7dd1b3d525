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
def test_every_verb_has_a_file_and_tells_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.verb_function(verb)(["--help"])
    except SystemExit as stopped:  # tyro leaves this way
        code = stopped.code
    assert code == 0
    assert "--" in capsys.readouterr().out


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
