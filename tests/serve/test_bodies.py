"""Bodies made up from the server's own OpenAPI: whatever is sent, no answer is a fault of the server's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.conftest import Running

SCRIPT = Path(__file__).parent / "clients" / "schemathesis_bodies.py"


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_no_body_is_answered_with_a_fault(server: Running, client_python: Callable[[str], Path], count: int) -> None:
    made = subprocess.run([client_python("schemathesis"), SCRIPT, server.url, str(count)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    told = json.loads(made.stdout)
    assert told["failed"] == []
    assert told["bodies"] >= count // 2 and told["statuses"].get("200", 0) > told["bodies"] // 20
    assert server.client.get("/health").json()["status"] == "ok"
