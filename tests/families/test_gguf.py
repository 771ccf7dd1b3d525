"""GGUF files: the same configs, weights and logits as the folders they were made of; numbers of every kind; what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from quire.binding import gguf as container
from quire.errors import ModelError, WeightsError
from quire.families import FAMILIES, ModelFolder
from quire.families.dequantize import dequantize
from quire.families.gguf_config import DIALECTS
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer

from .gguf_files import ARCHITECTURES, write

Json = dict[str, Any]
ROPE = {"rope_theta": 500.0}
CASES: list[tuple[str, Json]] = [
    ("llama", {}),
    ("llama", ROPE | {"tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("llama", ROPE | {"attention_bias": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-6}),
    ("llama", ROPE | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
    ("mistral", {"sliding_window": None}),
    ("mixtral", ROPE),
    ("qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    ("qwen3", ROPE),
    ("qwen3_moe", ROPE),
    ("gemma", {}),
    ("gemma2", {"query_pre_attn_scalar": 16}),
    ("gemma3_text", {"query_pre_attn_scalar": 16, "num_hidden_layers": 6, "sliding_window_pattern": 6, "rope_theta": 1e6}),
    ("phi3", {}),
    ("olmo2", ROPE),
    ("gpt2", {}),
    ("gpt2", {"tie_word_embeddings": False, "n_inner": 48}),
]


def saved(path: Path, name: str, changes: Json) -> ModelFolder:
    family = FAMILIES[name]
    config = family.tiny | ({} if name == "gpt2" else {"rms_norm_eps": 1e-5}) | changes
    model = Transformer(family.build(config)).eval()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return ModelFolder.save(path, model, config)


def logits(model: Transformer, length: int = 24) -> torch.Tensor:
    tokens = torch.randint(5, 96, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found: torch.Tensor = model.head(model(Batch(tokens)))  # type: ignore[misc]
    return found


@pytest.mark.parametrize(("name", "changes"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_file_is_the_model_of_the_folder_it_was_made_of(tmp_path: Path, name: str, changes: Json) -> None:
    folder = saved(tmp_path / "folder", name, changes)
    opened = ModelFolder.open(write(tmp_path / "model.gguf", folder.path))
    ours, theirs = opened.build(), folder.build()
    assert opened.unread == () and opened.model_config.parameters() == folder.model_config.parameters()
    assert (logits(ours) - logits(theirs)).abs().max() < 2e-5
    exact = not name.startswith("gemma")  # adding one to a norm and taking it away rounds
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], tensor, rtol=0, atol=0 if exact else 1e-6)
    again = ModelFolder.save(tmp_path / "again", ours, opened.config)  # and a folder again
    assert torch.equal(logits(again.build()), logits(ours))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("gemma2", {"head_dim": 256}),  # sizes that it does not read from the file are those it takes for granted
        ("gemma3_text", {"head_dim": 256, "num_hidden_layers": 6, "sliding_window_pattern": 6, "rope_theta": 1e6}),
        ("gpt2", {"n_positions": 1024}),
    ],
)
def test_the_reference_reads_the_same_model_out_of_the_file(tmp_path: Path, name: str, changes: Json) -> None:
    """transformers has a reader of its own for some architectures."""
    import transformers

    path = write(tmp_path / "model.gguf", saved(tmp_path / "folder", name, changes).path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    tokens = torch.randint(5, 96, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = model(tokens).logits
    assert (logits(ModelFolder.open(path).build()) - theirs).abs().max() < 1e-4


def test_every_dialect_names_a_family_and_is_tested() -> None:
    assert {dialect.model_type for dialect in DIALECTS.values()} | {"mixtral"} <= set(FAMILIES)
    assert set(ARCHITECTURES.values()) == set(DIALECTS)
    assert {name for name, _ in CASES} == set(ARCHITECTURES)


def test_the_scaling_of_llama_3_is_recognised_by_its_divisors(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    theta, channels = 500_000.0, 64
    config = {"rope_theta": theta, "head_dim": channels, "num_attention_heads": 1, "num_key_value_heads": 1}
    folder = saved(tmp_path / "folder", "llama", config | {"rope_scaling": scaling})
    # as convert_hf_to_gguf.py makes them
    factors = []
    for freq in 1.0 / (theta ** (torch.arange(0, channels, 2).float() / channels)):
        length = 2 * np.pi / freq
        smooth = (8192 / length - 1.0) / (4.0 - 1.0)
        factors.append(1.0 if length < 8192 / 4 else 8.0 if length > 8192 else float(1 / ((1 - smooth) / 8.0 + smooth)))
    plain = tmp_path / "plain.gguf"
    write(plain, saved(tmp_path / "without", "llama", config).path)
    for found, fits in ((factors, True), ([*factors[:-1], 7.0], False), (factors[:-1], False)):
        path = with_tensor(plain, tmp_path / "model.gguf", "rope_freqs.weight", np.array(found, np.float32))
        if fits:
            assert ModelFolder.open(path).model_config.decoder == folder.model_config.decoder
        else:
            with pytest.raises(ModelError, match=r"rope_freqs.weight is not the scaling of Llama 3.1"):
                ModelFolder.open(path)


def test_divisors_of_phi_3_are_read(tmp_path: Path) -> None:
    """longrope: a divisor for every pair of channels, and what cosines are multiplied with, as convert_hf_to_gguf.py writes it."""
    original, context, short, long = 16, 64, [1.0, 1.25, 1.5, 2.0], [2.0, 3.0, 5.0, 8.0]
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    config = {"max_position_embeddings": context, "original_max_position_embeddings": original, "rope_scaling": scaling}
    folder = saved(tmp_path / "folder", "phi3", config)
    attention = float(np.sqrt(1 + np.log(context / original) / np.log(original)))
    values = {"phi3.rope.scaling.original_context_length": original, "phi3.rope.scaling.attn_factor": attention}
    plain = write(tmp_path / "plain.gguf", saved(tmp_path / "without", "phi3", {}).path, values)
    half = with_tensor(plain, tmp_path / "half.gguf", "rope_factors_short.weight", np.array(short, np.float32))
    opened = ModelFolder.open(with_tensor(half, tmp_path / "model.gguf", "rope_factors_long.weight", np.array(long, np.float32)))
    for length in (12, 48):  # within and beyond the original length
        assert (logits(opened.build(), length) - logits(folder.build(), length)).abs().max() < 2e-5


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "model.gguf", saved(tmp_path / "folder", "llama", {}).path)
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", version)
    path.write_bytes(data)
    assert len(container.read(path).slots) == 21


def with_tensor(path: Path, to: Path, name: str, data: np.ndarray) -> Path:
    """The same file with one more tensor."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(to, reader.get_field("general.architecture").contents())  # type: ignore[union-attr]
    for key, one in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, one.contents(), one.types[0], one.types[1] if len(one.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


# --- numbers


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K", "Q6_K"])
def test_blocks_become_the_numbers_of_the_reference_to_the_bit(kind: str) -> None:
    quantized = gguf.GGMLQuantizationType[kind]
    count, width = gguf.GGML_QUANT_SIZES[quantized]
    draw = np.random.default_rng(7)
    data = draw.integers(0, 256, (70_000 if kind == "Q8_0" else 300, width), dtype=np.uint8)  # every pattern, broken scales included
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(data, quantized)
    ours = dequantize(kind, data.reshape(-1)).reshape(theirs.shape)
    assert theirs.shape == (len(data), count)
    numbers = ~np.isnan(theirs)  # what is no number may be spelt in many ways
    assert np.array_equal(numbers, ~np.isnan(ours))
    assert np.array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_a_file_of_every_kind_opens(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path / "folder", "llama", {})
    path = write(tmp_path / "model.gguf", folder.path, kind=kind)
    opened = ModelFolder.open(path)
    model = opened.build()
    assert {slot.dtype for slot in opened.slots.values()} == {kind, "F32"}
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    theirs = gguf.quants.dequantize(reader["token_embd.weight"].data, reader["token_embd.weight"].tensor_type)
    assert np.array_equal(model.embed.weight.detach().numpy(), theirs.reshape(96, 32))
    near = {"F16": 0.02, "BF16": 0.1, "Q8_0": 0.2, "Q4_0": 6.0}[kind]
    assert (logits(model) - logits(folder.build())).abs().max() < near


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_a_file_of_large_blocks_opens(tmp_path: Path, kind: str) -> None:
    """Made of random bytes: the reference package reads these kinds and does not write them."""
    quantized = gguf.GGMLQuantizationType[kind]
    width = gguf.GGML_QUANT_SIZES[quantized][1]
    plain = write(tmp_path / "plain.gguf", saved(tmp_path / "folder", "llama", {"hidden_size": 256, "head_dim": 8}).path)
    blocks = np.random.default_rng(2).integers(0, 256, (96, width), dtype=np.uint8)
    scales = (slice(0, 2), slice(2, 4)) if kind == "Q4_K" else (slice(208, 210),)
    for place in scales:
        blocks[:, place] = np.array([0.01], np.float16).view(np.uint8)
    reader, writer = gguf.GGUFReader(plain), gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for key, one in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, one.contents(), one.types[0], one.types[1] if len(one.types) > 1 else None)
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            writer.add_tensor(tensor.name, blocks, raw_dtype=quantized)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = ModelFolder.open(tmp_path / "model.gguf")
    assert opened.slots["model.embed_tokens.weight"].dtype == kind
    model = opened.build()
    assert np.array_equal(model.embed.weight.detach().numpy(), gguf.quants.dequantize(blocks, quantized))
    assert torch.isfinite(logits(model)).all()


def test_pages_of_a_file_stay_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", saved(tmp_path / "folder", "llama", {}).path)
    before = path.read_bytes()
    model = ModelFolder.open(path).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before


# --- what is refused


def header(tensors: int = 0, values: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


def text(word: str | bytes) -> bytes:
    data = word.encode() if isinstance(word, str) else word
    return struct.pack("<Q", len(data)) + data


def tensor(name: str = "a", dims: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


NEST = struct.pack("<IQ", 9, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with 'GGUF'"),
        (b"GGML" + bytes(60), "does not begin with 'GGUF'"),
        (header(version=1), "has version 1; read are 2 and 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
        (header(tensors=10**18), "claims 1000000000000000000 tensors"),
        (header(values=10**18), "and 1000000000000000000 values; allowed are"),
        (header(values=1), "needs 8 bytes at byte 24, but the file has 24"),
        (header(values=1) + struct.pack("<Q", 2**63), "has a text of 9223372036854775808 bytes; allowed are 65536"),
        (header(values=1) + text("k") + struct.pack("<IQ", 8, 2**62), "'k' has a text of 4611686018427387904 bytes"),
        (header(values=1) + text("k") + struct.pack("<IQ", 8, 10**7), "the value 'k' needs 10000000 bytes"),
        (header(values=1) + text(b"\xff"), "a value's name is not UTF-8"),
        (header(values=1) + text("k") + struct.pack("<I", 77), "a value of type 77"),
        (header(values=1) + text("k") + struct.pack("<IB", 7, 2), "a truth value that is neither 0 nor 1"),
        (header(values=1) + text("k") + struct.pack("<If", 6, float("nan")), "is nan, which is no number"),
        (header(values=1) + text("k") + struct.pack("<IIQ", 9, 4, 2**40), "has 1099511627776 elements; allowed are 4194304"),
        (header(values=1) + text("k") + struct.pack("<IIQ", 9, 4, 4_000_000), "needs 16000000 bytes"),
        (header(values=1) + text("k") + struct.pack("<I", 9) + NEST * 6, "arrays inside arrays more than 4 deep"),
        (header(values=2) + 2 * (text("k") + struct.pack("<IB", 0, 2)), "the value 'k' is there twice"),
        (header(values=1) + text("general.alignment") + struct.pack("<II", 4, 48), "general.alignment is 48; allowed is a power of two"),
        (header(values=1) + text("general.alignment") + struct.pack("<II", 4, 0), "general.alignment is 0"),
        (header(tensors=1) + tensor(dims=(2,) * 5), "has 5 dimensions; allowed are 1 to 4"),
        (header(tensors=1) + tensor(dims=(0,)), "has shape .0., which cannot be cut"),
        (header(tensors=1) + tensor(dims=(40,), kind=2), "has shape .40., which cannot be cut into Q4_0's blocks of 32"),
        (header(tensors=1) + tensor(kind=13), "has type Q5_K; read are F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, BF16"),
        (header(tensors=1) + tensor(kind=999), "has type 999"),
        (header(tensors=1) + tensor(offset=8) + bytes(99), "begins at 8, which is no multiple of 32"),
        (header(tensors=1) + tensor(dims=(2**40, 2**40)) + bytes(99), "ends at byte 4835703278458516698824"),
        (header(tensors=1) + tensor(offset=2**63) + bytes(99), "ends at byte 9223372036854775"),
        (header(tensors=2) + tensor() + tensor() + bytes(99), "the tensor 'a' is there twice"),
        (header(tensors=2) + tensor() + tensor("b") + bytes(99), "'a' and 'b' overlap"),
        (header(tensors=1) + tensor() + bytes(30), "it was cut short"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        container.read(tmp_path / "x.gguf")


def test_a_header_of_a_hundred_megabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "x.gguf").open("wb") as file:
        file.write(header(values=1) + text("k") + struct.pack("<IQ", 8, 100 << 20))
        file.truncate(101 << 20)
    with pytest.raises(WeightsError, match="has more than the 67108864 bytes that are allowed|has a text of 104857600 bytes"):
        container.read(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"llama.attention.mystery": 3}, "llama.attention.mystery is '3'. It may change what the model computes"),
        ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'; read are"),
        ({"llama.block_count": 10**6}, "llama.block_count is 1000000; allowed is a whole number from 1 to 1000"),
        ({"llama.embedding_length": 0}, "llama.embedding_length is 0"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0"),
        ({"llama.attention.layer_norm_rms_epsilon": "small"}, "layer_norm_rms_epsilon is 'small'; allowed is a number"),
        ({"llama.rope.dimension_count": 4, "llama.attention.key_length": 8}, "rope.dimension_count is 4, and a head has 8 channels"),
        ({"llama.embedding_length": 64}, "token_embd|has shape"),
        ({"llama.feed_forward_length": [48, 64]}, r"feed_forward_length is \[48, 64\]; allowed is a whole number"),
    ],
)
def test_metadata_that_is_not_understood_is_refused_by_name(tmp_path: Path, values: Json, message: str) -> None:
    path = write(tmp_path / "model.gguf", saved(tmp_path / "folder", "llama", {}).path, values)
    with pytest.raises(ModelError, match=message):
        ModelFolder.open(path)


def test_a_value_for_each_layer_is_read_where_all_are_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", saved(tmp_path / "folder", "llama", {}).path, {"llama.feed_forward_length": [48, 48]})
    assert ModelFolder.open(path).config["intermediate_size"] == 48


def test_other_architectures_and_tensors_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="general.architecture is 'mamba'. Known: gemma, "):
        ModelFolder.open(tmp_path / "x.gguf")
    plain = write(tmp_path / "plain.gguf", saved(tmp_path / "folder", "llama", {}).path)
    more = with_tensor(plain, tmp_path / "more.gguf", "blk.0.attn_sinks.weight", np.zeros(4, np.float32))
    with pytest.raises(WeightsError, match="In the file but not in the model: blk.0.attn_sinks.weight"):
        ModelFolder.open(more)
    (tmp_path / "model.bin").write_bytes(plain.read_bytes())
    with pytest.raises(ModelError, match="is not a folder. A model is a folder with config.json and model.safetensors, or a .gguf file"):
        ModelFolder.open(tmp_path / "model.bin")
