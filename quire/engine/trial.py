"""A grammar is compiled in a process of its own first: one that takes too long or too much memory is stopped there, by ending the process.

Compilation is native code that no thread can interrupt, and its own limits do not see all of it (`multipleOf: 1234567` takes a minute). The
process knows single bytes as its vocabulary, so it starts in a moment; it imports no torch, stays for the next grammar, and ends with its
parent. Requests wait for one another, and their time counts from when the process begins with theirs.

    parent: {"kind", "text", "limits"}, one line of JSON        child: {"grammar"} as llguidance takes it, or {"error"}
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import IO, Any

from ..errors import RecipeError
from .grammars import Limits, lark_ends, schema_ends

# White space is at most one space: left free, a model may write it without end.
JSON = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": False, "coerce_one_of": False}
_STEPS = 4  # bytes written in the trial: some grammars show their size at the second
_START = 60.0  # seconds that the process itself may take to begin


class Trial:
    """The process, seen from outside. One for all threads of a program, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def compile(self, kind: str, text: str, limits: Limits, what: str) -> str:
        """The grammar in llguidance's own form. Raises RecipeError with what is wrong with it, or which limit it met."""
        with self._lock:
            child = self._running()
            assert child.stdin is not None
            line = json.dumps({"kind": kind, "text": text, "limits": asdict(limits)}).encode() + b"\n"
            try:
                child.stdin.write(line)
                child.stdin.flush()
                answer, late = _line(child, limits.seconds)
            except OSError:
                answer, late = b"", False
            if not answer or late:
                self.close()
        if late and not answer:
            raise RecipeError(
                f"{what} takes more than {limits.seconds:g} s to compile. Make it simpler: smaller numbers, fewer repetitions."
            )
        if not answer:
            raise RecipeError(
                f"{what} ended the process that compiled it: it takes more than {limits.memory >> 20} MB, or meets a fault of llguidance. "
                "Make it simpler: fewer repetitions."
            )
        found = json.loads(answer)
        if "error" in found:
            raise RecipeError(f"{what} cannot be used: {found['error']}")
        return str(found["grammar"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork the pipes are the parent's
            self._child, self._owner = None, os.getpid()
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            paths = os.pathsep.join(path for path in sys.path if path)
            self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # where native code tells of its own faults
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
            if not _line(self._child, _START)[0]:
                self.close()
                raise RecipeError(f"the process that compiles grammars did not begin: {sys.executable} -m {__name__}. Run that to see why.")
        return self._child

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.communicate()


def _line(child: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bool]:
    """What the process answers, and whether it was stopped for being late: after so many seconds of its own work, which are longer by the
    clock where the machine is busy with others, but at most eight times."""
    late, done = threading.Event(), threading.Event()
    begun, worked = time.monotonic(), _worked(child.pid)

    def watch() -> None:
        left = seconds
        while not done.wait(left):
            now = _worked(child.pid)
            left = 0.0 if now is None or worked is None else seconds - (now - worked)
            if left <= 0.01 or time.monotonic() - begun > 8 * seconds:
                late.set()
                child.kill()
                return

    assert child.stdout is not None
    threading.Thread(target=watch, daemon=True).start()
    try:
        answer = child.stdout.readline()
    finally:
        done.set()
    return answer, late.is_set()


def _worked(pid: int) -> float | None:
    """Seconds of processor time of another process (Linux: its clock's number is made of its own); None where that cannot be told."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except (AttributeError, OSError, OverflowError):
        return None


# -- inside the process ------------------------------------------------------------------------------------------------------------


class Bytes:
    """The vocabulary of single bytes, as llguidance asks for one."""

    bos_token_id, eos_token_id, special_token_ids, is_tokenizer_wrapper = None, 256, (256,), True

    def __init__(self) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode("utf-8", "replace") if isinstance(text, str) else text)


def library_limits(limits: Limits) -> Any:
    import llguidance

    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000,  # bounded by the seconds of the trial
        step_lexer_fuel=limits.step,
        step_max_items=limits.items,
        max_lexer_states=limits.states,
        max_grammar_size=limits.symbols,
        verbose_errors=False,
    )


def _answer(asked: dict[str, Any], vocabulary: Any) -> dict[str, str]:
    import llguidance

    kind, text, limits = asked["kind"], asked["text"], Limits(**asked["limits"])
    try:
        if kind == "schema":
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=JSON)
        else:
            grammar = llguidance.grammar_from(kind, text)
    except ValueError as error:
        return {"error": first_line(str(error))}
    matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=library_limits(limits))
    if not matcher.is_error() and not (schema_ends(json.loads(text)) if kind == "schema" else kind == "regex" or lark_ends(grammar)):
        return {"error": "no text that it allows ever ends, since a part of it requires itself. Give that part an alternative."}
    for step in range(_STEPS):
        mask = b"" if matcher.is_error() else matcher.compute_bitmask()
        if matcher.is_error() and "NoExtension" not in matcher.get_error():
            return {"error": first_line(matcher.get_error())}
        allowed = [byte for byte in range(min(256, 8 * len(mask))) if mask[byte // 8] >> byte % 8 & 1]
        if not allowed and step == 0:
            return {"error": f"it allows {'the empty text only' if matcher.is_accepting() else 'no text at all'}."}
        if not allowed or matcher.is_stopped():
            break
        matcher.consume_token(allowed[0])
    return {"grammar": grammar}


def first_line(message: str) -> str:
    """llguidance's own message without its state, which may be long."""
    return message.split("\n<", 1)[0].strip().replace("\n", " ")[:400]


def main() -> None:
    import llguidance

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (Limits.memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):
        pass  # not every system has it; time is limited everywhere
    vocabulary = llguidance.LLTokenizer(Bytes(), eos_token=256)
    _say(sys.stdout.buffer, {"ready": "yes"})
    for line in sys.stdin.buffer:
        try:
            _say(sys.stdout.buffer, _answer(json.loads(line), vocabulary))
        except BaseException as error:  # a fault of native code is no Exception; what goes wrong with one must not end the process
            _say(sys.stdout.buffer, {"error": f"{type(error).__name__}: {first_line(str(error))}"})


def _say(where: IO[bytes], answer: dict[str, str]) -> None:
    where.write(json.dumps(answer).encode() + b"\n")
    where.flush()


if __name__ == "__main__":
    main()
