"""ModernBERT (Warner et al. 2024): pre-norm encoder with rotary positions, gated feed-forward parts, and layers that see near or all keys.

Norms have no bias, the first layer's attention reads the normed embedding as it is, and every head begins with a dense layer and a norm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ..errors import ModelError
from ..nn.config import FFN, Attn, LabelHead, Layer, MLMHead, ModelConfig, Norm, Rope, Sizes, Stack
from .encoder import head_of
from .family import ACTS, Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads
from .ops import SPLIT

THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads = f.integer("hidden_size", 768), f.integer("num_attention_heads", 12, high=1 << 12)
    norm = Norm("layer", f.number("norm_eps", 1e-5), bias=f.flag("norm_bias", False))
    hidden, act = f.integer("intermediate_size", 1152), f.choice("hidden_activation", "gelu", ACTS)
    ffn = FFN(hidden, act, gated=True, bias=f.flag("mlp_bias", False), dropout=True)
    bias = f.flag("attention_bias", False)
    attn = Attn(heads, heads, split_heads(width, heads, heads, even=True), bias=bias, out_bias=bias, causal=False)
    window = f.integer("local_attention", 128, low=2) // 2 + 1  # it says how many keys on both sides together
    kinds = {
        "full_attention": replace(attn, rope=_rope(f, "full_attention")),
        "sliding_attention": replace(attn, rope=_rope(f, "sliding_attention"), window=window),
    }
    layers = tuple(Layer(kinds[kind], ffn, norm, bare=i == 0) for i, kind in enumerate(_kinds(f)))
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size", 50368),
        context=f.integer("max_position_embeddings", 8192),
        encoder=Stack(layers, final_norm=norm, embed_norm=norm),
        head=None,
        dropout=f.number("mlp_dropout", 0.0, high=0.99),
        attention_dropout=f.number("attention_dropout", 0.0, high=0.99),
        init_std=f.number("initializer_range", 0.02),
        init="bert",
    )
    dense_bias, kind = f.flag("classifier_bias", False), f.choice("classifier_activation", "gelu", ACTS)
    pool = f.choice("classifier_pooling", "cls", {"cls": "first", "mean": "mean"})
    row = LabelHead(0, pool=pool, dense_bias=dense_bias, act=kind, norm=norm)
    words = MLMHead(kind, norm.eps, next_sentence=False, bias=norm.bias)
    head = head_of(f, "ModernBert", words, row, replace(row, over="token", pool="first"))
    if isinstance(head, MLMHead) and dense_bias != norm.bias:
        raise ModelError(f"config.json: classifier_bias is {dense_bias} and norm_bias {norm.bias}; a word head is read with both or none.")
    if not f.flag("decoder_bias", True) and isinstance(head, MLMHead):
        raise ModelError("config.json: decoder_bias is False; a masked-token head without its bias is not read.")
    f.close(FAMILY.harmless)
    return replace(model, head=head)


def _kinds(f: Fields) -> list[str]:
    """Which layers look at all keys and which at near ones."""
    count, every = f.integer("num_hidden_layers", 22, high=1000), f.integer("global_attn_every_n_layers", 3)
    kinds = f.array("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(count)]
    wrong = [kind for kind in kinds if kind not in tuple(THETAS)]
    if wrong or len(kinds) != count:
        what = f"has {wrong[0]!r}" if wrong else f"has {len(kinds)} entries"
        raise ModelError(f"config.json: layer_types {what}; allowed are {count} of {', '.join(THETAS)}.")
    return [str(kind) for kind in kinds]


def _rope(f: Fields, kind: str) -> Rope:
    """Plain rotary positions of one kind of layer, from either spelling; scaling is refused by name."""
    name, default = THETAS[kind]
    record = f.record("rope_parameters").get(kind) or {}
    if not isinstance(record, dict) or record.get("rope_type", "default") != "default" or set(record) - {"rope_type", "rope_theta"}:
        raise ModelError(f"config.json: rope_parameters.{kind} is {record!r}. Understood is rope_type 'default' with rope_theta.")
    if f.config.get(name, default) is None and not record:
        raise ModelError(f"config.json: {name} is null, which versions of the reference read differently. Write the number that is meant.")
    theta = f.number(name, default, low=1.0)
    return Rope(Fields(record).number("rope_theta", theta, low=1.0))


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    """A base model whose file has a masked-token head."""
    if "decoder.bias" not in names:
        return model
    return replace(model, head=build(config | {"architectures": ["ModernBertForMaskedLM"]}).head) if model.head is None else model


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "modernbert")
    return {
        "model_type": "modernbert",
        "architectures": ["ModernBertForMaskedLM"],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden or 3 * sizes.width // 2,
        "hidden_activation": "gelu",
        "max_position_embeddings": sizes.context,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "norm_eps": 1e-5,
        "mlp_dropout": sizes.dropout,
        "attention_dropout": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": sizes.bos,
        "eos_token_id": sizes.eos,
        "pad_token_id": sizes.pad,
        "cls_token_id": sizes.bos,
        "sep_token_id": sizes.eos,
    }


LAYER = "model.layers.{i}."
WEIGHTS = [
    Rule("embed.weight", "model.embeddings.tok_embeddings.weight"),
    Rule("encoder.embed_norm.*", "model.embeddings.norm.*"),
    Rule("encoder.layers.{i}.attn.{q,k,v}.*", LAYER + "attn.Wqkv.*", SPLIT),
    Rule("encoder.layers.{i}.attn.o.*", LAYER + "attn.Wo.*"),
    Rule("encoder.layers.{i}.ffn.{gate,up}.*", LAYER + "mlp.Wi.*", SPLIT),
    Rule("encoder.layers.{i}.ffn.down.*", LAYER + "mlp.Wo.*"),
    Rule("encoder.layers.{i}.{norm_attn,norm_ffn}.*", LAYER + "{attn_norm,mlp_norm}.*"),
    Rule("encoder.norm.*", "model.final_norm.*"),
    Rule("head.{dense,norm,classifier}.*", "{head.dense,head.norm,classifier}.*"),
    Rule("head.bias", "decoder.bias"),
]
TINY: Json = {
    "model_type": "modernbert",
    "architectures": ["ModernBertForMaskedLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "local_attention": 6,
    "global_attn_every_n_layers": 2,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "pad_token_id": 0,
}
THETA: Json = {
    kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in (("full_attention", 500.0), ("sliding_attention", 50.0))
}

FAMILY = register(
    Family(
        names=("modernbert",),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=lambda config: WEIGHTS,
        tiny=TINY,
        variants=(
            {"architectures": ["ModernBertModel"], "hidden_size": 36, "num_attention_heads": 3, "local_attention": 5, "norm_bias": True},
            {
                "architectures": ["ModernBertForMaskedLM"],
                "norm_bias": True,
                "classifier_bias": True,
                "attention_bias": True,
                "mlp_bias": True,
            },
            {"architectures": ["ModernBertForSequenceClassification"], "num_labels": 3, "rope_parameters": THETA},
            {
                "architectures": ["ModernBertForSequenceClassification"],
                "num_labels": 1,
                "classifier_pooling": "mean",
                "classifier_bias": True,
                "classifier_activation": "relu",
                "hidden_activation": "silu",
            },
            {"architectures": ["ModernBertForTokenClassification"], "num_labels": 5, "layer_types": ["sliding_attention"] * 3},
            {"architectures": ["ModernBertForQuestionAnswering"], "global_attn_every_n_layers": 1},
        ),
        prefix="model.",
        bare=("ModernBertModel",),
        same=(("decoder.weight", "model.embeddings.tok_embeddings.weight"),),
        harmless=frozenset(
            """cls_token_id deterministic_flash_attn embedding_dropout initializer_cutoff_factor layer_norm_eps reference_compile
            repad_logits_with_grad sparse_pred_ignore_index sparse_prediction""".split()
        ),
    )
)
