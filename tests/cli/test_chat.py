"""`quire chat`: a real terminal (a pseudo one), and the conversation behind it."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

import quire
from quire import Sampling
from quire.cli.chat import Continue, Talk, show
from quire.cli.main import main
from quire.errors import ContextError
from tests.small import write_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("chat")
    return {
        "chat": write_model(place / "chat", template=True, context=96),
        "base": write_model(place / "base"),
        "t5": write_model(place / "t5", "t5"),
    }


class Terminal:
    """A program on a pseudo terminal: send keys, wait for text."""

    def __init__(self, *words: object) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "quire.cli.main", *map(str, words)]
        environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        environment.pop("NO_COLOR", None)
        self.program = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
        os.close(slave)
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.seen = "", 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self.master)

    def until(self, mark: str, seconds: float = 60.0) -> str:
        """Everything since the last mark, up to this one."""
        end = time.monotonic() + seconds
        while mark not in self.text[self.seen :]:
            assert time.monotonic() < end, f"{mark!r} did not come; the screen shows: {self.text!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += self.utf8.decode(os.read(self.master, 65536))
                except OSError:  # Linux says so when the other side has left
                    break
        place = self.text.find(mark, self.seen)
        assert place >= 0, f"{mark!r} did not come; the screen shows: {self.text!r}"
        found, self.seen = self.text[self.seen : place], place + len(mark)
        return found

    def send(self, keys: str) -> None:
        os.write(self.master, keys.encode())


def test_a_conversation_on_a_terminal(folders, tmp_path):
    with Terminal("chat", folders["chat"], "--seed", 1, "--max-tokens", 12, "--temperature", 0.5) as screen:
        assert "parameters" in screen.until("› ")
        screen.send("hi\n")
        assert " a second · " in screen.until("› ")
        screen.send("/what\n")
        screen.until("there is no command /what.")
        screen.send("/resett\n")
        screen.until("Did you mean '/reset'?")
        screen.send(f"/save {tmp_path / 'talk.json'}\n")
        screen.until("2 messages written")
        screen.send("/help\n")
        screen.until("/save FILE")
        screen.send("/reset\n")
        screen.until("a new conversation begins")
        screen.until("› ")
        screen.send("\x04")  # Ctrl-D
        assert screen.program.wait(60) == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [m["role"] for m in saved["messages"]] == ["user", "assistant"] and len(saved["model"]) == 64


def test_ctrl_c_stops_the_answer_and_not_the_conversation(folders, capsys):
    class Interrupted(Talk):
        def answer(self, text):
            answer = super().answer(text)
            yield next(answer)
            yield next(answer)
            answer.close()
            raise KeyboardInterrupt

    conversation = Interrupted(quire.load(folders["chat"]), Sampling(temperature=0.0, max_tokens=6))
    show(conversation, "q")
    assert capsys.readouterr().out.strip() == conversation.messages[1].content.strip() != ""
    assert len(conversation.messages) == 2


def test_a_conversation_through_a_pipe(folders, capsys, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nexit\nnever read\n"))
    assert main(["chat", str(folders["chat"]), "--max-tokens", "5"]) == 0
    out = capsys.readouterr().out
    assert "›" not in out and "\x1b" not in out


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("t5", [], "chat needs another model"),
        ("base", ["--system", "x"], "it follows no instructions"),
        ("chat", ["--top-p", "2"], "top_p is 2.0"),
    ],
)
def test_what_cannot_be_is_refused(folders, capsys, name, words, message):
    assert main(["chat", str(folders[name]), *words]) == 2
    assert message in capsys.readouterr().err


def talk(folders, **options) -> Talk:
    return Talk(quire.load(folders["chat"]), Sampling(temperature=0.0, max_tokens=6), **options)


def test_the_history_is_read_and_the_oldest_turns_are_left_out_by_name(folders):
    conversation = talk(folders, system="ok")
    said = []
    for number in range(5):
        list(conversation.answer(f"q{number}"))
        said += conversation.notes
        conversation.notes.clear()
    assert said and "turn 1 ('q0') is left out" in said[0]
    kept = conversation._fitting()
    assert kept[0].role == "system" and kept[1].role == "user"
    assert len(conversation.transcript()) == 11  # nothing is forgotten, only not read


def test_a_question_that_does_not_fit_is_refused_and_forgotten(folders):
    conversation = talk(folders)
    list(conversation.answer("q"))
    with pytest.raises(ContextError, match="Ask something shorter"):
        list(conversation.answer("é" * 100))
    assert conversation.messages[0].content == "q" and len(conversation.messages) == 2
    list(conversation.answer("q"))
    assert len(conversation.messages) == 4


def test_an_answer_that_was_stopped_is_remembered_as_far_as_it_came(folders):
    conversation = talk(folders)
    answer = conversation.answer("q")
    first = next(answer).text
    answer.close()
    assert [m.role for m in conversation.messages] == ["user", "assistant"] and conversation.messages[1].content == first


def test_a_base_model_goes_on_and_says_when_the_beginning_is_left_out(folders):
    go_on = Continue(quire.load(folders["base"]), Sampling(temperature=0.0, max_tokens=20))
    list(go_on.answer("def parse_"))
    first = go_on.last
    assert first.startswith("def parse_") and not go_on.notes
    list(go_on.answer(""))
    assert go_on.last != first
    for _ in range(3):
        list(go_on.answer(""))
    assert any("the context is full: it goes on from the last 32 tokens" in note for note in go_on.notes)
    go_on.reset()
    assert go_on.last == "" and go_on.transcript() == []
