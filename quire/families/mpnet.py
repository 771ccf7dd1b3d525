"""MPNet (Song et al. 2020): BERT without token types, with T5's relative buckets beside its learned positions, which begin at row 2."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..errors import ModelError
from ..nn.config import LabelHead, ModelConfig, Pooler, Relative, Sizes, Stack
from .encoder import bert_layer, bert_model, bert_rules, head_of, head_rules, held, masked, older_files, stock
from .family import Family, Fields, Json, Rule, register

OFFSET = 2  # whatever the padding's id is
BUCKETS = 32


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    layer = bert_layer(f)
    rows = f.integer("max_position_embeddings", 512, low=OFFSET + 1)
    if f.integer("relative_attention_num_buckets", BUCKETS) != BUCKETS:
        raise ModelError(f"config.json: relative_attention_num_buckets is not {BUCKETS}, the number that MPNet's distances are cut into.")
    stack = Stack(
        (layer,) * f.integer("num_hidden_layers", high=1000),
        relative=Relative(BUCKETS, 128),
        positions=rows,
        position_offset=OFFSET,
        embed_norm=layer.norm,
    )
    head = head_of(f, "MPNet", masked(layer, "gelu"), LabelHead(0, twice=True), pooler=Pooler())
    f.close(FAMILY.harmless)
    return bert_model(f, stack, head, rows - OFFSET)


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    assert model.encoder is not None
    return held(model, names, masked(model.encoder.layers[0], "gelu"), "lm_head.bias", "mpnet.pooler.dense.weight")


def new(sizes: Sizes) -> Json:
    more = {"relative_attention_num_buckets": BUCKETS, "bos_token_id": sizes.bos, "eos_token_id": sizes.eos}
    config = stock(sizes, "mpnet", "MPNetForMaskedLM", max_position_embeddings=sizes.context + OFFSET, **more)
    del config["type_vocab_size"]
    return config


BASE = [
    *bert_rules("mpnet", qkv="attn.{q,k,v}", out="attn.o", norm="LayerNorm"),
    Rule("encoder.relative.weight", "mpnet.encoder.relative_attention_bias.weight"),
]
WORDS = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")


def weights(config: ModelConfig) -> list[Rule]:
    return BASE + head_rules(config.head, WORDS, "classifier.dense", "classifier.out_proj", "mpnet.pooler.dense")


TINY: Json = {
    "model_type": "mpnet",
    "architectures": ["MPNetForMaskedLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 34,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
}

FAMILY = register(
    Family(
        names=("mpnet",),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=TINY,
        variants=(
            {"architectures": ["MPNetModel"], "hidden_size": 36, "num_attention_heads": 3},
            {"architectures": ["MPNetForSequenceClassification"], "num_labels": 3, "hidden_act": "relu"},
            {"architectures": ["MPNetForTokenClassification"], "num_labels": 5},
            {"architectures": ["MPNetForQuestionAnswering"]},
        ),
        prefix="mpnet.",
        bare=("MPNetModel",),
        **older_files("mpnet", "lm_head.decoder", "lm_head.bias"),
    )
)
