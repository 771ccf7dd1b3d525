"""`quire tokenizer`: train, report, encode and decode from the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from quire.cli.main import main
from quire.text.tokenizer import Tokenizer

TEXT = "The quick brown fox.\n    return None  # é 👋\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.py").write_text(TEXT * 30)
    (folder / "b.md").write_text("# Title\n" + TEXT * 9)
    (folder / "c.bin").write_bytes(bytes(range(256)) * 40)
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    assert main(["tokenizer", "train", str(corpus), "--out", str(folder), "--vocab", "280"]) == 0
    return folder


def test_train(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "train", str(corpus), "--out", str(tmp_path / "t"), "--vocab", "280"]) == 0
    out = capsys.readouterr().out
    assert "BPE, 280 tokens" in out and "special: <|endoftext|>, <|im_start|>, <|im_end|>" in out
    assert "learned from 2 documents" in out and "bytes/token" in out
    assert Tokenizer.open(tmp_path / "t").vocab_size == 280
    again = ["tokenizer", "train", str(corpus), "--out", str(tmp_path / "u"), "--vocab", "280", "--json"]
    assert main(again) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["hash"] == Tokenizer.open(tmp_path / "t").hash
    assert [row["group"] for row in facts["report"]["groups"]] == ["py", "md"]
    masked = ["tokenizer", "train", str(corpus), "--out", str(tmp_path / "m"), "--vocab", "300", "--task", "masked", "--kind", "wordpiece"]
    assert main([*masked, "--lowercase"]) == 0
    assert Tokenizer.open(tmp_path / "m").special["mask"] == "[MASK]"


def test_report(trained: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "report", str(trained), str(corpus)]) == 0
    out = capsys.readouterr().out
    assert "vocabulary used" in out and "\nall" in out
    assert main(["tokenizer", "report", str(trained), str(corpus / "a.py"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["total"]["documents"] == 1


def test_encode_and_decode_are_each_others_inverse(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "naïve <|endoftext|> 👋\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["tokenizer", "encode", str(trained)]) == 0
    ids = capsys.readouterr().out
    assert [int(id) for id in ids.split()] == Tokenizer.open(trained).encode(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ids.encode())))
    assert main(["tokenizer", "decode", str(trained)]) == 0
    assert capsys.readouterr().out == text


def test_encode_shows_pieces(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "encode", str(trained), "fox", "ö", "--pieces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split()[1:] == ["4-5", "b'\\xb6'"]
    assert main(["tokenizer", "encode", str(trained), "fox", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "".join(found["pieces"]) == "fox" and len(found["ids"]) == len(found["offsets"])


def test_decode(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "decode", str(trained), "0", "1", "--special", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == "<|endoftext|><|im_start|>"
    assert main(["tokenizer", "decode", str(trained), "0"]) == 0
    assert capsys.readouterr().out == ""


def test_a_runs_tokenizer_is_found(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tokenizer.open(trained).save(tmp_path / "tokenizer")
    assert main(["tokenizer", "encode", str(tmp_path), "fox"]) == 0
    assert capsys.readouterr().out.split()


def test_what_is_wrong_is_said(trained: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["trian"], "there is no 'trian'. Did you mean 'train'?"),
        (["encode", str(corpus), "x"], "holds no tokenizer.json"),
        (["decode", str(trained), "300"], "there is no token 300; ids go from 0 to 279"),
        (["report", str(trained), str(corpus / "nothing")], "is not there"),
        (["train", str(corpus), "--out", str(corpus / "t"), "--vocab", "99"], "a vocabulary of 99 tokens is too small"),
        (["report", str(trained), str(corpus / "c.bin")], "c.bin"),
    ):
        assert main(["tokenizer", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["tokenizer"]) == 0
    assert "quire tokenizer train SOURCE" in capsys.readouterr().out


def test_torch_stays_out(root: Path, trained: Path) -> None:
    words = ["tokenizer", "encode", str(trained), "fox"]
    code = f"import sys; from quire.cli.main import main; main({words!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)
