"""What the families of encoders share: BERT's fields of config.json, the classes of the reference with the head each has, and their names.

A class demands a head; what a base model's file holds beside its stack (a pooler, a masked-token head) is opened too, so that nothing that
is there is dropped. Label heads differ only in what stands before the last product and in names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ModelError
from ..nn.config import FFN, Act, Attn, Head, LabelHead, Layer, MLMHead, ModelConfig, Norm, Pooler, Sizes, Stack
from .family import ACTS, Fields, Json, Rule, check_sizes, no_groups, split_heads

CLASSES: dict[str, str] = {
    "Model": "base",
    "ForMaskedLM": "words",
    "ForSequenceClassification": "row",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}
TOKEN = LabelHead(0, "token", dense=False)  # of most families; how many labels is set when config.json is read


def older_files(prefix: str, decoder: str, bias: str) -> dict[str, Any]:
    """What files hold beside the table's names: norms' old names, the output table and its bias a second time, what nothing reads.

    prefix: 'bert', without a dot; decoder: the output product; bias: the head's. To be given to `Family`.
    """
    return {
        "same": ((f"{decoder}.weight", f"{prefix}.embeddings.word_embeddings.weight"), (f"{decoder}.bias", bias)),
        "renames": ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")),
        "recomputed": {
            rf"{prefix}\.embeddings\.position_ids": "positions count from 0",
            rf"{prefix}\.pooler\.(dense\.)?(weight|bias)": "the summary of a row, which no head of this model reads",
        },
    }


def bert_layer(f: Fields, act: str = "gelu", eps: float = 1e-12) -> Layer:
    """A layer of BERT's kind, from BERT's names of fields."""
    width, heads = f.integer("hidden_size"), f.integer("num_attention_heads", high=1 << 12)
    attn = Attn(heads, heads, split_heads(width, heads, heads), bias=True, out_bias=True, causal=False)
    kind: Act = f.choice("hidden_act", act, ACTS)
    return Layer(attn, FFN(f.integer("intermediate_size"), kind, bias=True), Norm("layer", f.number("layer_norm_eps", eps)), wiring="post")


def bert_model(f: Fields, stack: Stack, head: Head | None, context: int, dropout: float = 0.1, embed_width: int = 0) -> ModelConfig:
    """What is around the stack, from BERT's names of fields."""
    return ModelConfig(
        f.integer("hidden_size"),
        vocab=f.integer("vocab_size"),
        context=context,
        encoder=stack,
        head=head,
        embed_width=embed_width,
        dropout=f.number("hidden_dropout_prob", dropout, high=0.99),
        attention_dropout=f.number("attention_probs_dropout_prob", dropout, high=0.99),
        init_std=f.number("initializer_range", 0.02),
        init="bert",
    )


def head_of(
    f: Fields,
    stem: str,
    words: MLMHead,
    row: LabelHead,
    token: LabelHead = TOKEN,
    pooler: Pooler | None = None,
    more: Mapping[str, Head] | None = None,
    first: str = "Model",
) -> Head | None:
    """The head that the class in `architectures` has. stem: what the family's class names begin with; more: classes beyond the five;
    first: the class of a config that names none."""
    classes = dict.fromkeys(CLASSES) | dict.fromkeys(more or {})
    architecture = f.architecture([stem + first, *(stem + ending for ending in classes if ending != first)])
    ending = architecture.removeprefix(stem)
    tied = f.flag("tie_word_embeddings", True)
    head: Head | None = (more or {}).get(ending)
    over = CLASSES.get(ending)
    if over == "base":
        return pooler
    if over == "words":
        head = words
    if isinstance(head, MLMHead) and not tied:
        raise ModelError("config.json: tie_word_embeddings is False. The output table is read as the embedding's; one of its own is not.")
    if head is not None:
        return head
    labels = f.labels()
    if over == "span" and labels != 2:
        raise ModelError(f"config.json has {labels} labels; {architecture} needs 2, where an answer begins and where it ends.")
    return replace(row if over == "row" else replace(token, over="span" if over == "span" else "token"), labels=labels)


def masked(layer: Layer, act: Act | None = None, next_sentence: bool = False) -> MLMHead:
    """A masked-token head with the layers' activation and norm, or an activation of its own."""
    assert isinstance(layer.ffn, FFN)
    return MLMHead(act or layer.ffn.act, layer.norm.eps, next_sentence)


def held(model: ModelConfig, names: Collection[str], words: MLMHead, bias: str, pooler: str = "") -> ModelConfig:
    """A base model with the head that its file holds; other models as they are. bias, pooler: tensors that tell."""
    if not isinstance(model.head, Pooler | None):
        return model
    if bias in names:
        return replace(model, head=words)
    return model if pooler in names else replace(model, head=None)


def bert_rules(prefix: str, qkv: str = "self.{query,key,value}", out: str = "output.dense", norm: str = "output.LayerNorm") -> list[Rule]:
    """The stack's names in files of BERT's kind; prefix: 'bert', without a dot; the others: of attention's parts."""
    layer = prefix + ".encoder.layer.{i}."
    return [
        Rule("embed.weight", f"{prefix}.embeddings.word_embeddings.weight"),
        Rule("encoder.{positions,types}.weight", prefix + ".embeddings.{position_embeddings,token_type_embeddings}.weight"),
        Rule("encoder.embed_norm.*", f"{prefix}.embeddings.LayerNorm.*"),
        Rule("encoder.layers.{i}.attn.{q,k,v}.*", f"{layer}attention.{qkv}.*"),
        Rule("encoder.layers.{i}.attn.o.*", f"{layer}attention.{out}.*"),
        Rule("encoder.layers.{i}.norm_attn.*", f"{layer}attention.{norm}.*"),
        Rule("encoder.layers.{i}.ffn.{up,down}.*", layer + "{intermediate.dense,output.dense}.*"),
        Rule("encoder.layers.{i}.norm_ffn.*", f"{layer}output.LayerNorm.*"),
    ]


def head_rules(head: Head | None, words: tuple[str, str, str], dense: str = "", row: str = "classifier", pooler: str = "") -> list[Rule]:
    """The head's names. words: dense, norm and bias of the masked-token head; dense, row: what stands before a row's labels, and what makes
    them; pooler: the base model's."""
    if isinstance(head, Pooler):
        return [Rule("head.dense.*", f"{pooler}.*")]
    if isinstance(head, LabelHead):
        last = {"row": row, "token": "classifier", "span": "qa_outputs", "next": "cls.seq_relationship"}[head.over]
        return [Rule("head.dense.*", f"{dense}.*"), Rule("head.classifier.*", f"{last}.*")]
    return [Rule("head.dense.*", f"{words[0]}.*"), Rule("head.norm.*", f"{words[1]}.*"), Rule("head.bias", words[2])]


def stock(sizes: Sizes, family: str, architecture: str, **more: Any) -> Json:
    """A config.json in BERT's names of fields for a model trained from scratch."""
    no_groups(check_sizes(sizes), family)
    return {
        "model_type": family,
        "architectures": [architecture],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden or 4 * sizes.width,
        "hidden_act": "gelu",
        "max_position_embeddings": sizes.context,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "pad_token_id": sizes.pad,
    } | more
