"""BLOOM (Le Scao et al. 2022): slopes instead of positions (ALiBi), a norm on the embeddings; q, k and v of each head lie together."""

from __future__ import annotations

import math

from ..errors import ModelError
from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads
from .ops import per_head

CLASSES = d.classes("Bloom")


def slopes(heads: int) -> tuple[float, ...]:
    """2^floor(log2 H) slopes; the heads beyond take every second one of twice as many."""
    power = 1 << math.floor(math.log2(heads))
    more = [2.0 ** (-4.0 * i / power) for i in range(1, 2 * power, 2)]
    return tuple([2.0 ** (-8.0 * (i + 1) / power) for i in range(power)] + more[: heads - power])


def either(f: Fields, *names: str) -> str:
    """The first of several names of one field that the config uses."""
    return next((name for name in names if f.config.get(name) is not None), names[0])


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width = f.integer(either(f, "n_embed", "hidden_size"))
    heads = f.integer(either(f, "n_head", "num_attention_heads"), high=1 << 12)
    attn = Attn(heads, heads, split_heads(width, heads, heads), bias=True, out_bias=True)
    norm = Norm("layer", f.number("layer_norm_epsilon", 1e-5))
    layers = (Layer(attn, FFN(4 * width, "gelu_tanh", bias=True), norm),) * d.read_layers(f, either(f, "n_layer", "num_hidden_layers"))
    f.fixed("n_inner", 4 * width)
    f.fixed("apply_residual_connection_post_layernorm", False)
    stack = Stack(layers, final_norm=norm, alibi=slopes(heads), embed_norm=norm)
    context = f.integer("seq_length", 2048)
    model = d.finish(f, stack, d.read_head(f, CLASSES, tied=True), width, context, dropout="hidden_dropout")
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "bloom")
    if sizes.hidden not in (0, 4 * sizes.width):
        raise ModelError(f"hidden is {sizes.hidden}, but bloom always has four times its width ({4 * sizes.width}). Use 0.")
    return {
        "model_type": "bloom",
        "architectures": [CLASSES[0]],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "seq_length": sizes.context,
        "layer_norm_epsilon": 1e-5,
        "hidden_dropout": sizes.dropout,
        "attention_dropout": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": sizes.tied,
        "bos_token_id": sizes.bos,
        "eos_token_id": sizes.eos,
        "pad_token_id": sizes.pad,
    }


def weights(config: ModelConfig) -> list[Rule]:
    heads = config.decoder.layers[0].attn.heads if config.decoder else 1
    layer = "transformer.h.{i}."
    return [
        Rule("embed.weight", "transformer.word_embeddings.weight"),
        Rule("decoder.embed_norm.*", "transformer.word_embeddings_layernorm.*"),
        Rule("decoder.layers.{i}.attn.{q,k,v}.*", layer + "self_attention.query_key_value.*", per_head(heads)),
        Rule("decoder.layers.{i}.attn.o.*", layer + "self_attention.dense.*"),
        Rule("decoder.layers.{i}.ffn.{up,down}.*", layer + "mlp.{dense_h_to_4h,dense_4h_to_h}.*"),
        Rule("decoder.layers.{i}.{norm_attn,norm_ffn}.*", layer + "{input_layernorm,post_attention_layernorm}.*"),
        Rule("decoder.norm.*", "transformer.ln_f.*"),
        Rule("head.weight", "lm_head.weight"),
        Rule("head.classifier.weight", "score.weight"),
    ]


TINY: Json = {
    "model_type": "bloom",
    "architectures": [CLASSES[0]],
    "vocab_size": 96,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("bloom",),
        kind="decoder",
        new=new,
        build=build,
        weights=weights,
        tiny=TINY,
        variants=(
            {"hidden_size": 36, "n_head": 6, "tie_word_embeddings": False},
            {"hidden_size": 35, "n_head": 7},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="transformer.",
        bare=(CLASSES[1],),
        same=(("lm_head.weight", "transformer.word_embeddings.weight"),),
        harmless=frozenset(
            """attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion offset_alibi skip_bias_add skip_bias_add_qkv
            slow_but_exact""".split()
        ),
    )
)
