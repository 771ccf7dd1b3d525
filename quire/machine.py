"""What this machine grants: device, number types it does well, threads, memory, and a record of all that for receipts.

Nothing here imports torch until a function needs it, so that `quire --help` stays quick.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import RecipeError

if TYPE_CHECKING:
    import torch

DType = Literal["fp32", "bf16", "fp16"]


@cache
def threads() -> int:
    """Processors that this process may use: its affinity, cut by the container's quota (cgroup v2 or v1) and by OMP_NUM_THREADS."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in (_cgroup_v2_cpu(), _cgroup_v1_cpu()):
        if quota > 0 and period > 0:
            granted = min(granted, max(1, quota // period))
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": the second is for threads that start threads
    return min(granted, max(1, int(asked))) if asked.isdecimal() else granted


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _cgroup_v2_cpu() -> tuple[int, int]:
    parts = _read("/sys/fs/cgroup/cpu.max").split()
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and parts[0].isdigit() else (0, 0)


def _cgroup_v1_cpu() -> tuple[int, int]:
    quota, period = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return (int(quota), int(period)) if quota.isdigit() and period.isdigit() else (0, 0)


def memory() -> tuple[int, int]:
    """(total, available) bytes of main memory, cut by the container's limit. Zeros where the system does not say."""
    if not Path("/proc/meminfo").exists():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}) else 0
        return total, total
    facts = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in _read("/proc/meminfo").splitlines() if line.endswith("kB")}
    total, available = facts.get("MemTotal", 0), facts.get("MemAvailable", 0)
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit():
        total = min(total, int(limit))
        available = min(available, int(limit) - int(used or 0))
    return total, available


def used_memory() -> int:
    """Bytes of memory that this process occupies now."""
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else peak_memory()


def peak_memory() -> int:
    """Most bytes of memory that this process has occupied."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_memory() -> None:
    """Gives the system back what was freed: glibc keeps it for the next allocation (750 MB after 37,000 reviews were tokenized)."""
    import ctypes
    import gc

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # musl has none
        trim(0)


@cache
def processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def instruction_sets() -> tuple[str, ...]:
    """The vector and matrix instructions that matter to us, of those the processor reports."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve")
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            return tuple(name for name in wanted if name in flags)
    return ()


def device(name: str = "auto") -> torch.device:
    """The device to compute on: `auto` takes CUDA, then Apple's MPS, then the CPU. Raises RecipeError when a named one is not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device '{name}' is not known; use auto, cpu, cuda, cuda:0 or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, False):
        raise RecipeError(f"device '{name}' is not available on this machine; use device=auto or device=cpu")
    return chosen


def good_dtype(on: torch.device) -> DType:
    """The number type that this device multiplies fast: bf16 with hardware for it, fp16 on older GPUs, else fp32."""
    import torch

    if on.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(on)[0] >= 8 else "fp16"
    if on.type == "cpu" and {"avx512_bf16", "amx_bf16", "bf16"} & set(instruction_sets()):
        return "bf16"
    return "fp32"


def environment() -> dict[str, Any]:
    """What a figure or a set of bits depends on: versions, processor, threads, device."""
    import importlib.metadata as metadata

    import torch

    names = ("quire", "numpy", "safetensors", "tokenizers", "tiktoken")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": versions,
        "system": platform.platform(),
        "processor": processor(),
        "instruction_sets": list(instruction_sets()),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "memory_mb": memory()[0] // 2**20,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
