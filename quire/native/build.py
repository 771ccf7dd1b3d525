"""Compiling the kernels: one shared library from this folder's C++, without headers of torch or Python, so one file serves every version.

Run by the package's own build (`hatch_build.py`), or by hand after a change: `python -m quire.native.build`. The kernels are compiled once
for each instruction set and the library chooses at run time; nothing here looks at this machine's processor beyond its family. The hash
of the sources is compiled in, so that a library from other sources is never loaded. Standard library only: a build runs without torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess  # the compiler
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = HERE / "_kernels.so"
SOURCES = ("abi.h", "simd.h", "team.h", "kernels.cpp", "step.cpp", "team.cpp")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-pthread", "-Wall", "-Wno-psabi")

_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-DQN_AVX2")
_AVX512 = ("-mavx2", "-mfma", "-mf16c", *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni")), "-DQN_AVX512")
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"portable": (), "avx2": _AVX2, "avx512": _AVX512, "avx512bf16": (*_AVX512, "-mavx512bf16", "-DQN_BF16DP")},
    "aarch64": {"portable": (), "neon": ("-DQN_NEON",), "neondot": ("-DQN_NEON", "-march=armv8.2-a+dotprod")},
}


def source_hash() -> str:
    """Of everything that is compiled, and of how."""
    digest = hashlib.sha256(repr((FLAGS, VARIANTS)).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def compiler() -> list[str]:
    """The C++ compiler as words of a command: CXX, else c++, g++ or clang++; empty where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for words in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(words[0]):
            return words
    return []


def family(machine: str = "") -> str:
    name = (machine or platform.machine()).lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def build(to: Path = LIBRARY, extra: tuple[str, ...] = (), cxx: list[str] | None = None, machine: str = "") -> str:
    """Compile into `to`; returns "" or, in a line, why not. extra: more flags, for every file. Writes `to` whole or not at all."""
    words = compiler() if cxx is None else cxx
    if not words:
        return "there is no C++ compiler (install g++ or clang, or name one in CXX)"
    if sys.platform == "win32":
        return "Windows is not supported"
    if not os.access(to.parent, os.W_OK):
        return f"{to.parent} is not writable"
    variants = VARIANTS.get(family(machine), {"portable": ()})
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        objects, running = [], []
        for name, flags in [(source, ()) for source in ("step.cpp", "team.cpp")] + list(variants.items()):
            out = str(Path(scratch) / f"{name}.o")
            source = name if name.endswith(".cpp") else "kernels.cpp"
            defined = (f'-DQN_SOURCES="{source_hash()}"',) if source == name else (f"-DQN_TABLE=isa_{name}", f'-DQN_NAME="{name}"')
            command = [*words, *FLAGS, *extra, *flags, *defined, "-c", str(HERE / source), "-o", out]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))  # noqa: S603
            objects.append(out)
        said = [process.communicate()[1] for process in running]
        failed = [text for process, text in zip(running, said, strict=True) if process.returncode]
        if failed:
            return f"{words[0]} failed: {failed[0].strip()[-1500:]}"
        library = str(Path(scratch) / "linked.so")
        command = [*words, "-shared", "-pthread", *extra, *objects, "-o", library]
        linked = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
        if linked.returncode:
            return f"{words[0]} could not link: {linked.stderr.strip()[-1500:]}"
        os.replace(library, to)
    return ""


if __name__ == "__main__":
    trouble = build()
    sys.exit(f"not built: {trouble}" if trouble else 0)
