"""Surgery on a built model, by name: low-rank adapters (lora.py, surgery.py), soft prompts, four-bit bases (nf4.py); PEFT's files."""

from __future__ import annotations

from .head import with_its_head
from .lora import LoRA
from .nf4 import quantize_model
from .peft import open_adapter, save_adapter
from .prefix import attach_prefix, is_prefix, open_prefix, save_prefix
from .soft_prompt import attach_prompt, is_prompt, open_prompt, prompt_ids, save_prompt
from .surgery import activate, adapters, attach, detach, merge, trainable, unmerge

__all__ = [
    "LoRA",
    "activate",
    "adapters",
    "attach",
    "attach_prefix",
    "attach_prompt",
    "detach",
    "is_prefix",
    "is_prompt",
    "merge",
    "open_adapter",
    "open_prefix",
    "open_prompt",
    "prompt_ids",
    "quantize_model",
    "save_adapter",
    "save_prefix",
    "save_prompt",
    "trainable",
    "unmerge",
    "with_its_head",
]
