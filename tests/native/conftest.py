"""The kernels under test: those that were installed, or, where these sources are newer, built once for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from quire.native import build, library


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[library.Kernels]:
    with pytest.MonkeyPatch.context() as patch:
        if library.find()[0] is None and "QUIRE_NATIVE_LIBRARY" not in os.environ:
            if not build.compiler():
                pytest.skip("no kernels and no compiler")
            to = tmp_path_factory.mktemp("native") / "kernels.so"
            assert build.build(to) == ""
            patch.setenv("QUIRE_NATIVE_LIBRARY", str(to))
            patch.delenv("QUIRE_NATIVE", raising=False)
            library.find.cache_clear()
        kernels, reason = library.find()
        assert kernels is not None, reason
        yield kernels
    library.find.cache_clear()


@pytest.fixture(params=["avx512bf16", "avx512", "avx2", "neondot", "neon", "portable"])
def kernels(request: pytest.FixtureRequest, built: library.Kernels) -> Iterator[library.Kernels]:
    """The library with each instruction set that this processor runs, in turn."""
    if request.param not in library.names(built.lib):
        pytest.skip(f"this processor does not run {request.param}")
    assert built.lib.qn_select(request.param.encode())
    yield built
    built.lib.qn_select(built.name.encode())
