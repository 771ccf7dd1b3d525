"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): attention and feed-forward part side by side, a quarter of the channels
turn; on disk q, k and v of each head lie together in one matrix."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads
from .ops import per_head
from .rope import Spelling, read_rope

CLASSES = d.classes("GPTNeoX")
SPELLING = Spelling(theta_name="rotary_emb_base", partial=0.25, partial_name="rotary_pct")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 2048)
    heads = f.integer("num_attention_heads", high=1 << 12)
    head_dim = split_heads(width, heads, heads)
    bias = f.flag("attention_bias", True)
    attn = Attn(heads, heads, head_dim, bias=bias, out_bias=bias, rope=read_rope(f, head_dim, context, SPELLING))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "gelu", ACTS), bias=True)
    norm = Norm("layer", f.number("layer_norm_eps", 1e-5))
    layer = Layer(attn, ffn, norm, wiring="parallel" if f.flag("use_parallel_residual", True) else "pre")
    stack = Stack((layer,) * d.read_layers(f), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context, dropout="hidden_dropout")
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "gpt_neox")
    return {
        "model_type": "gpt_neox",
        "architectures": [CLASSES[0]],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden or 4 * sizes.width,
        "hidden_act": "gelu",
        "max_position_embeddings": sizes.context,
        "layer_norm_eps": 1e-5,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
        "attention_bias": True,
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
    layer = "gpt_neox.layers.{i}."
    return [
        Rule("embed.weight", "gpt_neox.embed_in.weight"),
        Rule("decoder.layers.{i}.attn.{q,k,v}.*", layer + "attention.query_key_value.*", per_head(heads)),
        Rule("decoder.layers.{i}.attn.o.*", layer + "attention.dense.*"),
        Rule("decoder.layers.{i}.ffn.{up,down}.*", layer + "mlp.{dense_h_to_4h,dense_4h_to_h}.*"),
        Rule("decoder.layers.{i}.{norm_attn,norm_ffn}.*", layer + "{input_layernorm,post_attention_layernorm}.*"),
        Rule("decoder.norm.*", "gpt_neox.final_layer_norm.*"),
        Rule("head.weight", "embed_out.weight"),
        Rule("head.classifier.weight", "score.weight"),
    ]


TINY: Json = {
    "model_type": "gpt_neox",
    "architectures": [CLASSES[0]],
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("gpt_neox",),
        kind="decoder",
        new=new,
        build=build,
        weights=weights,
        tiny=TINY,
        variants=(
            {"use_parallel_residual": False, "tie_word_embeddings": True, "rotary_pct": 1.0, "rotary_emb_base": 500},
            {"hidden_size": 60, "num_attention_heads": 3, "rotary_pct": 0.4, "attention_bias": False, "hidden_act": "gelu_fast"},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="gpt_neox.",
        bare=(CLASSES[1],),
        same=(("embed_out.weight", "gpt_neox.embed_in.weight"),),
        renames=(("lm_head.weight", "embed_out.weight"),),  # the reference's name in memory
        recomputed={
            r".*\.attention\.(masked_)?bias": "the causal mask follows from the positions",
            r".*rotary_emb\.inv_freq": "rotary frequencies follow from the config",
        },
    )
)
