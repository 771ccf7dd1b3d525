"""The files in deploy/ name options that `quire serve` and `quire key` have, and are of the form that their readers ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from quire.cli.main import main
from tests.serve.conftest import ROOT

FILES = sorted((ROOT / "deploy").iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_options_exist(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("serve", "key"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    text = file.read_text()
    lines = [line for line in text.splitlines() if re.search(r"quire (serve|key) |\"--", line) and "HEALTHCHECK" not in line]
    named = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert named <= known, named - known


def test_forms() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"quire", "prometheus"}
    for name in (compose["services"]["quire"]["build"]["dockerfile"], "deploy/Dockerfile.cuda"):
        text = (ROOT / name).read_text()
        assert "USER 10001" in text and "HEALTHCHECK" in text
        entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
        assert entry[:2] == ["quire", "serve"]
        copied = re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE)
        assert all((ROOT / word).exists() for line in copied for word in line.split())
    [job] = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["quire:8000"]
