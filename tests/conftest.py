"""What every test shares: one thread, no network, no surprise from the user's own folders.

`data_folder` is real data outside the repository: the folder that QUIRE_TEST_DATA names, else `shared/data` in the repository or beside
it. A test that needs it is marked `needs_data`, and skips only where there is none.
`slow` tests run with --slow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported anywhere: tests are many and small, so one thread each is faster than two, and the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.hub_server import Hub

ROOT = Path(__file__).resolve().parent.parent
_PLACES = [Path(place) for place in [os.environ.get("QUIRE_TEST_DATA")] if place] or [ROOT / "shared/data", ROOT.parent / "shared/data"]
_DATA = next((place for place in _PLACES if place.is_dir()), None)

settings.register_profile("quire", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("quire"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "quire")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "needs_data" in item.keywords and _DATA is None:
            item.add_marker(pytest.mark.skip(reason="needs real data: a folder named by QUIRE_TEST_DATA, or shared/data"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data outside the repository. Mark the test `needs_data`."""
    assert _DATA is not None
    return _DATA


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept beside model folders goes into a cache of the tests' own, never into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """A test that reaches for another machine fails at once, with the address in the message."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and host not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {address!r}; tests run without a network")
        connect(self, address)  # type: ignore[arg-type]

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback with nothing in it, and an empty cache in tmp_path / "hub"."""
    from huggingface_hub.utils import close_session

    from tests.hub_server import Hub

    with Hub() as server:
        server.stand_in(monkeypatch, tmp_path / "hub")
        yield server
        close_session()


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a little real text: fourteen modules of the standard library."""
    import sysconfig

    folder = tmp_path_factory.mktemp("texts")
    library = Path(sysconfig.get_path("stdlib"))
    names = "abc bisect code codeop colorsys contextlib copy fnmatch heapq keyword operator reprlib shlex textwrap".split()
    for name in names:
        (folder / f"{name}.py").write_bytes((library / f"{name}.py").read_bytes()[:6000])
    return folder


def _files_of_others(folder: Path) -> None:
    """A tiny model.gguf, and a tiny model of llama2.c with its tokenizer, under the names of a published one."""
    import struct

    import numpy as np

    from tests.families.gguf_files import model

    model(folder / "model.gguf")
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), " ", "a", " a", "t"]
    words = b"".join(struct.pack("<fi", -float(id), len(piece.encode())) + piece.encode() for id, piece in enumerate(pieces))
    (folder / "tok512.bin").write_bytes(struct.pack("<i", 10) + words)
    width, hidden, heads, vocab, context = 8, 12, 2, len(pieces), 16
    draw = np.random.default_rng(0)
    weights = draw.normal(size=vocab * width + 2 * width + 4 * width * width + 3 * width * hidden + width).astype(np.float32)
    angles = np.arange(context)[:, None] * 10_000.0 ** -(np.arange(0, width // heads, 2) / (width // heads))
    tables = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    sizes = struct.pack("<7i", width, hidden, 1, heads, heads, vocab, context)
    (folder / "stories260K.bin").write_bytes(sizes + weights.tobytes() + tables.tobytes())


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """Where the documentation's blocks run: recipes/, my_texts/ and a finished run in runs/quickstart, trained for a few steps."""
    import shutil

    from quire.train.recipe import DataPart, LogPart, ModelPart, TokenizerPart, TrainPart, TrainRecipe
    from quire.train.run import train

    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(texts, folder / "my_texts")
    _files_of_others(folder)
    train(
        TrainRecipe(
            out=str(folder / "runs" / "quickstart"),
            model=ModelPart(family="llama", width=32, layers=2, heads=4, kv_heads=2, context=64),
            tokenizer=TokenizerPart(vocab=400),
            data=DataPart(sources=(str(texts),), held_out=0.15),
            train=TrainPart(steps=12, batch=4, threads=1, dtype="fp32", compile="off", eval_every=6, save_every=6),
            log=LogPart(prompts=("def parse_",), sample_tokens=8),
        )
    )
    return folder
