"""GGUF files for tests, written with the `gguf` package from folders of ours: its table of names, and llama.cpp's changes to tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from quire.families import FAMILIES, ModelFolder
from quire.nn.transformer import Transformer

ARCHITECTURES = {
    # model_type: architecture of GGUF
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "gpt2": "gpt2",
}


def write(path: Path, folder: Path, values: dict[str, Any] | None = None, kind: str = "F32") -> Path:
    """A Hugging Face folder as a GGUF file, as llama.cpp's converter writes it. values: further (or other) metadata, by full key."""
    config = json.loads((folder / "config.json").read_text())
    name = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, name)
    more = dict(values or {})
    for key, value in {**metadata(name, config), **more}.items():
        if value is not None:
            _put(writer, key, value)
    architecture = next(arch for arch, word in gguf.MODEL_ARCH_NAMES.items() if word == name)
    table = gguf.get_tensor_name_map(architecture, config.get("num_hidden_layers", 8))
    for theirs, tensor in _merged(load_file(folder / "model.safetensors")).items():
        found = table.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert found is not None, theirs
        _tensor(writer, found, _changed(name, config, theirs, tensor.float().numpy()), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if key == "general.architecture":
        return
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    add[type(value)](key, value)


def _tensor(writer: gguf.GGUFWriter, name: str, data: np.ndarray, kind: str) -> None:
    quantized = gguf.GGMLQuantizationType[kind if data.ndim > 1 and data.shape[-1] % 32 == 0 else "F32"]
    if quantized.name == "F32":
        writer.add_tensor(name, np.ascontiguousarray(data, np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(data, np.float32), quantized), raw_dtype=quantized)


def metadata(name: str, c: dict[str, Any]) -> dict[str, Any]:
    """What convert_hf_to_gguf.py writes for a config.json."""
    gpt2 = name == "gpt2"
    heads, width = c["n_head" if gpt2 else "num_attention_heads"], c["n_embd" if gpt2 else "hidden_size"]
    values = {
        "context_length": c["n_positions" if gpt2 else "max_position_embeddings"],
        "embedding_length": width,
        "block_count": c["n_layer" if gpt2 else "num_hidden_layers"],
        "feed_forward_length": c.get("n_inner") or 4 * width if gpt2 else c["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": c.get("num_key_value_heads", heads),
        "attention.layer_norm_epsilon" if gpt2 else "attention.layer_norm_rms_epsilon": c.get("rms_norm_eps", 1e-5),
    }
    rope = c.get("rope_scaling") or {}
    if rope:
        values |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
        values |= {"rope.scaling.original_context_length": rope.get("original_max_position_embeddings")}
    values |= {"rope.freq_base": c.get("rope_theta")}
    head_dim = c.get("head_dim", width // heads)
    if name in ("llama", "phi3"):
        values |= {"rope.dimension_count": head_dim}
    if "head_dim" in c and name != "llama":
        values |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    experts = c.get("num_experts", c.get("num_local_experts"))
    values |= {"expert_count": experts, "expert_used_count": c.get("num_experts_per_tok")}
    values |= {"expert_feed_forward_length": c.get("moe_intermediate_size")}
    if name.startswith("gemma") or name == "phi3":
        values |= {"attention.sliding_window": c.get("sliding_window")}
    if name == "gemma2":
        values |= {"attn_logit_softcapping": c.get("attn_logit_softcapping", 50.0)}
        values |= {"final_logit_softcapping": c.get("final_logit_softcapping", 30.0)}
    values |= {"vocab_size": c["vocab_size"]}
    ids = {"tokenizer.ggml.tokens": [f"t{i}" for i in range(c["vocab_size"])]}
    ids |= {f"tokenizer.ggml.{role}_token_id": c.get(f"{role}_token_id") for role in ("bos", "eos")}
    return {f"{name}.{key}": value for key, value in values.items()} | ids


def _merged(tensors: dict[str, Any]) -> dict[str, Any]:
    """One tensor for all experts of a layer."""
    import torch

    experts: dict[str, list[Any]] = {}
    for name in [name for name in tensors if re.search(r"experts\.\d+\.", name)]:
        place = int(re.search(r"experts\.(\d+)\.", name)[1])  # type: ignore[index]
        experts.setdefault(re.sub(r"experts\.\d+", "experts", name), []).append((place, tensors.pop(name)))
    return tensors | {name: torch.stack([tensor for _, tensor in sorted(parts, key=lambda p: p[0])]) for name, parts in experts.items()}


def _changed(name: str, config: dict[str, Any], theirs: str, data: np.ndarray) -> np.ndarray:
    if name == "llama" and re.search(r"\.[qk]_proj\.", theirs):
        heads = config["num_attention_heads" if ".q_proj." in theirs else "num_key_value_heads"]
        return data.reshape(heads, 2, data.shape[0] // heads // 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
    if name.startswith("gemma") and theirs.endswith("norm.weight"):
        return data + 1
    if name == "gpt2" and data.ndim == 2 and ".h." in theirs:
        return data.T
    return data


PIECES = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
WORDS: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": [-float(i) for i in range(len(PIECES))],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1, 3, 3, *[6] * 256],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


def model(path: Path, values: dict[str, Any] | None = None, kind: str = "F32") -> Path:
    family = FAMILIES["llama"]
    config = family.tiny | {"vocab_size": len(PIECES), "pad_token_id": None}
    torch.manual_seed(0)
    made = Transformer(family.build(config))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    folder = path.with_suffix("")
    ModelFolder.save(folder, made, config)
    return write(path, folder, WORDS | (values or {}), kind)
