from __future__ import annotations

import io
import platform

import pytest

from quire import machine, progress
from quire.errors import RecipeError


def test_the_container_quota_cuts_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.threads.cache_clear()
    monkeypatch.setattr(machine, "_read", lambda path: "150000 100000" if path.endswith("cpu.max") else "")
    assert machine.threads() == 1
    machine.threads.cache_clear()


def test_fewer_threads_that_were_asked_for_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setattr(machine, "_read", lambda path: "")
    for asked, granted in (("1", 1), ("3,2", 3), ("9", 4), ("0", 1), ("", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        machine.threads.cache_clear()
        assert machine.threads() == granted
    machine.threads.cache_clear()


def test_memory_is_what_the_system_says() -> None:
    total, available = machine.memory()
    assert 0 < available <= total
    assert 0 < machine.used_memory() <= machine.peak_memory() * 1.1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries give memory back by themselves, or not at all")
def test_what_was_freed_is_given_back() -> None:
    held = [bytearray(1000) for _ in range(200_000)]
    last = held[-1]  # what lies last keeps glibc from giving back the rest
    del held
    before = machine.used_memory()
    machine.return_memory()
    assert before - machine.used_memory() > 100 << 20 and len(last) == 1000


def test_a_device_that_is_not_here_is_refused_by_name() -> None:
    assert machine.device("cpu").type == "cpu"
    with pytest.raises(RecipeError, match="device 'gpuu' is not known; use auto, cpu, cuda"):
        machine.device("gpuu")


def test_the_environment_names_versions_and_processor() -> None:
    facts = machine.environment()
    assert facts["torch"] and facts["processor"] and facts["threads"] >= 1


def test_durations_and_counts_read_like_a_person_writes_them() -> None:
    assert [progress.duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
    assert [progress.count(n) for n in (12, 1234, 1_234_567)] == ["12", "1.23k", "1.23M"]


def test_a_log_file_gets_plain_lines_with_the_end_always() -> None:
    out = io.StringIO()
    line = progress.Progress(100, "work", out)
    for done in range(101):
        line.update(done, loss=f"{done}")
    line.note("a word")
    line.close()
    text = out.getvalue()
    assert "\x1b" not in text and "100%" in text and "loss 100" in text and text.endswith("a word\n")
    assert len(text.splitlines()) < 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pause_says_what_is_done_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    line = progress.Progress(100, "training", out)
    line.pause("evaluating")
    assert out.getvalue() == "training  evaluating ...\n"
    line.pause("")
    line.update(1, loss="2")
    line.pause("evaluating")
    assert "evaluating ..." in out.getvalue().splitlines()[-1] and "loss 2" in out.getvalue().splitlines()[-1]
    line.pause("")
    assert "evaluating" not in out.getvalue().splitlines()[-1]
    plain = io.StringIO()
    line = progress.Progress(100, "training", plain)
    for doing in ("evaluating", "", "evaluating", ""):
        line.pause(doing)
    assert plain.getvalue() == "training  evaluating ...\n"


def test_a_narrow_terminal_still_shows_the_time_left() -> None:
    parts = ["training", "━━━━━━──────", "50%", "step 1,234/2,974", "loss 2.345", "tokens/s 31k", "MB 481", "1:04 left"]
    for columns in (20, 40, 79, 200):
        lines = progress.wrapped(parts, columns)
        assert all(len(line) <= columns for line in lines)
        assert lines[-1].endswith("1:04 left")
    assert len(progress.wrapped(parts, 200)) == 1
