"""Many prompts from a file: answered together, in order, and kept when the run is stopped."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import quire
from quire.cli.generate import _about
from quire.cli.main import main
from quire.cli.offline import Ask, Kept, answers
from quire.engine.answers import Asked
from quire.errors import CheckpointError, RecipeError
from tests.small import write_model

PROMPTS = ["def a", "def b", "the quick", "def a", "x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("offline") / "model")


def test_answers_come_in_order_and_equal_those_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": prompt, "id": i}) + "\n" for i, prompt in enumerate(PROMPTS)))
    out = tmp_path / "out.jsonl"
    words = ["--file", str(tmp_path / "in.jsonl"), "--out", str(out), "--temperature", "0", "--max-tokens", "9", "--logprobs", "2"]
    assert main(["generate", str(model), *words]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(5)) and [row["prompt"] for row in rows] == PROMPTS
    loaded = quire.load(model)
    for row in rows:
        assert tuple(row["ids"]) == loaded.generate(row["prompt"], max_tokens=9, temperature=0).ids  # type: ignore[union-attr]
        assert len(row["logprobs"]) == len(row["ids"])
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.fixture(scope="module")
def loaded(model: Path) -> quire.Decoder:
    found = quire.load(model)
    assert isinstance(found, quire.Decoder)
    return found


class Stop(Exception):
    pass


def stop(done: int) -> None:
    if done >= 2:
        raise Stop


HOW = quire.Sampling(max_tokens=6, seed=3, logprobs=1)
ABOUT = {"dtype": "fp32", "temperature": 1.0}
ASKS = [(number, Ask(prompt, HOW, Asked())) for number, prompt in enumerate(PROMPTS)]


def stopped(loaded: quire.Decoder, out: Path) -> int:
    """A run that was stopped after some answers; how many it has left."""
    with pytest.raises(Stop), Kept(out, ABOUT, [ask for _, ask in ASKS]) as kept:
        answers(loaded, ASKS, kept, stop)
    assert not loaded.engine.busy and kept.path is not None
    return len(kept.path.read_text().splitlines()) - 1


def test_a_stopped_run_goes_on_where_it_ended(
    loaded: quire.Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    left = stopped(loaded, out)
    assert left >= 2 and f"out.jsonl.partial holds {left} answers; the same command goes on from there" in capsys.readouterr().err
    with (tmp_path / "out.jsonl.partial").open("ab") as file:
        file.write(b'{"key": "half')  # a kill comes in the middle of a line, also before another one is appended
    asked: list[str] = []
    request = loaded.engine.request
    monkeypatch.setattr(loaded.engine, "request", lambda text, *more, **named: asked.append(text) or request(text, *more, **named))
    with Kept(out, ABOUT, [ask for _, ask in ASKS]) as again:
        assert f"{left} of them fit and are taken" in capsys.readouterr().err
        found = answers(loaded, ASKS, again, lambda done: None)
        assert again.path is not None and len(again.path.read_text().splitlines()) == 1 + len(PROMPTS)
    assert len(asked) == len(PROMPTS) - left
    monkeypatch.undo()
    fresh = answers(loaded, ASKS, Kept(None, {}, []), lambda done: None)
    assert [answer for answer, _ in found] == [answer for answer, _ in fresh]
    assert not list(tmp_path.iterdir())


def test_a_run_with_other_settings_is_refused_and_keeps_what_there_is(loaded: quire.Decoder, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    left = stopped(loaded, out)
    before = (tmp_path / "out.jsonl.partial").read_bytes()
    asks = [ask for _, ask in ASKS]
    with pytest.raises(RecipeError, match=rf"holds {left} answers of a run that was another: dtype was fp32, is bf16\. Give what"):
        Kept(out, ABOUT | {"dtype": "bf16"}, asks)
    with pytest.raises(RecipeError, match=rf"holds {left} answers, and none to one of these prompts"):
        Kept(out, ABOUT, [Ask("another", HOW, Asked())])
    assert (tmp_path / "out.jsonl.partial").read_bytes() == before
    (tmp_path / "out.jsonl.partial").write_text("[1,2]\n")
    with pytest.raises(CheckpointError, match="is not what a stopped run leaves behind"):
        Kept(out, ABOUT, asks)


def test_number_types_are_among_the_settings(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("def a\ndef b\n")
    words = ["generate", str(model), "--file", str(tmp_path / "in.txt"), "--out", str(tmp_path / "o.jsonl"), "--max-tokens", "4"]
    bf16 = quire.load(model, "bf16")
    assert isinstance(bf16, quire.Decoder)
    how = quire.Sampling(max_tokens=4)
    asks = [(number, Ask(text, how, Asked())) for number, text in enumerate(("def a", "def b"))]
    with pytest.raises(Stop), Kept(tmp_path / "o.jsonl", _about(bf16, how, {}), [ask for _, ask in asks]) as kept:
        answers(bf16, asks, kept, stop)
    assert main([*words, "--dtype", "fp32"]) == 2
    assert "dtype was torch.bfloat16, is torch.float32" in capsys.readouterr().err
    assert main([*words, "--dtype", "bf16"]) == 0
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 2 and not (tmp_path / "o.jsonl.partial").exists()


def test_out_replaces_files_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(model), "--max-tokens", "2", "--file", str(tmp_path / "in.jsonl"), "--out"]
    (tmp_path / "in.jsonl").write_text('{"prompt": "def a"}\n')
    os.mkfifo(tmp_path / "pipe")
    assert main([*words, str(tmp_path / "pipe")]) == 2
    assert "is a device or a pipe, not a file; leave --out out and write > " in capsys.readouterr().err
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "same.jsonl").symlink_to(tmp_path / "in.jsonl")
    for same in ("in.jsonl", "same.jsonl"):
        assert main([*words, str(tmp_path / same)]) == 2
        assert "is the file that is read; give another name" in capsys.readouterr().err
    assert (tmp_path / "in.jsonl").read_text() == '{"prompt": "def a"}\n'
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "led.jsonl")
    assert main([*words, str(tmp_path / "link.jsonl")]) == 0
    assert (tmp_path / "link.jsonl").is_symlink() and len((tmp_path / "led.jsonl").read_text().splitlines()) == 1


def test_a_file_is_not_taken_for_a_prompt(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "def a"}\n')
    assert main(["generate", str(model), str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert f"to read its rows: --file {tmp_path}/in.jsonl" in capsys.readouterr().err


# -- what a row says of its own answer ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("chatting") / "model", template=True, context=256)


def test_rows_have_settings_and_conversations_of_their_own(chatting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "def a"}]
    given: list[dict[str, Any]] = [
        {"prompt": "def a", "id": 7},
        {"prompt": "def a", "max_tokens": 3, "temperature": 1.0, "seed": 5, "top_p": None, "stop": "zzz", "logit_bias": {"9": 2}},
        {"messages": turns, "max_tokens": 5},
        {"prompt": "def a", "schema": {"enum": ["yes", "no"]}, "max_tokens": 20},
        {"prompt": "def a", "regex": "[0-9]{3}"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    words = ["generate", str(chatting), "--file", str(tmp_path / "in.jsonl"), "--temperature", "0", "--max-tokens", "4"]
    assert main([*words, "--dry-run"]) == 0
    assert "5 rows" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = quire.load(chatting)
    assert isinstance(model, quire.Decoder)
    assert tuple(rows[0]["ids"]) == model.generate("def a", max_tokens=4, temperature=0).ids and rows[0]["id"] == 7
    how = quire.Sampling(max_tokens=3, seed=5, stop=("zzz",), logit_bias=((9, 2),))
    assert tuple(rows[1]["ids"]) == model.generate("def a", how).ids and "max_tokens" not in rows[1]
    assert tuple(rows[2]["ids"]) == model.chat(turns, max_tokens=5, temperature=0).ids  # type: ignore[arg-type]
    assert rows[2]["messages"] == turns and "prompt" not in rows[2]
    assert rows[3]["parsed"] in ("yes", "no") and rows[3]["valid"]
    assert rows[4]["text"].isdigit()
    assert main(words) == 0  # shown, one after another
    assert capsys.readouterr().out.count("─" * 24) == 4


def test_a_form_for_all_rows(chatting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schema.json").write_text('{"enum": [true, false]}')
    words = ["generate", str(chatting), "def a", "def b", "--json", "--max-tokens", "20"]
    assert main([*words, "--schema", str(tmp_path / "schema.json")]) == 0
    assert all(json.loads(line)["parsed"] in (True, False) for line in capsys.readouterr().out.splitlines())
    (tmp_path / "schema.json").write_text("{")
    assert main([*words, "--schema", str(tmp_path / "schema.json")]) == 2
    assert "schema.json is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"temperature": -1}, "line 1: sampling: temperature is -1"),
        ({"max_tokens": "9"}, "line 1: sampling: max_tokens is '9'"),
        ({"max_new_tokens": 9}, "line 1: the field 'max_new_tokens' is not read: it is called 'max_tokens' here"),
        ({"messages": []}, "line 1: the row has a prompt and messages; give one of them"),
        ({"tools": []}, "line 1: the field 'tools' is not read: rows call no tools"),
        ({"schema": {"type": "integer", "maximun": 3}}, "line 1: the JSON schema cannot be used: .*'maximun'.*Did you mean 'maximum'"),
        ({"logprobs": 2}, "logprobs are written with --json"),
    ],
)
def test_what_a_row_cannot_say_is_named_with_its_line(
    row: dict[str, Any], message: str, chatting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "def a"} | row) + "\n")
    assert main(["generate", str(chatting), "--file", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.txt")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_python_m_quire() -> None:
    done = subprocess.run([sys.executable, "-m", "quire", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("quire ")
