"""The part of the package's build that compiles the native kernels (`quire/native/build.py`), also for `pip install -e`.

Nothing here can fail an install: without a compiler, or with one that gives up, the package is plain Python, and `quire doctor` says so.
QUIRE_NATIVE=0 skips it.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / "quire" / "native"
        trouble = "QUIRE_NATIVE=0" if os.environ.get("QUIRE_NATIVE") == "0" else _compile(folder / "build.py")
        if trouble:
            self.app.display_warning(f"native kernels not built, plain torch will compute: {trouble}")
            return
        if version != "editable":  # an editable install reads the library where it was built
            build_data["artifacts"].append("/quire/native/*.so")
            build_data["pure_python"] = False
            # no Python headers are used: one library for every Python, on this system and processor
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _compile(recipe: Path) -> str:
    """Why there is no library; empty when there is one. Loaded by its path: importing quire would need what the package depends on."""
    try:
        spec = importlib.util.spec_from_file_location("quire_native_build", recipe)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return str(module.build())
    except Exception as error:  # whatever it is, the install goes on
        return f"{type(error).__name__}: {error}"
