"""What starts quickly stays light: `quire --help` and `import quire` leave torch and the other heavy packages alone. Not timed here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_house import TORCH_FREE, modules

HEAVY = ("torch", "transformers", "numpy", "rich", "tyro", "jinja2", "tokenizers", "huggingface_hub", "pyarrow")


def loaded(code: str) -> set[str]:
    """Top-level packages in sys.modules after `code` ran in a fresh interpreter."""
    program = f"import sys\n{code}\nprint('LOADED ' + ' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_import_quire_is_light() -> None:
    assert not loaded("import quire; assert quire.__version__; dir(quire)") & set(HEAVY)


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_is_light(words: list[str]) -> None:
    assert not loaded(f"from quire.cli.main import main; assert main({words!r}) == 0") & set(HEAVY)


def test_an_unknown_verb_is_light() -> None:
    assert not loaded("from quire.cli.main import main; assert main(['trian']) == 2") & set(HEAVY)


def test_light_modules_leave_torch_out() -> None:
    light = [name for name in modules() if any(name == row or name.startswith(f"{row}.") for row in TORCH_FREE) and name != "__init__"]
    found = loaded("\n".join(f"import quire.{name}" for name in light))
    assert "torch" not in found and "transformers" not in found
