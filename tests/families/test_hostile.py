"""Files from strangers, by the thousand: bits flipped, cut short, numbers made huge. Either the model opens or an error of ours says why,
soon and in little memory. The mutations are drawn from fixed seeds, so a failure can be repeated by its number.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from quire.binding import Contract
from quire.binding import gguf as container
from quire.binding.weights import read_header
from quire.errors import ModelError, QuireError, WeightsError
from quire.families import FAMILIES, ModelFolder
from quire.nn.transformer import Transformer

from .gguf_files import write

MUTATIONS = 2000
Json = dict[str, Any]
TINY = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
}


@contextlib.contextmanager
def bounded(seconds: float, megabytes: int) -> Iterator[None]:
    """Fails when the block takes longer, or when the process's largest size has grown by more."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.perf_counter() - began < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1024


def tiny(path: Path) -> Path:
    family = FAMILIES["llama"]
    config = family.tiny | TINY
    ModelFolder.save(path, Transformer(family.build(config)), config)
    return path


def mutated(data: bytes, draw: random.Random, head: int) -> bytes:
    """One to four changes, most of them in the first `head` bytes, where the structure is."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(min(head, len(changed)) if draw.random() < 0.9 else len(changed)) if changed else 0
        kind = draw.randrange(7)
        if kind == 0:
            changed[place : place + 1] = bytes([changed[place] ^ 1 << draw.randrange(8)]) if changed else b""
        elif kind == 1:
            del changed[draw.randrange(len(changed) + 1) :]
        elif kind == 2:
            del changed[place : place + draw.randrange(1, 9)]
        elif kind == 3:
            changed[place:place] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 4:
            changed[place : place + 8] = struct.pack("<Q", draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 10**6)))
        elif kind == 5:
            changed[place : place + 4] = struct.pack("<I", draw.choice((0, 9, 8, 2**31, 2**32 - 1, 255)))
        else:
            other = draw.randrange(min(head, len(changed)) or 1)
            changed[place : place + 16] = changed[other : other + 16]
    return bytes(changed)


def test_safetensors(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    file = folder / "model.safetensors"
    data = file.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    opened = 0
    with bounded(60, 200):
        for number in range(MUTATIONS):
            file.unlink()  # never written over: an earlier model may still have it mapped
            file.write_bytes(mutated(data, random.Random(number), head))
            try:
                ModelFolder.open(folder).build()
                opened += 1
            except QuireError as error:
                assert len(str(error)) < 4000, number
    assert 0 < opened < MUTATIONS / 2


def words() -> Json:
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "c", "d", "e", "f"]
    values = {"model": "llama", "tokens": pieces, "scores": [-float(i) for i in range(12)], "token_type": [2, 3, 3, *[1] * 9]}
    return {f"tokenizer.ggml.{key}": value for key, value in (values | {"unknown_token_id": 0}).items()}


def test_gguf(tmp_path: Path) -> None:
    template = {"tokenizer.chat_template": "{{ messages[0].content }}"}
    file = write(tmp_path / "model.gguf", tiny(tmp_path / "folder"), words() | template)
    data = file.read_bytes()
    head = min(slot.start for slot in container.read(file).slots.values())
    opened = 0
    with bounded(60, 200):
        for number in range(MUTATIONS):
            file.unlink()
            file.write_bytes(mutated(data, random.Random(number), head))
            with contextlib.suppress(QuireError):
                ModelFolder.open(file).build()
                opened += 1
            with contextlib.suppress(QuireError):
                Contract.open(file)
    assert 0 < opened < MUTATIONS / 2


def test_sound_gguf_files_are_read_as_the_reference_reads_them(tmp_path: Path) -> None:
    for number in range(60):
        draw = random.Random(number)
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
        if draw.random() < 0.5:
            writer.add_custom_alignment(draw.choice((8, 16, 64, 256)))
        values: Json = {}
        for key in range(draw.randrange(8)):
            name = f"key.{key}"
            kind = draw.randrange(6)
            values[name] = (
                draw.randrange(2**32) if kind == 0
                else draw.random() < 0.5 if kind == 1
                else "".join(draw.choices("aé🦙\n ", k=draw.randrange(1, 9))) if kind == 2
                else [draw.randrange(2**31) for _ in range(draw.randrange(1, 5))] if kind == 3
                else [str(i) * draw.randrange(1, 3) for i in range(draw.randrange(1, 5))] if kind == 4
                else np.float32(draw.random()).item()
            )  # fmt: skip
            value = values[name]
            add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array, float: writer.add_float32}
            add[type(value)](name, value)
        kinds = [gguf.GGMLQuantizationType[word] for word in ("F32", "F16", "Q8_0", "Q4_0")]
        for place in range(draw.randrange(5)):
            shape = [draw.randrange(1, 5) for _ in range(draw.randrange(3))] + [32 * draw.randrange(1, 4)]
            quantized = draw.choice(kinds)
            numbers = np.random.default_rng(number).normal(size=shape).astype(np.float32)
            writer.add_tensor(f"tensor.{place}", gguf.quants.quantize(numbers, quantized), raw_dtype=quantized)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        ours = container.read(tmp_path / "x.gguf")
        assert {name: ours.values[name] for name in values} == values, number
        if not ours.slots:
            continue
        theirs = gguf.GGUFReader(tmp_path / "x.gguf")
        data = (tmp_path / "x.gguf").read_bytes()
        assert list(ours.slots) == [tensor.name for tensor in theirs.tensors]
        for tensor in theirs.tensors:
            slot = ours.slots[tensor.name]
            shape = tuple(map(int, reversed(tensor.shape)))
            assert (slot.dtype, slot.shape, slot.start) == (tensor.tensor_type.name, shape, tensor.data_offset)
            assert data[slot.start : slot.end] == tensor.data.tobytes()


# --- config.json

HOSTILE: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 10**9, -(10**9), 2**31, 2**63, 10**30, 0.0, 0.5, -1.5, 1e308, 1e-308, True, False, None, "", "x", "default", [], [0],
    [10**9] * 3, {}, {"rope_type": "linear"}, {"rope_type": "yarn", "factor": 10**9}, {"a": {"b": [1]}}, "9" * 5000, [[[]]], "relu",
)  # fmt: skip


def fields(config: Json) -> list[str]:
    """What the family asks for, whether this config says it or not."""
    asked: set[str] = set(config)

    class Asked(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    FAMILIES[config["model_type"]].build(Asked(config))
    return sorted(asked)


def test_configs_of_every_family() -> None:
    """Every field that a family reads, by numbers that are too large, too small, of another kind, or deep."""
    families = [family for name, family in sorted(FAMILIES.items()) if name == family.names[0]]
    cases = [family.tiny | variant for family in families for variant in ({}, *family.variants)]
    known = [fields(config) for config in cases]
    built = 0
    with bounded(90, 400):
        for number in range(MUTATIONS):
            draw = random.Random(number)
            place = number % len(cases)
            config, name = dict(cases[place]), cases[place]["model_type"]
            for field in draw.sample(known[place], draw.choice((1, 1, 1, 2, 3))):
                if draw.random() < 0.1:
                    config.pop(field, None)
                else:
                    config[field] = draw.choice(HOSTILE)
            config["model_type"] = name
            began = time.perf_counter()
            try:
                model = FAMILIES[name].build(config)
            except ModelError as error:
                assert len(str(error)) < 20_000, (number, config)
                continue
            finally:
                assert time.perf_counter() - began < 2.0, (number, config)
            built += 1
            model.parameters()
            layers = sum(len(stack.layers) for stack in (model.encoder, model.decoder) if stack)
            if layers <= 16:  # what is more than the file's tensors is refused before this
                with torch.device("meta"):
                    Transformer(model)
            assert time.perf_counter() - began < 5.0, (number, config)
    assert built > MUTATIONS / 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type":' + "[" * 200_000, "is not a JSON object"),
        ('{"a":' * 150_000 + "1" + "}" * 150_000, "is not a JSON object"),
        ('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", "is not a JSON object|hidden_size"),
        ('{"model_type": "llama", "rms_norm_eps": NaN}', "NaN is no number of JSON"),
        (" " * (1 << 20) + "{}", "allowed are 1048576"),
    ],
)
def test_a_config_that_is_hostile_as_a_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = tiny(tmp_path / "model")
    (folder / "config.json").write_text(text)
    with bounded(2, 100), pytest.raises(ModelError, match=message):
        ModelFolder.open(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"num_hidden_layers": 1000}, "describes [0-9,]* numbers, the files hold"),
        ("mixtral", {"num_hidden_layers": 8, "num_local_experts": 4096}, "describes [0-9,]* numbers, the files hold"),
    ],
)
def test_a_config_of_more_parts_than_the_file_has_is_refused_before_they_are_made(
    tmp_path: Path, name: str, changes: Json, message: str
) -> None:
    config = FAMILIES[name].tiny
    ModelFolder.save(tmp_path / "model", Transformer(FAMILIES[name].build(config)), config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | changes))
    with bounded(2, 100), pytest.raises(WeightsError, match=message):
        ModelFolder.open(tmp_path / "model")


def test_a_header_of_a_hundred_megabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write((100 << 20).to_bytes(8, "little"))
        file.truncate(101 << 20)
    with bounded(1, 20), pytest.raises(WeightsError, match="its header has 104857600 bytes; allowed are 16777216"):
        read_header(tmp_path / "x.safetensors")
