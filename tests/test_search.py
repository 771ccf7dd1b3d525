"""Search over docstrings: what counts as an entry, that the cache is the same index, and that a damaged or old one is built again."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import quire
from quire import search
from quire.errors import ContextError, DataError
from quire.types import Embedder

LIBRARY = {
    "dates.py": '''"""Work with dates.

More."""

class Date:
    """A day."""

    def parse(self):
        """Parse an ISO
        date."""
''',
    "pack/__init__.py": '''"""A package."""
if True:
    def shut():
        """Close the door."""
        def hidden():
            """Nobody sees this."""
''',
    "pack/_own.py": '"""Private."""\n',
    "pack/silent.py": "def silent(): pass\n\ndef _private():\n    '''Private.'''\n",
    "_pyio.py": 'def open():\n    """Open a file."""\n',
    "test/test_it.py": '"""A test."""\n',
    "broken.py": "def (:\n",
    "null.py": "x = '\0'\n",
}


class Words:
    """An embedder that counts letters: near texts share them."""

    def __init__(self, identity: str = "letters") -> None:
        self.identity = identity
        self.read = 0

    def embed(self, texts, kind=None, *, long=None, cut=None):
        self.read += len(texts)
        if cut is not None:
            cut += [0] * len(texts)
        return np.array(
            [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32
        )


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, source in LIBRARY.items():
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_text(source)
    return tmp_path / "lib"


def test_entries_are_what_a_user_can_use(library: Path) -> None:
    model = Words()
    checked: Embedder = model
    done: list[tuple[int, int]] = []
    index = search.build_or_open(checked, lambda now, whole: done.append((now, whole)), library)
    assert [(entry.name, entry.file, entry.line, entry.text) for entry in index.entries] == [
        ("io.open", "_pyio.py", 1, "Open a file."),
        ("dates", "dates.py", 1, "Work with dates."),
        ("dates.Date", "dates.py", 5, "A day."),
        ("dates.Date.parse", "dates.py", 8, "Parse an ISO date."),
        ("pack", "pack/__init__.py", 1, "A package."),
        ("pack.shut", "pack/__init__.py", 3, "Close the door."),
    ]
    assert done == [(6, 6)] and len(index) == 6


def test_a_kept_index_answers_as_the_one_that_was_built(library: Path) -> None:
    model = Words()
    built = search.build_or_open(model, None, library)
    again = search.build_or_open(model, lambda *_: pytest.fail("it was built again"), library)
    assert again.entries == built.entries and np.abs(again.vectors - built.vectors).max() < 1e-3
    (best, second) = again.search("parse an iso date", 2)
    assert best.name == "dates.Date.parse" and best.place == f"{library / 'dates.py'}:8" and best.text == "Parse an ISO date."
    assert 1 + 1e-3 >= best.score >= second.score
    assert len(again.search("x", 100)) == 6
    for query, top in (("  ", 1), ("x", 0)):
        with pytest.raises(DataError, match="give some words, and 1 or more"):
            again.search(query, top)


def damage(kept: Path, how: str) -> None:
    if how == "gone":
        (kept / "vectors.npy").unlink()
    elif how == "bit":
        data = bytearray((kept / "vectors.npy").read_bytes())
        data[-1] ^= 1
        (kept / "vectors.npy").write_bytes(data)
    elif how == "manifest":
        (kept / "manifest.json").write_text("[" * 100_000)
    else:  # whole by its manifest, and yet not an index
        from quire import durable

        facts = durable.check(kept)
        if how == "shape":
            np.save(kept / "vectors.npy", np.zeros((2, 3), dtype=np.float16))
        elif how == "objects":
            np.save(kept / "vectors.npy", np.array([{}], dtype=object), allow_pickle=True)
        else:
            (kept / "entries.json").write_text(json.dumps([{"name": "x", "other": 1}]))
        durable.seal(kept, facts)


@pytest.mark.parametrize("how", ["gone", "bit", "manifest", "shape", "objects", "entries"])
def test_a_damaged_index_is_built_again(library: Path, how: str) -> None:
    search.build_or_open(Words(), None, library)
    (kept,) = library.parent.glob("cache/quire/search/*")
    damage(kept, how)
    model = Words()
    assert len(search.build_or_open(model, None, library)) == 6 and model.read == 6
    model.read = 0
    assert len(search.build_or_open(model, None, library)) == 6 and model.read == 0


def test_it_is_built_again_when_source_or_model_change(library: Path) -> None:
    search.build_or_open(Words(), None, library)
    other = Words("other")
    assert search.build_or_open(other, None, library) and other.read == 6
    (library / "pack" / "silent.py").write_text("def silent():\n    '''Say nothing.'''\n")
    model = Words()
    assert len(search.build_or_open(model, None, library)) == 7 and model.read == 7


def test_without_a_place_for_the_cache_it_still_answers(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (library.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(library.parent / "file"))
    assert search.build_or_open(Words(), None, library).search("open a file")[0].name == "io.open"
    with pytest.raises(DataError, match="nowhere is not there; give a folder of Python files"):
        search.build_or_open(Words(), None, library / "nowhere")
    (library / "empty").mkdir()
    with pytest.raises(DataError, match="holds no Python source with docstrings"):
        search.build_or_open(Words(), None, library / "empty")


def test_the_real_library_is_there() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    entries = [
        entry
        for name in ("shutil.py", "datetime.py", "subprocess.py", "json/__init__.py")
        for entry in search.read(name, (root / name).read_bytes())
    ]
    names = {entry.name for entry in entries}
    assert {"shutil.copytree", "subprocess.check_output", "json", "json.loads"} <= names and len(names) > 30


def test_minilm_finds_by_meaning(library: Path) -> None:
    index = search.build_or_open(quire.load("minilm"), None, library)
    assert [index.search(query, 1)[0].name for query in ("analyse a timestamp in the ISO format", "lock up the house")] == [
        "dates.Date.parse",
        "pack.shut",
    ]


def test_what_a_docstring_loses_is_told(library: Path) -> None:
    """Whenever an index is made or opened, of a model too that was never taught to cut."""
    model = quire.load("minilm")
    text = " ".join(["The colour of the house."] * 100 + ["Zebras."])
    (library / "long.py").write_text(f'"""{text}"""\n')
    over = len(model.contract.whole(f"long: {text}")) - 256
    for _ in range(2):  # built, and kept
        with pytest.warns(RuntimeWarning, match=rf"^1 docstring was too long: {over} tokens left out\.") as told:
            index = search.build_or_open(model, None, library)
        assert [one.filename for one in told] == [__file__] and sum(index.cut) == over
        cut: list[int] = []
        search.build_or_open(model, None, library, cut=cut)
        assert sorted(cut)[-2:] == [0, over]
    (long,) = (number for number, entry in enumerate(index.entries) if entry.name == "long")
    (as_read,) = model.embed([f"long: {text}"], "document", long="cut")
    assert np.abs(index.vectors[long] - as_read).max() < 1e-3
    with pytest.raises(ContextError, match=r"this model reads 256 at once\. Shorten or divide it\.$"):
        index.search(text)
