"""The config.json of models that people have, as their makers published them: read without a field left over, at the published size; and
those that say one thing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quire.families import FAMILIES, ModelFolder
from quire.families.folder import _unread
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer
from tests.families.reference import Case, save_theirs, their_model, tokens

# model: (numbers that it holds, its config.json without what is harmless in every family)
KNOWN = {
    "EleutherAI/pythia-160m": (
        162_322_944,
        """{"architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 768, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 12,
        "num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
        "use_parallel_residual": true, "vocab_size": 50304}""",
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (
        1_100_048_384,
        """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 5632, "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 22, "num_key_value_heads": 4, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "vocab_size": 32000}""",
    ),
    "meta-llama/Llama-3.2-1B": (
        1_235_814_400,
        """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu",
        "eos_token_id": [128001, 128008], "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "vocab_size": 128256}""",
    ),
    "mistralai/Mistral-7B-v0.1": (
        7_241_732_096,
        """{"architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
        "vocab_size": 32000}""",
    ),
    "mistralai/Mixtral-8x7B-v0.1": (
        46_702_792_704,
        """{"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 32000}""",
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": (
        494_032_768,
        """{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936}""",
    ),
    "Qwen/Qwen3-0.6B": (
        596_049_920,
        """{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,
        "vocab_size": 151936}""",
    ),
    "Qwen/Qwen3-30B-A3B": (
        30_532_122_624,
        """{"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "decoder_sparse_step": 1,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
        "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false, "use_sliding_window": false,
        "vocab_size": 151936}""",
    ),
    "google/gemma-2b": (
        2_506_172_416,
        """{"architectures": ["GemmaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 256,
        "hidden_act": "gelu", "hidden_activation": null, "hidden_size": 2048, "intermediate_size": 16384,
        "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000.0, "vocab_size": 256000}""",
    ),
    "google/gemma-2-2b": (
        2_614_341_888,
        """{"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192,
        "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000}""",
    ),
    "google/gemma-3-1b-it": (
        999_885_952,
        """{"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": null,
        "cache_implementation": "hybrid", "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "vocab_size": 262144}""",
    ),
    "microsoft/phi-2": (
        2_779_683_840,
        """{"architectures": ["PhiForCausalLM"], "attention_dropout": 0.0, "embd_pdrop": 0.0, "hidden_act": "gelu_new",
        "hidden_size": 2560, "intermediate_size": 10240, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "phi",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
        "qk_layernorm": false, "resid_pdrop": 0.1, "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "vocab_size": 51200}""",
    ),
    "microsoft/Phi-3-mini-4k-instruct": (
        3_821_079_552,
        """{"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "embd_pdrop": 0.0,
        "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047,
        "tie_word_embeddings": false, "vocab_size": 32064}""",
    ),
    "mosaicml/mpt-7b": (
        6_649_286_656,
        """{"architectures": ["MptForCausalLM"], "attn_config": {"alibi": true, "alibi_bias_max": 8, "attn_impl": "torch",
        "attn_pdrop": 0, "attn_type": "multihead_attention", "attn_uses_sequence_id": false, "clip_qkv": null, "prefix_lm": false,
        "qk_ln": false, "softmax_scale": null}, "d_model": 4096, "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4,
        "init_config": {"name": "kaiming_normal_"}, "init_device": "cpu", "learned_pos_emb": true, "logit_scale": null,
        "max_seq_len": 2048, "model_type": "mpt", "n_heads": 32, "n_layers": 32, "no_bias": true,
        "norm_type": "low_precision_layernorm", "resid_pdrop": 0, "tokenizer_name": "EleutherAI/gpt-neox-20b", "verbose": 0,
        "vocab_size": 50432}""",
    ),
    "bigscience/bloom-560m": (
        559_214_592,
        """{"architectures": ["BloomForCausalLM"], "apply_residual_connection_post_layernorm": false, "attention_dropout": 0.0,
        "attention_softmax_in_fp32": true, "bias_dropout_fusion": true, "hidden_dropout": 0.0, "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": true, "model_type": "bloom", "n_embed": 1024, "n_inner": null, "n_layer": 24,
        "num_attention_heads": 16, "offset_alibi": 100, "pretraining_tp": 1, "seq_length": 2048, "skip_bias_add": true,
        "skip_bias_add_qkv": false, "vocab_size": 250880}""",
    ),
    "allenai/OLMo-2-1124-7B": (
        7_298_617_344,
        """{"architectures": ["Olmo2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "olmo2",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-06, "rope_scaling": null,
        "rope_theta": 500000, "tie_word_embeddings": false, "vocab_size": 100352}""",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_config_is_read_whole(name: str) -> None:
    numbers, text = KNOWN[name]
    config = json.loads(text)
    family = FAMILIES[config["model_type"]]
    assert _unread(family, config) == ()
    assert family.build(config).parameters() == numbers


LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 55.0}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_theta": 77.0, "rope_scaling": {"type": "linear", "factor": 3.0}, "rope_parameters": {"rope_theta": 55.0}}),
        ("llama", {"rope_theta": 77.0, "rope_scaling": {"type": "default"}, "rope_parameters": LINEAR}),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 8, "max_position_embeddings": 40}),
        ("phi", {"partial_rotary_factor": 0.25, "rope_parameters": LINEAR | {"partial_rotary_factor": 0.75}}),
        ("gpt_neox", {"rotary_pct": 0.5, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 8}),
        (
            "gemma3_text",
            {
                "sliding_window_pattern": 2,
                "rope_theta": 50.0,
                "rope_scaling": {"rope_type": "linear", "factor": 3.0},
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 99.0}, "sliding_attention": None},
            },
        ),
    ],
)
@torch.no_grad()
def test_a_config_that_says_it_twice_means_what_the_reference_reads(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """The config as it is here, with the weights of what the reference makes of it and writes."""
    case, ids = Case(FAMILIES[name], FAMILIES[name].tiny | changes), tokens(2, 20)
    state = ModelFolder.open(save_theirs(their_model(case), tmp_path)).build().state_dict()
    ours = Transformer(case.model).eval()
    ours.load_state_dict(state)
    difference = (ours.head(ours(Batch(ids))) - their_model(case)(input_ids=ids)["logits"]).abs().max().item()
    assert difference < 2e-5, difference
