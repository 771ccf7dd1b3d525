"""Phi 1 and 2 (Gunasekar et al. 2023): one norm feeds attention and feed-forward part at once, part of the channels turn, biases all over,
the logits' too."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, QKNorm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, Rule, register
from .rope import Spelling, read_rope

CLASSES = d.classes("Phi")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 2048)
    heads, kv_heads, head_dim = d.read_heads(f, width, even=False)
    norm = Norm("layer", f.number("layer_norm_eps", 1e-5))
    normed = QKNorm(norm) if f.flag("qk_layernorm", False) else None
    attn = Attn(heads, kv_heads, head_dim, True, True, rope=read_rope(f, head_dim, context, Spelling(partial=0.5)), norm=normed)
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "gelu_new", ACTS), bias=True)
    stack = Stack((Layer(attn, ffn, norm, wiring="parallel-one"),) * d.read_layers(f), final_norm=norm)
    f.number("embd_pdrop", 0.0)  # one number for the residual stream: the reference's default has them equal
    model = d.finish(f, stack, d.read_head(f, CLASSES, bias=True), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    stock = d.stock(sizes, "phi", CLASSES[0], rms_norm_eps=None, rope_theta=None, head_dim=None, hidden_act="gelu_new")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    dropout = {"resid_pdrop": sizes.dropout, "embd_pdrop": sizes.dropout}
    hidden = sizes.hidden or 4 * sizes.width
    return stock | dropout | {"layer_norm_eps": 1e-5, "rope_parameters": rope, "intermediate_size": hidden, "qk_layernorm": False}


WEIGHTS = [
    Rule("embed.weight", "model.embed_tokens.weight"),
    Rule("decoder.layers.{i}.attn.{q,k,v,o}.*", "model.layers.{i}.self_attn.{q_proj,k_proj,v_proj,dense}.*"),
    Rule("decoder.layers.{i}.attn.{norm_q,norm_k}.*", "model.layers.{i}.self_attn.{q_layernorm,k_layernorm}.*"),
    Rule("decoder.layers.{i}.ffn.{up,down}.*", "model.layers.{i}.mlp.{fc1,fc2}.*"),
    Rule("decoder.layers.{i}.norm_attn.*", "model.layers.{i}.input_layernorm.*"),
    Rule("decoder.norm.*", "model.final_layernorm.*"),
    Rule("head.*", "lm_head.*"),
    Rule("head.classifier.weight", "score.weight"),
]

FAMILY = register(
    Family(
        names=("phi",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=d.TINY | {"model_type": "phi", "architectures": [CLASSES[0]]},
        variants=(
            {"qk_layernorm": True, "tie_word_embeddings": True, "partial_rotary_factor": 0.25},
            {"hidden_size": 60, "num_attention_heads": 6, "num_key_value_heads": 2, "partial_rotary_factor": 0.4, "hidden_act": "relu"},
            {"rope_theta": 300.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
