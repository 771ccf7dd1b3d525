"""The architectures of GGUF as data: the family of ours that each one is, its metadata as a config.json, its tensors' names.

What a GGUF file leaves out because llama.cpp holds it as a constant (Gemma's activation, its windows' order, the base of its local rotary
positions) is written down here. What it holds only as a list of factors (Llama 3's rotary scaling) is recognised, or refused.

Source: llama.cpp's convert_hf_to_gguf.py and src/llama-model.cpp; gguf-py's constants.py and tensor_mapping.py.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..binding.gguf import Container
from ..binding.weights import Slot
from ..errors import ModelError, nearest

Json = dict[str, Any]
Factors = Mapping[str, list[float]]

# Values that change no number here: other keys say the same, or they are about the file.
_REPEATED = frozenset(("vocab_size", "attention.value_length", "rope.scaling.finetuned", "tensor_data_layout", "attention.causal"))


class Values:
    """The metadata of one architecture; remembers what was read, and `close` refuses the rest."""

    def __init__(self, container: Container) -> None:
        self.path, self.architecture, self._values = container.path, container.architecture, container.values
        self._read: set[str] = set()

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self._values.get(f"{self.architecture}.{name}")

    def _wrong(self, name: str, value: Any, allowed: str) -> ModelError:
        return ModelError(f"{self.path}: {self.architecture}.{name} is {value!r}; allowed is {allowed}.")

    def integer(self, name: str, default: int | None = None, low: int = 1, high: int = 1 << 24) -> int:
        value = self._take(name)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]  # a value a layer, all alike
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, value, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, as few decimals as tell its fp32 value: 1e-05, not 9.999999747378752e-06."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e12:
            raise self._wrong(name, value, "a number")
        single = struct.pack("<f", value)
        return next(short for digits in range(1, 18) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == single)

    def pattern(self, name: str, every: int, layers: int) -> list[bool]:
        """Something a layer: a list, or a number that says that every so many layers one has it not."""
        value = self._take(name)
        if isinstance(value, list) and len(value) == layers and all(type(one) is bool for one in value):
            return value
        if value is not None and (type(value) is not int or not 1 <= value <= 1000):
            raise self._wrong(name, value, f"a whole number from 1, or {layers} truth values")
        return [(i + 1) % (value or every) != 0 for i in range(layers)]

    def word(self, name: str, default: str) -> str:
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, value, "a word")
        return default if value is None else value

    def id(self, name: str) -> int | None:
        value = self._values.get(f"tokenizer.ggml.{name}")
        return value if type(value) is int and value not in (-1, 2**32 - 1) else None

    def close(self) -> None:
        prefix = f"{self.architecture}."
        for key, value in self._values.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in self._read and name not in _REPEATED:
                raise ModelError(
                    f"{self.path}: {key} is {str(value)[:60]!r}. It may change what the model computes and it is not understood, so the "
                    "model could answer differently. Only a file without it can be opened."
                )


@dataclass(frozen=True)
class Dialect:
    """fields: the part of config.json that is this architecture's own. top, layer: tensor names, GGUF's -> the folder's (`{e}`: an expert).

    interleaved: rows of q and k lie in pairs. shifted: one was added to the norms. turned: products that the folder keeps transposed.
    """

    model_type: str
    class_name: str
    fields: Callable[[Values, Json, Factors], Json]
    top: Mapping[str, str]
    layer: Mapping[str, str]
    stem: str = "model.layers"
    interleaved: bool = False
    shifted: bool = False
    turned: tuple[str, ...] = ()

    def config(self, values: Values, slots: Mapping[str, Slot], factors: Factors) -> Json:
        table = slots.get(f"{self.top['token_embd']}.weight")
        if table is None or len(table.shape) != 2:
            raise ModelError(
                f"{values.path} has no table of embeddings (token_embd.weight), so it is no model: perhaps a vocabulary alone."
            )
        common: Json = {
            "model_type": self.model_type,
            "architectures": [self.class_name],
            "vocab_size": table.shape[0],
            "bos_token_id": values.id("bos_token_id"),
            "eos_token_id": values.id("eos_token_id"),
            "pad_token_id": values.id("padding_token_id"),
        }
        if any(name.endswith("self_attn.q_proj.bias") for name in slots) and self.model_type == "llama":
            common["attention_bias"] = True
        return common | self.fields(values, common, factors)


# -- config.json ----------------------------------------------------------------------------------------------------------------------


def _llama_like(v: Values, common: Json, factors: Factors) -> Json:
    heads, width = v.integer("attention.head_count", high=1 << 12), v.integer("embedding_length")
    turning = v.integer("rope.dimension_count", 0, low=0)
    channels = v.integer("attention.key_length", 0, low=0) or turning or width // heads
    if turning not in (0, channels):
        raise ModelError(f"{v.path}: {v.architecture}.rope.dimension_count is {turning}, and a head has {channels} channels: not read.")
    return {
        "hidden_size": width,
        "intermediate_size": v.integer("feed_forward_length"),
        "num_hidden_layers": v.integer("block_count", high=1000),
        "num_attention_heads": heads,
        "num_key_value_heads": v.integer("attention.head_count_kv", heads, high=heads),
        "head_dim": channels,
        "max_position_embeddings": v.integer("context_length"),
        "rms_norm_eps": v.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        **_rope(v, channels, factors),
    }


def _rope(v: Values, channels: int, factors: Factors) -> Json:
    theta = v.number("rope.freq_base", 10_000.0)
    kind = v.word("rope.scaling.type", "none")
    scaling: Json = {"rope_type": "default"}
    if "rope_freqs.weight" in factors:
        scaling = _llama3(v, theta, channels, factors["rope_freqs.weight"])
    elif kind in ("linear", "yarn"):
        scaling = {"rope_type": kind, "factor": v.number("rope.scaling.factor")}
        original = v.integer("rope.scaling.original_context_length", 0, low=0)
        scaling |= {"original_max_position_embeddings": original} if kind == "yarn" and original else {}
    elif kind != "none":
        raise ModelError(f"{v.path}: {v.architecture}.rope.scaling.type is {kind!r}; read are 'none', 'linear' and 'yarn'.")
    return {"rope_theta": theta, "rope_parameters": {**scaling, "rope_theta": theta}}


def _llama3(v: Values, theta: float, channels: int, found: list[float]) -> Json:
    """Llama 3.1's scaling from the divisors that it gives: the largest is the factor, the other numbers are the published ones."""
    factor, low, high, original = max(found, default=0.0), 1.0, 4.0, 8192
    made = []
    for pair in range(channels // 2):
        turns = original / (2 * math.pi * theta ** (2 * pair / channels))  # within the original length
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        made.append(1 / ((1 - smooth) / factor + smooth) if factor else 0.0)
    if len(made) != len(found) or not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(made, found)):
        raise ModelError(f"{v.path}: rope_freqs.weight is not the scaling of Llama 3.1, and no other is known by its divisors.")
    names = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original}
    return {"rope_type": "llama3", "factor": factor, **names}


def _mixtral(v: Values, common: Json, factors: Factors) -> Json:
    experts = {"num_local_experts": v.integer("expert_count", high=1 << 12), "num_experts_per_tok": v.integer("expert_used_count")}
    return _llama_like(v, common, factors) | experts


def _qwen3_moe(v: Values, common: Json, factors: Factors) -> Json:
    config = _llama_like(v, common, factors)
    v.integer("expert_shared_feed_forward_length", 0, low=0, high=0)
    return config | {
        "moe_intermediate_size": v.integer("expert_feed_forward_length"),
        "num_experts": v.integer("expert_count", high=1 << 12),
        "num_experts_per_tok": v.integer("expert_used_count"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma(v: Values, common: Json, factors: Factors) -> Json:
    return _llama_like(v, common, factors) | {"hidden_act": "gelu_pytorch_tanh"}


def _gemma2(v: Values, common: Json, factors: Factors) -> Json:
    config = _llama_like(v, common, factors)
    del config["hidden_act"]
    layers, largest = config["num_hidden_layers"], 46  # the 27B model scales by the width of a head as its width would give it
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if layers == largest else config["head_dim"],
        "attn_logit_softcapping": v.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": v.number("final_logit_softcapping", 30.0),
        "sliding_window": v.integer("attention.sliding_window", 4096),
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
    }


def _gemma3(v: Values, common: Json, factors: Factors) -> Json:
    config = _llama_like(v, common, factors)
    layers, largest = config["num_hidden_layers"], 62
    theta, scaling = v.number("rope.freq_base", 1e6), config.pop("rope_parameters")
    del config["hidden_act"]
    window = v.integer("attention.sliding_window")
    slides = v.pattern("attention.sliding_window_pattern", 6, layers)
    config |= {"rope_theta": theta, "rope_local_base_freq": v.number("rope.freq_base_swa", 10_000.0)}
    if scaling["rope_type"] != "default":
        config["rope_scaling"] = {"rope_type": scaling["rope_type"], "factor": scaling["factor"]}
    return config | {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if layers == largest else config["head_dim"],
        "final_logit_softcapping": v.number("final_logit_softcapping", 0.0) or None,
        "sliding_window": window,
        "layer_types": ["sliding_attention" if one else "full_attention" for one in slides],
    }


def _phi3(v: Values, common: Json, factors: Factors) -> Json:
    heads, width = v.integer("attention.head_count", high=1 << 12), v.integer("embedding_length")
    channels, theta, context = width // heads, v.number("rope.freq_base", 10_000.0), v.integer("context_length")
    rope: Json = {"rope_type": "default", "rope_theta": theta}
    original = v.integer("rope.scaling.original_context_length", context)
    if "rope_factors_long.weight" in factors and "rope_factors_short.weight" in factors:
        rope |= {"rope_type": "longrope", "attention_factor": v.number("rope.scaling.attn_factor", 1.0)}
        rope |= {"short_factor": factors["rope_factors_short.weight"], "long_factor": factors["rope_factors_long.weight"]}
    return {
        "hidden_size": width,
        "intermediate_size": v.integer("feed_forward_length"),
        "num_hidden_layers": v.integer("block_count", high=1000),
        "num_attention_heads": heads,
        "num_key_value_heads": v.integer("attention.head_count_kv", heads, high=heads),
        "max_position_embeddings": context,
        "original_max_position_embeddings": original,
        "rms_norm_eps": v.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "sliding_window": v.integer("attention.sliding_window", 0, low=0) or None,
        "partial_rotary_factor": v.integer("rope.dimension_count", channels) / channels,
        "rope_theta": theta,
        "rope_parameters": rope,
    }


def _gpt2(v: Values, common: Json, factors: Factors) -> Json:
    width, heads = v.integer("embedding_length"), v.integer("attention.head_count", high=1 << 12)
    v.integer("attention.head_count_kv", heads, low=heads, high=heads)
    return {
        "n_embd": width,
        "n_layer": v.integer("block_count", high=1000),
        "n_head": heads,
        "n_positions": v.integer("context_length"),
        "n_inner": v.integer("feed_forward_length", 4 * width),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": v.number("attention.layer_norm_epsilon"),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }


# -- tensors --------------------------------------------------------------------------------------------------------------------------

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"} | {"attn_output": "self_attn.o_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_FEED = {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
_QK = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_AFTER = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_FOUR = {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm", **_AFTER}
_PLAIN = {**_ATTENTION, **_NORMS, **_FEED}
_SPARSE = "block_sparse_moe"
_MIXTRAL = {"ffn_gate_inp": f"{_SPARSE}.gate"}
_MIXTRAL |= {f"ffn_{ours}_exps": f"{_SPARSE}.experts.{{e}}.{theirs}" for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2"))}
_QWEN_MOE = {"ffn_gate_inp": "mlp.gate"} | {f"ffn_{part}_exps": f"mlp.experts.{{e}}.{part}_proj" for part in ("gate", "up", "down")}

_LLAMA = Dialect("llama", "LlamaForCausalLM", _llama_like, _TOP, _PLAIN, interleaved=True)
_PHI3 = {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}

DIALECTS: dict[str, Dialect] = {
    "llama": _LLAMA,
    "qwen2": Dialect("qwen2", "Qwen2ForCausalLM", _llama_like, _TOP, _PLAIN),
    "qwen3": Dialect("qwen3", "Qwen3ForCausalLM", _llama_like, _TOP, _PLAIN | _QK),
    "qwen3moe": Dialect("qwen3_moe", "Qwen3MoeForCausalLM", _qwen3_moe, _TOP, _ATTENTION | _NORMS | _QK | _QWEN_MOE),
    "gemma": Dialect("gemma", "GemmaForCausalLM", _gemma, _TOP, _PLAIN, shifted=True),
    "gemma2": Dialect("gemma2", "Gemma2ForCausalLM", _gemma2, _TOP, _ATTENTION | _FEED | _FOUR, shifted=True),
    "gemma3": Dialect("gemma3_text", "Gemma3ForCausalLM", _gemma3, _TOP, _ATTENTION | _FEED | _FOUR | _QK, shifted=True),
    "phi3": Dialect("phi3", "Phi3ForCausalLM", _phi3, _TOP, _PHI3 | _NORMS),
    "olmo2": Dialect("olmo2", "Olmo2ForCausalLM", _llama_like, _TOP, _ATTENTION | _FEED | _AFTER | _QK),
    "gpt2": Dialect(
        "gpt2",
        "GPT2LMHeadModel",
        _gpt2,
        {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f", "output": "lm_head"},
        {"attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj"}
        | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        stem="transformer.h",
        turned=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
}
_MIXTURE = replace(_LLAMA, model_type="mixtral", class_name="MixtralForCausalLM", fields=_mixtral, layer=_ATTENTION | _NORMS | _MIXTRAL)


def dialect_for(container: Container) -> Dialect:
    """Raises ModelError naming the architecture and those that are known."""
    name = container.architecture
    if name not in DIALECTS:
        known = sorted(DIALECTS)
        raise ModelError(f"{container.path}: general.architecture is {name!r}. Known: {', '.join(known)}.{nearest(name, known)}")
    return _MIXTURE if name == "llama" and container.values.get("llama.expert_count") else DIALECTS[name]
