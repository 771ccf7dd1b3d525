"""DeBERTa v2 and v3 (He et al. 2020, 2021): BERT with disentangled attention, and in the largest v2 models a convolution beside layer 0.

The masked-token head has two spellings: `cls.predictions` where config.json says `legacy`, as it does when nothing is said, and
`lm_predictions.lm_head` otherwise and in the files of Microsoft.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ..errors import ModelError
from ..nn.config import Attn, Conv, Disentangled, Distances, LabelHead, Layer, ModelConfig, Norm, Sizes, Stack
from .encoder import bert_layer, bert_model, bert_rules, head_of, head_rules, held, masked, older_files, stock
from .family import ACTS, Family, Fields, Json, Rule, register


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    layer = bert_layer(f, eps=1e-7)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 512)
    for name, means in (("embedding_size", "an embedding of another width"), ("pooler_hidden_size", "a pooler of another width")):
        if f.integer(name, width) != width:
            raise ModelError(f"config.json: {name} is {config[name]}, but hidden_size is {width}; {means} is not read.")
    if f.integer("attention_head_size", layer.attn.head_dim) != layer.attn.head_dim:
        raise ModelError(f"config.json: attention_head_size is {config['attention_head_size']}; read is hidden_size / num_attention_heads.")
    attn, distances = _distances(f, layer, context)
    stack = Stack(
        (replace(layer, attn=attn),) * f.integer("num_hidden_layers", high=1000),
        distances=distances,
        positions=context if f.flag("position_biased_input", True) else 0,
        types=f.integer("type_vocab_size", 0, low=0, high=1 << 12),
        embed_norm=layer.norm,
        conv=_conv(f, width),
    )
    f.flag("legacy", True)
    row = LabelHead(0, act=f.choice("pooler_hidden_act", "gelu", ACTS))
    head = head_of(f, "DebertaV2", masked(layer), row)
    f.close(FAMILY.harmless)
    return bert_model(f, stack, head, context)


def _distances(f: Fields, layer: Layer, context: int) -> tuple[Attn, Distances | None]:
    """Attention's record and the stack's table of distances."""
    given = f.config.get("pos_att_type")
    words = [word.strip() for word in given.lower().split("|")] if isinstance(given, str) else f.array("pos_att_type")
    f.read.add("pos_att_type")
    unknown = [word for word in words if word not in ("c2p", "p2c")]
    if unknown:
        raise ModelError(f"config.json: pos_att_type has {unknown[0]!r}. Allowed: c2p, p2c.")
    key, query = "c2p" in words, "p2c" in words
    furthest, buckets = f.config.get("max_relative_positions"), f.config.get("position_buckets")
    furthest = context if furthest in (None, -1, 0) else f.integer("max_relative_positions")
    buckets = 0 if buckets in (None, -1, 0) else f.integer("position_buckets", low=4)
    f.read |= {"max_relative_positions", "position_buckets"}
    norm: Norm | None = layer.norm if f.choice("norm_rel_ebd", "none", {"none": False, "layer_norm": True}) else None
    shared, relative = f.flag("share_att_key", False), f.flag("relative_attention", False)
    attn = replace(layer.attn, scale=(layer.attn.head_dim * (1 + key + query)) ** -0.5)
    if not relative:
        return attn, None
    if buckets and furthest - 1 <= buckets // 2:
        raise ModelError(f"config.json: position_buckets is {buckets}; for positions up to {furthest} it must be below {2 * furthest - 2}.")
    if key or query:
        attn = replace(attn, disentangled=Disentangled(key, query, shared))
    return attn, Distances(buckets or furthest, furthest if buckets else 0, norm)


def _conv(f: Fields, width: int) -> Conv | None:
    kernel, groups = f.integer("conv_kernel_size", 0, low=0, high=1 << 10), f.integer("conv_groups", 1)
    act = f.choice("conv_act", "tanh", ACTS)
    if not kernel:
        return None
    if kernel % 2 == 0 or width % groups:
        raise ModelError(f"config.json: conv_kernel_size is {kernel}, conv_groups {groups}; allowed are odd sizes and divisors of {width}.")
    return Conv(kernel, act, groups)


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    assert model.encoder is not None
    words = masked(model.encoder.layers[0])
    return held(model, names, words, WORDS[2] if WORDS[2] in names else LEGACY[2])


def new(sizes: Sizes) -> Json:
    more = {
        "layer_norm_eps": 1e-7,
        "type_vocab_size": 0,
        "relative_attention": True,
        "max_relative_positions": -1,
        "position_buckets": -1 if sizes.context < 64 else sizes.context // 2,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "legacy": False,
    }
    return stock(sizes, "deberta-v2", "DebertaV2ForMaskedLM", **more)


SELF = "deberta.encoder.layer.{i}.attention.self."
BASE = [
    *bert_rules("deberta", qkv="self.{query_proj,key_proj,value_proj}"),
    Rule("encoder.layers.{i}.attn.{pos_q,pos_k}.*", SELF + "{pos_query_proj,pos_key_proj}.*"),
    Rule("encoder.distances.weight", "deberta.encoder.rel_embeddings.weight"),
    Rule("encoder.distances.norm.*", "deberta.encoder.LayerNorm.*"),
    Rule("encoder.conv.{mix,norm}.*", "deberta.encoder.conv.{conv,LayerNorm}.*"),
]
LEGACY = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
WORDS = ("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", "lm_predictions.lm_head.bias")


def weights(config: ModelConfig) -> list[Rule]:
    return BASE + head_rules(config.head, LEGACY, "pooler.dense")


def spelled(config: Json, names: Collection[str]) -> dict[str, str]:
    """The masked-token head's names: as the file has them, or in a new one as config.json says."""
    if WORDS[2] not in names and (names or config.get("legacy") is not False):
        return {}
    return {rule.theirs: other.theirs for rule, other in zip(head_rules(None, LEGACY), head_rules(None, WORDS))}


TINY: Json = {
    "model_type": "deberta-v2",
    "architectures": ["DebertaV2ForMaskedLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
V2: Json = {"conv_kernel_size": 3, "conv_act": "gelu", "share_att_key": False, "position_buckets": -1}

OLDER = older_files("deberta", "cls.predictions.decoder", "cls.predictions.bias")
OLDER["recomputed"] = {
    r"deberta\.embeddings\.position_ids": "positions count from 0",
    r"deberta\.embeddings\.position_embeddings\.weight": "position_biased_input is false: no positions are added",
    r"mask_predictions\..*": "the discriminator of the training, which nothing here reads",
}

FAMILY = register(
    Family(
        names=("deberta-v2",),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=TINY,
        variants=(
            {
                "architectures": ["DebertaV2Model"],
                **V2,
                "conv_groups": 2,
                "type_vocab_size": 2,
                "hidden_size": 36,
                "num_attention_heads": 3,
            },
            {"architectures": ["DebertaV2ForMaskedLM"], "legacy": False, "max_relative_positions": 6},
            {"architectures": ["DebertaV2ForSequenceClassification"], "num_labels": 3, **V2, "conv_kernel_size": 5, "pos_att_type": "c2p"},
            {
                "architectures": ["DebertaV2ForTokenClassification"],
                "num_labels": 5,
                "pos_att_type": ["p2c"],
                "share_att_key": False,
                "position_biased_input": True,
                "norm_rel_ebd": "none",
            },
            {
                "architectures": ["DebertaV2ForQuestionAnswering"],
                "relative_attention": False,
                "norm_rel_ebd": "none",
                "pooler_hidden_act": "relu",
            },
        ),
        prefix="deberta.",
        bare=("DebertaV2Model",),
        **OLDER,
        spelled=spelled,
        harmless=frozenset({"pooler_dropout", "pooler_size", "cls_dropout"}),
    )
)
