"""Keys: made once, kept as hashes, read from files and the environment, and one way to send them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from quire.cli.main import main
from quire.errors import RecipeError
from quire.serve.errors import Refused
from quire.serve.gate import loopback
from quire.serve.keys import ENVIRONMENT, Key, Keys, Limit, credential, keys, make


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_key_is_shown_once_and_kept_as_a_hash(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"keys{suffix}"
    assert main(["key", "alice", "--file", str(file)]) == 0
    alice = capsys.readouterr().out.strip()
    assert main(["key", "bob.b", "--file", str(file), "--requests", "60", "--most-input", "9"]) == 0
    bob = capsys.readouterr().out.strip()
    assert alice != bob and len(alice) > 40 and file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert alice not in text and hashlib.sha256(alice.encode()).hexdigest() in text
    known = keys(file, {})
    assert len(known) == 2
    assert known.who([(b"authorization", f"Bearer {alice}".encode())]).name == "alice"
    assert known.who([(b"x-api-key", bob.encode())]).limit == Limit(requests=60, most_input=9)
    assert main(["key", "alice", "--file", str(file)]) == 2 and "already" in capsys.readouterr().err


def test_without_a_file_the_entry_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["key", "carol", "--at-once", "2"]) == 0
    key, _, entry = capsys.readouterr().out.partition("\n\n")
    file = tmp_path / "keys.toml"
    file.write_text(entry)
    assert keys(file, {}).who([(b"x-api-key", key.encode())]) == Key("carol", hashlib.sha256(key.encode()).digest(), Limit(at_once=2))


def test_one_key_may_stand_in_the_environment() -> None:
    known = keys(None, {ENVIRONMENT: "0123456789abcdef"})
    assert known.who([(b"x-api-key", b"0123456789abcdef")]).name == "environment"
    with pytest.raises(RecipeError, match="has 5 bytes; at least 16"):
        keys(None, {ENVIRONMENT: "short"})
    assert not keys(None, {}) and keys(None, {}).who([]) == Key()


HASH = "a" * 64
IS = f'sha256 = "{HASH}"'
WRONG = {
    '[keys.a]\nsha256 = "abc"': "64 hexadecimal digits",
    f'[keys."a b"]\n{IS}': "cannot be called 'a b'",
    f"[keys.a]\n{IS}\nrequest = 3": "Did you mean 'requests'",
    f'[keys.a]\n{IS}\nrequests = "3"': "must be of type int",
    f"[keys.a]\n{IS}\ntokens = 0": "tokens is 0; allowed is 1",
    f"[keys.a]\n{IS}\n[keys.b]\n{IS}": "one hash",
    f"[kys.a]\n{IS}": "tables \\[keys.NAME\\]",
    "[keys]\na = 3": "must be a table",
    "": "holds no keys",
    "[keys": "cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_with_the_reason(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=WRONG[text]):
        keys(file, {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="quire key NAME --file"):
        keys(tmp_path / "none.toml", {})
    (tmp_path / "keys.json").write_text(json.dumps(["a"]))
    with pytest.raises(RecipeError, match="tables"):
        keys(tmp_path / "keys.json", {})


@pytest.mark.parametrize(
    "headers, found",
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"x-api-key", b"abc")], b"abc"),
        ([(b"x-api-key", b"abc"), (b"authorization", b"Bearer abc")], b"abc"),
        ([(b"x-api-key", b"")], None),
    ],
)
def test_the_one_reader_of_credentials(headers: list[tuple[bytes, bytes]], found: bytes | None) -> None:
    assert credential(headers) == found


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"abc"), (b"authorization", b"Bearer abd")],
        [(b"x-api-key", b"abc"), (b"x-api-key", b"abd")],
        [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
        [(b"authorization", b"Basic YTpi")],
        [(b"authorization", b"abc"), (b"x-api-key", b"abc")],
        [(b"x-api-key", b"k" * 513)],
    ],
)
def test_two_credentials_that_differ_are_none(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refused) as refused:
        credential(headers)
    assert refused.value.status == 401


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last take the same number of comparisons, so time does not tell a name."""
    compared: list[bytes] = []
    monkeypatch.setattr("quire.serve.keys.hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    known = Keys(Key(str(n), hashlib.sha256(str(n).encode()).digest()) for n in range(5))
    assert known.who([(b"x-api-key", b"0")]).name == "0" and len(compared) == 5
    with pytest.raises(Refused):
        known.who([(b"x-api-key", b"9")])
    assert len(compared) == 10


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--host", "::"], ["--host", "10.0.0.1"], ["--allow-host", "models.example"]])
def test_no_server_for_others_without_keys(words: list[str], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folders["chat"]), "--dry-run", *words]) == 2
    assert "quire key NAME --file keys.toml" in capsys.readouterr().err


def test_with_keys_it_starts(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("alice", tmp_path / "keys.toml", Limit())
    words = [
        "serve",
        f"a={folders['chat']}",
        "--dry-run",
        "--host",
        "0.0.0.0",
        "--keys",
        str(tmp_path / "keys.toml"),
        "--memory",
        "1000000",
    ]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told.startswith("http://0.0.0.0:8000, 1 key\na: ") and "keys and values: 1.0 MB" in told
    assert [loopback(host) for host in ("localhost", "127.0.0.9", "::1", "0.0.0.0", "example.org", "")] == [True] * 3 + [False] * 3
