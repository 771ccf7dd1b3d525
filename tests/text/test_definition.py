"""Files that are damaged or hostile: named, refused, and never a crash, a hang or a surprise of the library's."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError, QuireError
from quire.text import definition
from quire.text.fast import CL100K, GPT2_PATTERN, O200K, QWEN2
from quire.text.tokenizer import Tokenizer
from tests.text.files import UNIGRAM, WORDS, file


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "tokenizer.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"tokenizer\.json is not JSON: Expecting value at line 1, column 1"),
        (b'{"model": {\n  "type": }', r"is not JSON: Expecting value at line 2, column 11"),
        (b'{"model": "\xff"}', r"is not UTF-8 text \(byte 11\)"),
        (b"[" * 100_000, r"is nested too deeply to be a tokenizer"),
        (b"[1, 2]", r"is not a tokenizer: an object with a 'model' object was expected, not a list"),
        (b"{}", r"is not a tokenizer: .* not an object"),
        (b'{"model": {}}', r"its model has no 'type'. Allowed: BPE, WordPiece, Unigram, WordLevel"),
        (b'{"model": {"type": "Magic", "vocab": {}}}', r"model type 'Magic' is not known"),
        (b'{"model": {"type": "BPE", "vocab": []}}', r"its vocabulary must be an object of token -> id, not a list"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["ab"]}}', r"BPE merges must be a list of pairs of tokens"),
        (b'{"model": {"type": "WordLevel", "vocab": {"a": -1}}}', r"token 'a' has id -1; ids are whole numbers from 0 to 4,194,303"),
        (b'{"model": {"type": "WordLevel", "vocab": {"a": 1e3}}}', r"token 'a' has id 1000\.0"),
        (b'{"model": {"type": "WordLevel", "vocab": {"a": 99999999999}}}', r"token 'a' has id 99999999999"),
        (b'{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 0}}}', r"the tokens 'a' and 'b' both have id 0"),
        (b'{"model": {"type": "Unigram", "vocab": {"a": 0}}}', r"a Unigram vocabulary is a list of \[piece, score\] pairs"),
        (b'{"model": {"type": "WordLevel", "vocab": {}}, "added_tokens": {}}', None),
        (b'{"model": {"type": "WordLevel", "vocab": {}}, "added_tokens": [{"id": 0}]}', r"'added_tokens' must be a list of objects"),
        (b'{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": [{"id": 0, "content": "b"}]}', r"id 0 is both 'a' and"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: bytes, message: str | None) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Tokenizer.open(write(tmp_path, text))
    assert "tokenizer.json" in str(caught.value)


def test_a_gap_that_the_library_would_close(tmp_path: Path) -> None:
    """The library numbers added tokens itself, so a file with a gap means one thing and does another."""
    text = file({"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 1}}, [{"id": 7, "content": "<x>"}])
    with pytest.raises(ModelError, match=r"gives '<x>' the id 7, but the tokenizers library reads it as 2"):
        Tokenizer.open(write(tmp_path, text))
    twice = file(WORDS, [{"id": 9, "content": "<x>"}, {"id": 9, "content": "<y>"}])
    with pytest.raises(ModelError, match=r"the added token '<y>' \(id 9\) is there twice"):
        Tokenizer.open(write(tmp_path, twice))


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as sparse:
        sparse.truncate(definition.LARGEST_FILE + 1)
    began = time.perf_counter()
    with pytest.raises(ModelError, match=r"has 268,435,457 bytes; at most 268,435,456 are read"):
        Tokenizer.open(path)
    assert time.perf_counter() - began < 1
    monkeypatch.setattr(definition, "LARGEST_VOCABULARY", 3)
    with pytest.raises(ModelError, match="a vocabulary of more than 3 tokens is refused"):
        Tokenizer.open(write(tmp_path, file(WORDS, [])))


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def test_a_pattern_that_is_none(tmp_path: Path) -> None:
    text = file(UNIGRAM, [], pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a"}})
    with pytest.raises(ModelError, match=r"opening .*tokenizer\.json failed in the tokenizers library: .*unmatched parenthesis"):
        Tokenizer.open(write(tmp_path, text))


def test_a_pattern_that_makes_the_library_panic(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A panic derives from BaseException: it passes `except Exception` and would end a server."""
    text = file(UNIGRAM, [], pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a|aa)+$"}})
    tokenizer = Tokenizer.open(write(tmp_path, text))
    attack = "a" * 60 + "!"
    for encode in (tokenizer.encode, tokenizer.pieces, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(ModelError, match=r"encoding failed in the tokenizers library: .*hold a pattern that cannot be run"):
            encode(attack)
    capfd.readouterr()  # the library also writes to standard error


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:x*y?)*z", "((a{2,}b))+", "(?i:a|b+){3,9}", "(\\p{L}+\\s*)+", "(?=(a+)+)", "([^]]+)*"])
def test_patterns_that_explode(tmp_path: Path, pattern: str) -> None:
    """Two dozen letters keep each of them busy for seconds, and a text may hold thousands of two dozen letters."""
    for parts in (
        {"pre_tokenizer": {**SPLIT, "pattern": {"Regex": pattern}}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": pattern}}},
    ):
        with pytest.raises(ModelError, match="repeats a group that holds a repetition"):
            Tokenizer.open(write(tmp_path, file(WORDS, [], **parts)))


@pytest.mark.parametrize(
    "pattern", [CL100K, QWEN2, O200K, GPT2_PATTERN, r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)", r"(?:a+)?b", r"([*+]+|\)+)", r"[(]+[)]+"]
)
def test_patterns_that_do_not(tmp_path: Path, pattern: str) -> None:
    Tokenizer.open(write(tmp_path, file(WORDS, [], pre_tokenizer={**SPLIT, "pattern": {"Regex": pattern}})))


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, file(WORDS, [{"id": 1, "content": "</s>"}]))
    settings = tmp_path / "tokenizer_config.json"
    for content, message in (
        ("[]", r"tokenizer_config\.json must hold an object, not a list"),
        ('{"eos_token": "<end>"}', r"name '<end>' as the eos token, but the vocabulary does not hold it"),
        ('{"eos_token": 3}', r"the setting 'eos_token' must be a string, not a int"),
        ('{"additional_special_tokens": "x"}', r"'additional_special_tokens' must be a list or an object, not a string"),
        ('{"eos_token"', r"tokenizer_config\.json is not JSON"),
    ):
        settings.write_text(content)
        with pytest.raises(ModelError, match=message):
            Tokenizer.open(tmp_path)
    settings.write_text('{"eos_token": {"content": "</s>"}, "pad_token": null, "model_max_length": 512, "auto_map": {"x": "y"}}')
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.eos, tokenizer.pad, tokenizer.unk) == (1, None, 0)
    tokenizer.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["model_max_length"] == 512
    assert "auto_map" not in saved  # remote code is not handed on


def test_roles_without_settings(tmp_path: Path) -> None:
    path = write(tmp_path, file(WORDS, [{"id": 0, "content": "<unk>"}, {"id": 1, "content": "</s>"}]))
    assert Tokenizer.open(path).special == {"unk": "<unk>", "eos": "</s>"}
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "</s>"}')
    assert Tokenizer.open(path).special == {"bos": "</s>", "unk": "<unk>"}


def _mutations(raw: dict[str, Any], seed: int) -> bytes:
    """A tokenizer.json with something turned, removed, doubled or replaced, or with bytes changed."""
    draw = random.Random(seed)
    if draw.random() < 0.4:
        data = bytearray(json.dumps(raw).encode())
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            change: Callable[[], None] = draw.choice(
                (
                    lambda at=at: data.__setitem__(at, draw.randrange(256)),
                    lambda at=at: data.__delitem__(slice(at, at + draw.randint(1, 9))),
                    lambda at=at: data.__setitem__(slice(at, at), data[at : at + draw.randint(1, 40)]),
                )
            )
            change()
        return bytes(data)
    copy = json.loads(json.dumps(raw))
    for _ in range(draw.randint(1, 3)):
        place: Any = copy
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw.choice(keys)
            inside = place[key]
            if isinstance(inside, dict | list) and inside and draw.random() < 0.8:
                place = inside
                continue
            odd = [None, True, -1, 2**40, 0.5, float("nan"), "", "x" * 50, [], {}, [[]], {"type": "BPE"}, "\\", "(?<a>", "▁", inside]
            if draw.random() < 0.2:
                del place[key]
            else:
                place[key] = draw.choice(odd)
            break
        if not copy:
            break
    return json.dumps(copy).encode()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "char"])
def test_mutated_files(trained: dict[str, Tokenizer], kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What can be opened works or says why not; what is saved opens again; nothing else is raised, and nothing takes long."""
    raw = json.loads(json.dumps(trained[kind].definition.raw))
    if isinstance(raw["model"]["vocab"], dict):  # small files, so that a change hits something that matters
        few = 300 if kind == "bpe" else 140
        raw["model"]["vocab"] = {token: id for token, id in raw["model"]["vocab"].items() if id < few}
        if "merges" in raw["model"]:
            raw["model"]["merges"] = raw["model"]["merges"][:40]
    else:
        raw["model"]["vocab"] = raw["model"]["vocab"][:140]
    opened = 0
    for seed in range(120):
        path = write(tmp_path, _mutations(raw, seed))
        began = time.perf_counter()
        try:
            tokenizer = Tokenizer.open(path)
            opened += 1
            ids = tokenizer.encode("The fox </s> [MASK] é\n")
            stream = tokenizer.stream()
            assert "".join(map(stream.push, ids)) + stream.end() == tokenizer.decode(ids)
            tokenizer.save(tmp_path / "again")
            assert Tokenizer.open(tmp_path / "again").encode("The fox é") == tokenizer.encode("The fox é")
        except QuireError as error:
            assert str(error), seed
        assert time.perf_counter() - began < 2
    assert opened > 5
    capfd.readouterr()
