"""Files are written whole or not at all, and a manifest tells when a folder is not what was written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quire import durable
from quire.errors import CheckpointError, StorageError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    durable.write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), durable.writing(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    durable.write_text(tmp_path / "a", "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable._os, call, full)
    with pytest.raises(StorageError, match=r"cannot write .*a: the disk is full"):
        durable.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        durable.make_folder(tmp_path / "a" / "b")


def test_a_sealed_folder_tells_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with durable.building(folder, {"step": 3}) as build:
        durable.write_bytes(build / "x", b"0123456789")
        durable.write_bytes(build / "y", b"y")
    assert durable.check(folder) == {"step": 3}
    data = bytearray((folder / "x").read_bytes())
    data[4] ^= 1
    (folder / "x").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"f/x has changed since it was written"):
        durable.check(folder)
    (folder / "x").write_bytes(b"0123")
    with pytest.raises(CheckpointError, match="x has 4 bytes where 10 were written"):
        durable.check(folder)
    (folder / "y").unlink()
    (folder / "x").write_bytes(b"0123456789")
    with pytest.raises(CheckpointError, match="y is missing"):
        durable.check(folder)
    (folder / durable.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="it was never finished"):
        durable.check(folder)


def test_a_folder_that_was_moved_aside_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the two renames of a replacement must not lose the old folder."""
    folder = tmp_path / "model"
    with durable.building(folder) as build:
        durable.write_text(build / "x", "old")
    moves = 0

    def crash(a: Any, b: Any) -> None:
        nonlocal moves
        moves += str(a).startswith(str(folder)) or Path(b) == folder
        if Path(b) == folder:
            raise KeyboardInterrupt
        os.replace(a, b)

    monkeypatch.setattr(durable._os, "replace", crash)
    with pytest.raises(KeyboardInterrupt), durable.building(folder) as build:
        build.joinpath("x").write_text("new")
    monkeypatch.undo()
    assert not folder.exists()
    durable.sweep(tmp_path)
    assert (folder / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_json_lines_leave_out_an_unfinished_end(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    durable.append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a": 2')
    assert durable.read_lines(path) == [{"a": 1}]
    path.write_bytes(b'{"a": \n{"a": 2}\n')
    with pytest.raises(CheckpointError, match="line 1 is not JSON"):
        durable.read_lines(path)


def test_a_second_process_is_refused_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    code = f"import time\nfrom quire import durable\nwith durable.lock({str(tmp_path)!r}):\n    print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match=rf"another process \(pid {other.pid}\) is using"), durable.lock(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()  # type: ignore[union-attr]
    with durable.lock(tmp_path):
        pass
