"""The shared library: found, checked against these sources, given torch's threads, and its C structs as Python knows them.

`QUIRE_NATIVE=0` turns the kernels off, `QUIRE_NATIVE=avx2` (or another of `names()`) takes that instruction set, and
`QUIRE_NATIVE_LIBRARY` names another build of the library (a sanitized one). Nothing here fails: without kernels there is a reason.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .. import machine
from . import build

FORMATS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
ACTS = {"": 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "tanh": 5}
NORMS = {"": 0, "rms": 1, "layer": 2}
ROWS = 32  # most tokens of one step


class Weight(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("format", "rows", "cols", "reserved")),
        *((name, c_void_p) for name in ("data", "scales", "bias")),
    ]


class Norm(Structure):
    _fields_ = [("kind", c_int32), ("eps", c_float), ("weight", c_void_p), ("bias", c_void_p)]


class Pool(Structure):
    _fields_ = [("data", c_void_p), *((name, c_int64) for name in ("block", "head", "slot"))]


class Layer(Structure):
    _fields_ = [
        *((name, Weight) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, Norm) for name in ("norm_attn", "norm_ffn", "norm_attn_out", "norm_ffn_out", "norm_q", "norm_k")),
        *((name, c_int32) for name in ("parallel", "heads", "kv_heads", "head_dim", "norm_whole", "window", "turned", "act")),
        *((name, c_float) for name in ("scale", "softcap", "clip")),
        *((name, c_void_p) for name in ("cos", "sin", "slopes")),
        ("keys", Pool),
        ("values", Pool),
    ]


class Spec(Structure):
    _fields_ = [
        ("layers", POINTER(Layer)),
        ("final_norm", Norm),
        ("head", Weight),
        *((name, c_int32) for name in ("count", "width", "max_rows", "threads", "cache_bf16", "block", "blocks", "reserved")),
        ("head_scale", c_float),
        ("head_softcap", c_float),
    ]


@dataclass(frozen=True)
class Kernels:
    """A library that is ready. name: its instruction set; shared: whether it runs on torch's own threads."""

    lib: Any
    name: str
    shared: bool

    @property
    def bf16_rounds(self) -> bool:
        """Whether a product with bf16 weights rounds its other side to bf16 first (as torch does), or keeps it in fp32."""
        return bool(self.lib.qn_bf16_rounds())


# name: (result, arguments)
_INT, _P = c_int, c_void_p
_FACE: dict[str, tuple[Any, list[Any]]] = {
    "qn_sources": (c_char_p, []),
    "qn_supported": (c_char_p, []),
    "qn_selected": (c_char_p, []),
    "qn_select": (_INT, [c_char_p]),
    "qn_bf16_rounds": (_INT, []),
    "qn_sizes": (None, [POINTER(c_int32)]),
    "qn_openmp": (None, [_P, _P, _P]),
    "qn_product": (_INT, [POINTER(Weight), _P, _P, _INT, _INT, _INT, _INT]),
    "qn_norm": (None, [POINTER(Norm), _P, _P, _INT, _INT]),
    "qn_pack": (None, [_P, _INT, c_int64, c_int64, _INT, _P, _P, _INT]),
    "qn_read": (c_double, [_P, c_int64, _INT]),
    "qn_plan": (_P, [POINTER(Spec)]),
    "qn_plan_free": (None, [_P]),
    "qn_plan_rotary": (None, [_P, _INT, _P, _P]),
    "qn_step": (_INT, [_P, _INT, _P, _P, _P, c_int64, _P, _P, _INT]),
}


@cache
def find() -> tuple[Kernels | None, str]:
    """(the kernels, "") or (None, why not)."""
    wanted = os.environ.get("QUIRE_NATIVE", "").lower()
    if wanted in ("0", "off", "no", "false"):
        return None, "turned off by QUIRE_NATIVE"
    path = Path(os.environ.get("QUIRE_NATIVE_LIBRARY") or build.LIBRARY)
    if not path.exists():
        return None, "they were not built; with a C++ compiler: python -m quire.native.build"
    try:
        lib = _open(path)
    except (OSError, AttributeError) as error:
        return None, f"{path.name} cannot be loaded: {error}"
    if lib.qn_sources().decode() != build.source_hash():
        return None, f"{path.name} was built from other sources; build it again: python -m quire.native.build"
    if not _same_structs(lib):
        return None, f"{path.name} lays its structs out otherwise than Python"
    there = names(lib)
    name = there[0] if wanted in ("", "1", "on", "yes", "true") else wanted
    if name not in there or not lib.qn_select(name.encode()):
        return None, f"QUIRE_NATIVE={wanted} is not one of 0, {', '.join(there)}"
    return Kernels(lib, name, _share_threads(lib)), ""


def names(lib: Any) -> list[str]:
    """Instruction sets that this processor runs, best first."""
    there = str(lib.qn_supported().decode()).split()
    lacking = "neondot" in there and not {"asimddp", "i8mm", "bf16"} & set(machine.instruction_sets()) and not _apple()
    return there[1:] if lacking else there


def _apple() -> bool:
    return build.family() == "aarch64" and not Path("/proc/cpuinfo").exists()  # every Apple processor has the byte products


def _open(path: Path) -> Any:
    lib = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FACE.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _same_structs(lib: Any) -> bool:
    sizes = (c_int32 * 5)()
    lib.qn_sizes(sizes)
    return list(sizes) == [ctypes.sizeof(one) for one in (Weight, Norm, Pool, Layer, Spec)]


def _share_threads(lib: Any) -> bool:
    """Hand torch's OpenMP runtime to the kernels, so that one pool of threads serves both. False: the kernels keep a pool of their own."""
    import torch

    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    paths = {line[line.index("/") :] for line in lines if "/" in line and any(n in line for n in ("libgomp", "libomp", "libiomp"))}
    home = str(Path(torch.__file__).parent.parent)  # torch's own copy, should another package have brought a second one
    for path in sorted(paths, key=lambda p: (not p.startswith(home), p)):
        try:
            runtime = ctypes.CDLL(path)
            found = [ctypes.cast(getattr(runtime, n), c_void_p) for n in ("GOMP_parallel", "omp_get_num_threads", "omp_get_thread_num")]
        except (OSError, AttributeError):
            continue
        lib.qn_openmp(*found)
        return True
    return False


class Pace:
    """How many threads the next step takes: all of them, or one alone while other programs want the processors.

    Threads that work together wait for one another many times a step, and where one of them is pushed aside all stand still: two threads on
    a busy machine can be slower than one. One thread takes at most as many times as long as there are threads; where two steps have taken
    longer than that, the next ones run alone, then all try again; and as long as that goes wrong, twice as many run alone before the next
    try. Results do not depend on it.
    """

    FIRST, MOST = 2, 64  # steps alone before a try

    def __init__(self, count: int) -> None:
        self.count, self.alone, self.span, self.warned = count, 0, self.FIRST, False
        self.best: dict[int, float] = {}  # seconds with all threads, by rows
        self.single: dict[int, float] = {}  # seconds of the last step alone

    def next(self) -> int:
        return 1 if self.alone else self.count

    def took(self, rows: int, seconds: float) -> None:
        if self.alone:
            self.single[rows] = seconds
            self.alone -= 1
            return
        single = self.single.pop(rows, None)
        if single is not None and seconds < single:
            self.best[rows] = seconds  # all are faster again, if not as fast as once: the text has grown
        self.best[rows] = min(seconds, self.best.get(rows, seconds))
        slow = seconds > self.count * self.best[rows] or (single is not None and seconds > single)
        if self.count == 1 or not slow:
            self.span, self.warned = self.FIRST, False
        elif self.warned:
            self.alone, self.span = self.span, min(2 * self.span, self.MOST)
        self.warned = self.count > 1 and slow  # one slow step may be chance


def threads(asked: int = 0) -> int:
    """Threads of a run: as many as torch uses where none are asked for."""
    import torch

    return asked or torch.get_num_threads()


__all__ = [
    "ACTS",
    "FORMATS",
    "NORMS",
    "ROWS",
    "Kernels",
    "Layer",
    "Norm",
    "Pace",
    "Pool",
    "Spec",
    "Weight",
    "byref",
    "find",
    "names",
    "threads",
]
