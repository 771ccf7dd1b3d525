"""Without kernels: turned off, not built, stale, no compiler; plain torch then computes the same. And the kernels under sanitizers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quire.errors import ModelError
from quire.native import available, build, library
from quire.native.linears import pack_model
from quire.native.pack import pack, product, product_plain
from quire.native.step import NativeStep, PlainStep, make_step
from tests.native.test_step import pools, run, tiny, tokens_and_tables


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment is looked at anew, now and afterwards."""
    library.find.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    library.find.cache_clear()


def test_turned_off_computes_the_same(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("QUIRE_NATIVE", "0")
    assert available() == "plain torch (turned off by QUIRE_NATIVE)"
    w, x = torch.randn(5, 64), torch.randn(2, 64)
    assert torch.equal(product(x, pack(w, "int8")), product_plain(x, pack(w, "int8")))
    model = tiny("llama")
    tokens, tables = tokens_and_tables(model)
    step = make_step(model, *pools(model))
    assert isinstance(step, PlainStep)
    with torch.inference_mode():
        torch.testing.assert_close(run(step, tokens, tables), model.head(model.decode(tokens)), atol=1e-4, rtol=1e-5)


def test_every_reason_is_told(fresh: pytest.MonkeyPatch, built: library.Kernels, tmp_path: Path) -> None:
    there = Path(os.environ.get("QUIRE_NATIVE_LIBRARY") or build.LIBRARY)
    for value, file, told in (
        ("avx9000", there, "QUIRE_NATIVE=avx9000 is not one of 0, "),
        ("", tmp_path / "none.so", "they were not built"),
        ("", Path(__file__), "cannot be loaded"),
        ("portable", there, "portable on "),
    ):
        library.find.cache_clear()
        fresh.setenv("QUIRE_NATIVE", value)
        fresh.setenv("QUIRE_NATIVE_LIBRARY", str(file))
        assert told in available()
    library.find.cache_clear()
    fresh.setenv("QUIRE_NATIVE", "")
    fresh.setattr(build, "source_hash", lambda: "0")
    assert "built from other sources" in available()
    built.lib.qn_select(built.name.encode())


def test_no_compiler_is_a_reason_and_no_error(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setenv("CXX", "/no/such/compiler")
    assert "no C++ compiler" in build.build(tmp_path / "k.so")
    assert "false failed" in build.build(tmp_path / "k.so", cxx=["false"])
    assert list(tmp_path.iterdir()) == []
    import importlib.util

    spec = importlib.util.spec_from_file_location("hatch_build", Path(__file__).parents[2] / "hatch_build.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    assert "no C++ compiler" in hook._compile(Path(build.__file__))
    assert "FileNotFoundError" in hook._compile(tmp_path / "gone.py")


def test_threads_of_its_own(built: library.Kernels) -> None:
    """Where torch's OpenMP cannot be shared."""
    model = tiny("llama")
    tokens, tables = tokens_and_tables(model)
    shared = run(NativeStep(model, *pools(model), asked=2), tokens, tables)
    built.lib.qn_openmp(None, None, None)
    try:
        for count in (1, 2, 3):
            assert torch.equal(run(NativeStep(model, *pools(model), asked=count), tokens, tables), shared)
    finally:
        assert library._share_threads(built.lib) == built.shared


def test_the_pace_goes_alone_while_the_machine_is_busy() -> None:
    pace = library.Pace(2)
    for seconds in (1.0, 1.9, 1.2):
        assert pace.next() == 2
        pace.took(1, seconds)
    pace.took(1, 40.0)  # chance, perhaps
    assert pace.next() == 2
    for span in (2, 4, 8):
        pace.took(1, 40.0)  # pushed aside
        for _ in range(span):
            assert pace.next() == 1
            pace.took(1, 4.5)
        assert pace.next() == 2
    pace.took(1, 2.5)  # faster than alone, though not as fast as once: it stays together
    assert pace.next() == 2 and pace.best[1] == 2.5 and pace.span == 2
    single = library.Pace(1)
    single.took(1, 1.0)
    single.took(1, 9.0)
    assert single.next() == 1 and not single.alone


def test_packing_names_what_stays_as_it_is(built: library.Kernels) -> None:
    model = tiny("llama")  # its feed-forward part is 48 wide
    assert pack_model(model, "int4") == ["decoder.layers.0.ffn.down", "decoder.layers.1.ffn.down"]
    NativeStep(model, *pools(model))
    with pytest.raises(ModelError, match="quant is 'int3'; allowed: int8, int4"):
        pack_model(tiny("llama"), "int3")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", ["here", "aarch64"])
def test_instruction_sets_agree_without_python(tmp_path: Path, machine: str) -> None:
    """Also NEON, under emulation, where there is a cross compiler."""
    there = machine == "here"
    cxx, run_with = (build.compiler(), []) if there else (["aarch64-linux-gnu-g++"], ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"])
    if not cxx or not all(shutil.which(words[0]) for words in (cxx, run_with) if words):
        pytest.skip("no compiler or emulator for it")
    library_path, driver = tmp_path / "libk.so", str(tmp_path / "driver")
    assert build.build(library_path, (), cxx, "" if there else machine) == ""
    source = str(Path(__file__).with_name("driver.cpp"))
    subprocess.run([*cxx, "-std=c++17", source, str(library_path), f"-Wl,-rpath,{tmp_path}", "-pthread", "-o", driver], check=True)
    done = subprocess.run([*run_with, driver], capture_output=True, text=True)
    assert done.returncode == 0 and "portable 0" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(platform.system() != "Linux", reason="the sanitizers' libraries are preloaded the way Linux does it")
def test_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    cxx = build.compiler()
    if not cxx:
        pytest.skip("no compiler")

    def place(name: str) -> str:
        return subprocess.run([*cxx, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()

    libraries = [place("libasan.so"), place("libstdc++.so")]
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip("this compiler has no sanitizers")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")
    assert build.build(tmp_path / "k.so", flags, cxx) == ""
    environment = os.environ | {
        "QUIRE_NATIVE_LIBRARY": str(tmp_path / "k.so"),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaks by design
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = [str(Path(__file__).parent / name) for name in ("test_products.py", "test_step.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
