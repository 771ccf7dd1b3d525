"""Surgery on a built model, by name: low-rank adapters (lora.py, surgery.py), four-bit bases (nf4.py), and PEFT's files (peft.py)."""

from __future__ import annotations

from .lora import LoRA
from .nf4 import quantize_model
from .peft import open_adapter, save_adapter
from .surgery import activate, adapters, attach, detach, merge, trainable, unmerge

__all__ = [
    "LoRA",
    "activate",
    "adapters",
    "attach",
    "detach",
    "merge",
    "open_adapter",
    "quantize_model",
    "save_adapter",
    "trainable",
    "unmerge",
]
