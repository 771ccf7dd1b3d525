"""How the world's checkpoints map onto `quire.nn`: one file a family, found by being here. torch is loaded only with `ModelFolder`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from .family import FAMILIES, Family, family_for

if TYPE_CHECKING:
    from .folder import ModelFolder

__all__ = ["FAMILIES", "Family", "ModelFolder", "family_for"]

for _module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    if _module not in ("family", "folder", "tensors", "source", "gguf", "gguf_config", "dequantize", "llama2c"):
        importlib.import_module(f"{__name__}.{_module}")


def __getattr__(name: str) -> Any:
    if name == "ModelFolder":
        from .folder import ModelFolder

        return ModelFolder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
