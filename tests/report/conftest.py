"""One finished run for every test that only reads, and a fresh copy for those that damage it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report import fake_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it; do not write to it."""
    return fake_run.make(tmp_path_factory.mktemp("runs") / "first", steps=300, evaluations=6, samples=5)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "first"))
