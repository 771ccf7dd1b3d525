"""What the config.json and the weights of most decoders have in common: LLaMA's names, with a few words changed from family to family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ModelError
from ..nn.config import FFN, Head, LabelHead, LMHead, ModelConfig, MoE, Sizes, Stack
from .family import Fields, Json, Rule, check_sizes, gated_hidden, split_heads
from .ops import STACK, STACK_PAIRS


def classes(stem: str, base: str = "", classifier: str = "") -> tuple[str, str, str]:
    """The reference implementation's names of a decoder with logits, of the base model, and of the one that labels a row."""
    return f"{stem}ForCausalLM", base or f"{stem}Model", classifier or f"{stem}ForSequenceClassification"


def read_head(f: Fields, names: Sequence[str], tied: bool = False, bias: bool = False, softcap: float | None = None) -> Head | None:
    """What stands above the stack, by `architectures`. A row's label is read at its last token."""
    which = f.architecture(names)
    tied = f.flag("tie_word_embeddings", tied)
    if which == names[0]:
        return LMHead(tied=tied, bias=bias, softcap=softcap)
    return None if which == names[1] else LabelHead(f.labels(), pool="last", dense=False, bias=False)


def read_heads(f: Fields, width: int, absent: int = 0, head_dim: int = 0, even: bool = True) -> tuple[int, int, int]:
    """(query heads, key/value heads, channels of a head). absent: key/value heads where the field is missing; 0: one for every head."""
    heads = f.integer("num_attention_heads", high=1 << 12)
    missing = "num_key_value_heads" not in f.config
    kv_heads = f.integer("num_key_value_heads", absent if absent and missing else heads, high=heads)
    return heads, kv_heads, split_heads(width, heads, kv_heads, f.integer("head_dim", head_dim) or None, even=even)


def read_layers(f: Fields, name: str = "num_hidden_layers", experts: int = 1) -> int:
    """How many layers. experts: of each; bounded with them, so that no config.json takes minutes to lay out."""
    return f.integer(name, high=min(1000, (1 << 15) // experts))


def read_window(f: Fields, absent: int = 0) -> int | None:
    """How many keys a query sees, itself included; None: all. absent: where the field is missing, which null is not."""
    return f.integer("sliding_window", absent if "sliding_window" not in f.config else 0) or None


def read_sliding(f: Fields, layers: int, window: int | None, rule: Callable[[int], bool]) -> tuple[bool, ...]:
    """Which layers look through the window: by layer_types, or, where there are none, by the family's rule over the layer's number."""
    types = f.array("layer_types") or ["sliding_attention" if rule(i) else "full_attention" for i in range(layers)]
    words = ("sliding_attention", "full_attention")
    if len(types) != layers or any(word not in words for word in types):
        raise ModelError(f"config.json: layer_types is {types!r}; it needs one of {', '.join(words)} for each of {layers} layers.")
    if window is None and "sliding_attention" in types:
        raise ModelError(
            "config.json: layer_types has sliding_attention, but there is no sliding_window. Give its size, or full_attention."
        )
    return tuple(word == "sliding_attention" for word in types)


def read_experts(f: Fields, expert: FFN, absent: int, top: int, normalise: bool) -> MoE:
    """The experts of a layer. absent, top: their number and how many a token goes through, where the fields are missing."""
    name = "num_local_experts" if f.config.get("num_local_experts") is not None else "num_experts"  # two names of one field
    experts = f.integer(name, absent, high=1 << 12)
    top = f.integer("num_experts_per_tok", top, high=experts)
    return MoE(experts, top, expert, normalise, balance=f.number("router_aux_loss_coef", 0.001))


def finish(f: Fields, stack: Stack, head: Head | None, width: int, context: int, dropout: str = "resid_pdrop", **more: Any) -> ModelConfig:
    """The whole. dropout: the field's name; many stock configs have none, and we write it there to train from scratch."""
    return ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=context,
        decoder=stack,
        head=head,
        dropout=f.number(dropout, 0.0, high=0.99),
        attention_dropout=f.number("attention_dropout", 0.0, high=0.99),
        init_std=f.number("initializer_range", 0.02),
        **more,
    )


def stock(sizes: Sizes, model_type: str, architecture: str, **more: Any) -> Json:
    """A stock config.json with LLaMA's names; `more` adds to it and replaces, and takes out what it gives as None."""
    check_sizes(sizes)
    kv_heads = sizes.kv_heads or sizes.heads
    dropout = {"resid_pdrop": sizes.dropout} if sizes.dropout else {}
    config = {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": kv_heads,
        "head_dim": split_heads(sizes.width, sizes.heads, kv_heads, even=True),
        "intermediate_size": sizes.hidden or gated_hidden(sizes.width),
        "hidden_act": "silu",
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_dropout": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": sizes.tied,
    } | more
    ids = {"bos_token_id": sizes.bos, "eos_token_id": sizes.eos, "pad_token_id": sizes.pad}
    return {name: value for name, value in config.items() if value is not None} | ids | dropout


def half_hidden(sizes: Sizes) -> int:
    """Of an expert: two of these, which is what a token goes through, do the work of a plain feed-forward part."""
    return gated_hidden(sizes.width) // 2


# of layers whose norms stand before attention and before the feed-forward part
NORMS = Rule("decoder.layers.{i}.{norm_attn,norm_ffn}.*", "model.layers.{i}.{input_layernorm,post_attention_layernorm}.*")
ATTENTION = Rule("decoder.layers.{i}.attn.{q,k,v,o}.*", "model.layers.{i}.self_attn.{q_proj,k_proj,v_proj,o_proj}.*")
FEED = Rule("decoder.layers.{i}.ffn.{gate,up,down}.*", "model.layers.{i}.mlp.{gate_proj,up_proj,down_proj}.*")
QK_NORMS = Rule("decoder.layers.{i}.attn.{norm_q,norm_k}.weight", "model.layers.{i}.self_attn.{q_norm,k_norm}.weight")
# of sandwiched layers
FOUR_NORMS = Rule(
    "decoder.layers.{i}.{norm_attn,norm_attn_out,norm_ffn,norm_ffn_out}.weight",
    "model.layers.{i}.{input_layernorm,post_attention_layernorm,pre_feedforward_layernorm,post_feedforward_layernorm}.weight",
)
ENDS = [
    Rule("embed.weight", "model.embed_tokens.weight"),
    Rule("decoder.norm.*", "model.norm.*"),
    Rule("head.*", "lm_head.*"),
    Rule("head.classifier.weight", "score.weight"),
]
# as the reference has experts in memory, and writes them when it is asked for that
FUSED_EXPERTS = [
    Rule("decoder.layers.{i}.ffn.router.weight", "model.layers.{i}.mlp.gate.weight"),
    Rule("decoder.layers.{i}.ffn.experts.{e}.{gate,up}.weight", "model.layers.{i}.mlp.experts.gate_up_proj", STACK_PAIRS),
    Rule("decoder.layers.{i}.ffn.experts.{e}.down.weight", "model.layers.{i}.mlp.experts.down_proj", STACK),
]
TIED = (("lm_head.weight", "model.embed_tokens.weight"),)
RECOMPUTED = {r".*rotary_emb\.inv_freq": "rotary frequencies follow from the config"}

TINY: Json = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LABELS: Json = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
