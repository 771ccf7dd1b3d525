"""OpenAI's own Python package, unmodified, against a real server; its types read strictly what is answered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.conftest import ROOT, Running


@pytest.mark.parametrize("script", ["openai_chat", "openai_completions"])
def test_every_feature_works_with_the_package(server: Running, client_python: Callable[[str], Path], script: str) -> None:
    command = [str(client_python("openai")), str(ROOT / f"tests/serve/clients/{script}.py"), server.url]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert len(found) > 5
    for feature, result in found.items():
        assert result is True, f"{feature}: {result}"
