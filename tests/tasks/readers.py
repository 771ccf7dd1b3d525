"""Tiny models of transformers with heads over texts, tokens and spans, saved as folders that both libraries open."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "Angela Merkel met Barack Obama in Berlin on Tuesday, and nobody from Microsoft came.",
    "The quick brown fox jumps over the lazy dog.",
    "Größe und Maß; señor Núñez lives in São Paulo, near the unbelievably long Avenida Paulista.",
    "x",
    "Emoji 👋🏽 and 日本語 text, tabs\tand\nnew lines.  Double  spaces.",
]
CONTEXT = "The Amazon rainforest covers much of the Amazon basin of South America. This basin is unbelievably large. " * 3
_WORDS = [*TEXTS, CONTEXT, "unbelievably believable", "Where is the basin?", "hypothesis premise question answer"] * 4


@cache
def words(kind: str) -> tokenizers.Tokenizer:
    """A WordPiece tokenizer as BERT's, or a byte-level BPE as RoBERTa's; small enough that words are cut into pieces."""
    if kind == "bert":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made.train_from_iterator(_WORDS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False))
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    else:
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(
            _WORDS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        )
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
    return made


_ROLES = {
    "bert": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
    "roberta": {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    },
}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def write_tokenizer(folder: Path, kind: str, length: int) -> None:
    words(kind).save(str(folder / "tokenizer.json"))
    names = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, "model_input_names": names}
    settings = {**_ROLES[kind], **own}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write(folder: Path, head: str, kind: str = "bert", length: int = 64, labels: list[str] | None = None, **config) -> Path:
    """A model whose class is named by its `head` (SequenceClassification ...), with weights far apart so that answers differ."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}} if labels else {}
    torch.manual_seed(7)  # transformers draws the first values
    if kind == "bert":
        made = transformers.BertConfig(vocab_size=160, max_position_embeddings=length, pad_token_id=0, **_SIZES, **names, **config)
        model = getattr(transformers, f"BertFor{head}")(made)
    elif kind == "roberta":
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        made = transformers.RobertaConfig(
            vocab_size=320, max_position_embeddings=length + 2, type_vocab_size=1, **ids, **_SIZES, **names, **config
        )
        model = getattr(transformers, f"RobertaFor{head}")(made)
    elif kind == "bart":
        sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in _SIDE.items()}
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
        made = transformers.BartConfig(vocab_size=320, d_model=32, max_position_embeddings=length, **ids, **sizes, **names, **config)
        model = getattr(transformers, f"BartFor{head}")(made)
    else:
        more = {"num_key_value_heads": 2, "max_position_embeddings": length, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        made = transformers.LlamaConfig(vocab_size=320, **_SIZES, **more, **names, **config)
        model = getattr(transformers, f"LlamaFor{head}")(made)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, "bert" if kind == "bert" else "roberta", length)
    return folder


_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
