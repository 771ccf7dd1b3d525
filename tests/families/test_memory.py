"""What opening a model takes in memory, measured in a process of its own: the weights, and hardly more, also where their type changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quire.families import FAMILIES, ModelFolder
from quire.nn.transformer import Transformer

from .gguf_files import write

ALLOWED = 1.1  # of the weights
FIXED = 8 << 20  # what an allocator and the modules themselves take, whatever the size
MODEL = {"vocab_size": 4096, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 8}
MODEL |= {"num_hidden_layers": 1}

CHILD = """
import sys, torch
from quire.families.folder import ModelFolder
def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def touched(path):
    model = ModelFolder.open(path).build(getattr(torch, sys.argv[2]))
    sum(float(parameter.sum()) for parameter in model.parameters())
    return model
touched(sys.argv[3])  # a small one, for the pages of the libraries
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
base = resident("VmRSS")
model = touched(sys.argv[1])
print(resident("VmHWM") - base, sum(p.numel() * p.element_size() for p in model.parameters()))
"""

PACKING = """
import sys, torch
from quire.families.folder import ModelFolder
from quire.families.tensors import release
from quire.native.linears import pack_model, packed_bytes
def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def packed(path):
    model = ModelFolder.open(path).build(torch.bfloat16)
    pack_model(model, sys.argv[2], release)
    return model
packed(sys.argv[3])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
base, own, files = resident("VmRSS"), resident("RssAnon"), resident("RssFile")
model = packed(sys.argv[1])
print(resident("VmHWM") - base, resident("RssAnon") - own, packed_bytes(model), resident("RssFile") - files)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 21 million weights: as fp32, bf16, and GGUF in Q8_0."""
    place = tmp_path_factory.mktemp("large")
    family = FAMILIES["llama"]
    config = family.tiny | MODEL
    model = Transformer(family.build(config))
    for dtype in (torch.float32, torch.bfloat16):
        ModelFolder.save(place / str(dtype).removeprefix("torch."), model, config, dtype=dtype)
    write(place / "q8.gguf", place / "float32", kind="Q8_0")
    small = Transformer(family.build(family.tiny))
    ModelFolder.save(place / "small", small, family.tiny)
    write(place / "small.gguf", place / "small", kind="Q8_0")
    return place


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark of memory")
@pytest.mark.parametrize(
    ("file", "dtype"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("q8.gguf", "float32")],
)
def test_opening_takes_the_weights_and_no_second_copy(root: Path, file: str, dtype: str) -> None:
    warm = "small.gguf" if file.endswith(".gguf") else "small"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root / file), dtype, str(root / warm)], check=True, capture_output=True, text=True
    )
    peak, weights = map(int, done.stdout.split())
    assert weights > 40e6
    largest = 4096 * 1024 * 4  # one tensor of each side may be in memory while it is converted
    assert peak <= ALLOWED * weights + FIXED + (2 * largest if file != dtype else 0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark of memory")
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_packing_takes_the_packed_weights_beside_the_file(root: Path, quant: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PACKING, str(root / "bfloat16"), quant, str(root / "small")], check=True, capture_output=True, text=True
    )
    peak, own, made, file = map(int, done.stdout.split())
    embedding = 2 * MODEL["vocab_size"] * MODEL["hidden_size"]
    assert made > 10e6
    assert own <= ALLOWED * made + FIXED  # nothing of the file is copied
    assert file <= ALLOWED * embedding + FIXED  # and what was packed is given back, as soon as it is
    assert peak <= ALLOWED * (made + embedding) + 2 * 2 * MODEL["hidden_size"] * MODEL["intermediate_size"] + FIXED
