"""Surgery on a built model, by name: low-rank adapters (lora.py, surgery.py), soft prompts, four-bit bases (nf4.py); PEFT's files."""

from __future__ import annotations

from .head import with_its_head
from .lora import LoRA
from .nf4 import quantize_model
from .peft import open_adapter, save_adapter
from .soft_prompt import attach_prompt, open_prompt, prompt_ids, prompted, save_prompt
from .surgery import activate, adapters, attach, detach, merge, trainable, unmerge

__all__ = [
    "LoRA",
    "activate",
    "adapters",
    "attach",
    "attach_prompt",
    "detach",
    "merge",
    "open_adapter",
    "open_prompt",
    "prompt_ids",
    "prompted",
    "quantize_model",
    "save_adapter",
    "save_prompt",
    "trainable",
    "unmerge",
    "with_its_head",
]
