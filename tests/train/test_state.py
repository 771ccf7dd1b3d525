"""Checkpoints on a disk that fails: killed at every call, full, read-only, with flipped bits, cut files and missing ones."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import Tensor

from quire import durable
from quire.errors import CheckpointError, StorageError
from quire.train import state

Hook = Callable[[str, Path], None]


def tensors(step: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {"a": torch.randn(40, 3, generator=draw), "b": torch.randn(7, generator=draw).bfloat16(), "n": torch.tensor(float(step))}


def save(folder: Path, step: int) -> Path:
    return state.save(folder, step, tensors(step), {f"exp_avg/{name}": value for name, value in tensors(step + 1000).items()}, {"of": step})


def holds(found: state.Checkpoint | None, step: int) -> bool:
    if found is None or found.step != step or found.facts["of"] != step:
        return False
    return all(torch.equal(value, tensors(step)[name]) for name, value in found.weights().items()) and len(found.optimizer()) == 3


class _File:
    """A file whose calls are announced before they happen."""

    def __init__(self, file: BinaryIO, path: Path, hook: Hook) -> None:
        self.file, self.path, self.hook = file, path, hook

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: Any) -> int:
        self.hook("write", self.path)
        return self.file.write(data)

    def flush(self) -> None:
        self.hook("flush", self.path)
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, hook: Hook) -> Iterator[None]:
    """Every system call of `durable` goes through `hook(call, path)` first."""
    real, where = durable._os, {}

    class Calls(durable._Calls):
        @staticmethod
        def open(path: Path, mode: str) -> Any:
            hook("open", Path(path))
            file = real.open(path, mode)
            where[file.fileno()] = Path(path)
            return _File(file, Path(path), hook)

        @staticmethod
        def fsync(handle: int) -> None:
            hook("fsync", where.get(handle, Path(os.readlink(f"/proc/self/fd/{handle}")) if os.path.exists("/proc") else Path()))
            real.fsync(handle)

        @staticmethod
        def replace(source: Path, target: Path) -> None:
            hook("replace", Path(source))
            real.replace(source, target)

        @staticmethod
        def rmtree(path: Path) -> None:
            hook("rmtree", Path(path))
            real.rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_os", Calls())
        yield


def lose(folder: Path, unsynced: set[Path], how: str) -> None:
    """What a power cut may do to data that was written and not synced: all of it gone, or half."""
    for path in unsynced:
        if path.is_file():
            size = path.stat().st_size
            os.truncate(path, 0 if how == "gone" else size // 2)


@pytest.mark.parametrize("how", ["kept", "gone", "half"])
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_killed_before_every_call_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, again: bool) -> None:
    """The folder is copied before each call: that copy is what a kill (or, with unsynced data lost, a power cut) at that call leaves."""
    live = tmp_path / "live"
    save(live, 1)
    if again:
        save(live, 2)
        (live / "step-00000002" / "state.json").write_text("{}")  # damaged, and so written once more
    copies: list[Path] = []
    dirty: set[Path] = set()

    def copy(call: str, path: Path) -> None:
        target = tmp_path / f"copy{len(copies)}"
        shutil.copytree(live, target)
        if how != "kept":
            lose(target, {target / name.relative_to(live) for name in dirty if name.is_relative_to(live)}, how)
        copies.append(target)
        if call in ("open", "write"):
            dirty.add(path)
        elif call == "fsync":
            dirty.discard(path)

    with watched(monkeypatch, copy):
        save(live, 2)
        state.prune(live, 1)
    assert len(copies) > 25
    outcomes = []
    for place in copies:
        durable.sweep(place)
        found, _ = state.newest(place)
        assert holds(found, 1) or holds(found, 2), place
        assert found is not None
        outcomes.append(found.step)
    assert outcomes == sorted(outcomes) and outcomes[0] == 1, "once the new one is there it stays"
    found, damaged = state.newest(live)
    assert holds(found, 2) and not damaged and state.steps_saved(live) == [2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_refuses_any_call_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    save(tmp_path, 1)
    calls: list[str] = []
    with watched(monkeypatch, lambda call, path: calls.append(call)):
        save(tmp_path, 2)
    shutil.rmtree(tmp_path / "step-00000002")
    said = {errno.ENOSPC: "the disk is full: free some space", errno.EROFS: "read-only", errno.EDQUOT: "quota is used up"}.get(number, "")
    for fail_at in range(len(calls)):
        seen = 0

        def refuse(call: str, path: Path, fail_at: int = fail_at) -> None:
            nonlocal seen
            seen += 1
            if seen == fail_at + 1:
                raise OSError(number, os.strerror(number))

        with watched(monkeypatch, refuse), pytest.raises(StorageError, match=f"cannot write .*{said}"):
            save(tmp_path, 2)
        found, damaged = state.newest(tmp_path)
        assert not damaged and (holds(found, 1) or holds(found, 2)), (fail_at, calls[fail_at])
        leftovers = [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]
        assert not leftovers, (calls[fail_at], leftovers)
        shutil.rmtree(tmp_path / "step-00000002", ignore_errors=True)


def test_every_flipped_bit_is_found_and_the_one_before_used(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
        for _ in range(8):
            shutil.rmtree(tmp_path, ignore_errors=True)
            save(tmp_path, 1)
            path = save(tmp_path, 2) / name
            data = bytearray(path.read_bytes())
            place = int(torch.randint(len(data), (), generator=draw))
            data[place] ^= 1 << int(torch.randint(8, (), generator=draw))
            path.write_bytes(data)
            found, damaged = state.newest(tmp_path)
            assert found is not None
            if name == "manifest.json" and found.step == 2:
                assert holds(found, 2)  # a bit of white space or of a fact that nothing hangs on
                continue
            assert holds(found, 1) and len(damaged) == 1
            assert "step-00000002" in damaged[0] and ("damaged" in damaged[0] or "moved or renamed" in damaged[0])
            assert (tmp_path / "step-00000002.damaged").is_dir() and state.steps_saved(tmp_path) == [1]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_cut_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    cut = save(tmp_path, 2) / name
    os.truncate(cut, cut.stat().st_size - 5)
    missing = save(tmp_path, 3) / name
    missing.unlink()
    found, damaged = state.newest(tmp_path)
    assert holds(found, 1) and len(damaged) == 2
    if name == "manifest.json":
        assert "never finished" in damaged[0] and "manifest.json cannot be read" in damaged[1]
    else:
        assert f"step-00000003/{name} is missing" in damaged[0]
        assert f"step-00000002/{name} has" in damaged[1] and "bytes where" in damaged[1]


def test_a_checkpoint_under_another_name_is_found_out(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 5).rename(tmp_path / "step-00000009")
    found, damaged = state.newest(tmp_path)
    assert holds(found, 1) and "step-00000009 holds the checkpoint of step 5: it was moved or renamed" in damaged[0]


def test_without_a_whole_one_nothing_begins_anew_in_silence(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "weights.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: .*is missing.*Restore one from a copy"):
            state.newest(tmp_path)
    assert state.newest(tmp_path / "nowhere") == (None, [])


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    assert state.prune(tmp_path, 2, [3]) == [1, 2, 4]
    assert state.steps_saved(tmp_path) == [3, 5, 6]
    assert state.prune(tmp_path, 1, []) == [3, 5]


def test_tensors_come_back_bit_for_bit_in_memory_of_their_own(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    found = state.read_tensors(path / "weights.safetensors")
    (path / "weights.safetensors").unlink()
    assert found.keys() == tensors(1).keys()
    for name, value in found.items():
        assert torch.equal(value, tensors(1)[name]) and value.dtype == tensors(1)[name].dtype and value.data_ptr() % 64 == 0
    with pytest.raises(CheckpointError, match="The checkpoint is damaged"):
        state.read_tensors(path / "state.json")
