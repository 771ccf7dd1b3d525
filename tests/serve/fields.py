"""Tries the request fields that a client documents: each is declared, and one that is not done here is refused by its name."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quire.serve.bodies import Body
from tests.serve.conftest import ROOT, Running

PROBE = {"probe": 1}  # a value that asks for something, and that no field takes
Place = Callable[[dict[str, Any]], dict[str, Any]]  # the fields of a part -> a whole body with that part in it


def run(python: Path, script: str, *words: str) -> Any:
    """What a script of tests/serve/clients prints."""
    done = subprocess.run([python, ROOT / "tests/serve/clients" / script, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def declared(body: type[Body]) -> set[str]:
    return {field.alias or name for name, field in body.model_fields.items()}


def try_fields(server: Running, path: str, documented: Mapping[str, list[str]], parts: Mapping[str, tuple[type[Body], Place]]) -> int:
    """parts: for each type of the client, the body that stands for it, and where it stands. Returns how many fields were refused."""
    tried = 0
    for name, (body, place) in parts.items():
        missing = set(documented[name]) - declared(body)
        assert not missing, f"{name}: the client documents {sorted(missing)}, which {body.__name__} does not know"
        for field, info in body.model_fields.items():
            if str(info.description or "").startswith("Not done here"):
                field = info.alias or field
                answer = server.post(path, place({field: PROBE}))
                assert answer.status_code == 400 and field in answer.text, (name, field, answer.text)
                tried += 1
    return tried


def try_kinds(server: Running, path: str, kinds: list[str], known: set[str], place: Place) -> None:
    """Every documented `type` that is not in `known` is refused by its name."""
    assert known <= set(kinds)
    for kind in set(kinds) - known:
        answer = server.post(path, place({"type": kind}))
        assert answer.status_code == 400 and f"'{kind}'" in answer.text, (kind, answer.text)
