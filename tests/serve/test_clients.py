"""Real clients, unmodified, in environments of their own: everything that their scripts try works, and docs/clients.md says just that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import Running, start
from tests.serve.table import CLIENTS, PAGE, Client, expected, run, section


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of one model, `base`."""
    running = start(tmp_path_factory.mktemp("alone"), f"base={folders['base']}")
    yield running
    running.stop()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_a_real_client_works_and_the_page_says_so(
    client: Client, client_python: Callable[[str], Path], request: pytest.FixtureRequest, folders: dict[str, Path]
) -> None:
    python = client_python(client.environment)
    running: Running = request.getfixturevalue("alone" if client.alone else "server")
    found = run(client, python, running.url, *([expected(folders[client.alone])] if client.alone else []))
    assert found and all(works is True for works in found.values()), found
    assert section(client, found) in PAGE.read_text(encoding="utf-8"), "make the page anew: python -m tests.serve.table"
