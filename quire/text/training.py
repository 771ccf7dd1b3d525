"""Train a tokenizer from a stream of texts: the same texts give the same tokenizer, to the last bit of its hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DataError, RecipeError, nearest
from .tokenizer import Tokenizer, library

Kind = Literal["bpe", "wordpiece", "unigram", "word", "char"]
KINDS: tuple[Kind, ...] = ("bpe", "wordpiece", "unigram", "word", "char")


@dataclass(frozen=True)
class SpecialTokens:
    """roles: {role: spelling}, several roles may share one; others: special tokens without a role. Ids follow this order, from 0."""

    roles: dict[str, str]
    others: tuple[str, ...] = ()
    unknown: str = "<|unk|>"  # added when the kind of tokenizer needs one and `roles` has none

    def spellings(self) -> list[str]:
        return list(dict.fromkeys([*self.roles.values(), *self.others]))


SPECIAL: dict[str, SpecialTokens] = {
    "causal": SpecialTokens({"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}, ("<|im_start|>", "<|im_end|>")),
    "masked": SpecialTokens({"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}),
    "denoise": SpecialTokens({"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, tuple(f"<extra_id_{i}>" for i in range(100))),
}


def train(kind: Kind, texts: Iterable[str], vocab: int, *, lowercase: bool = False, special: str | SpecialTokens = "causal") -> Tokenizer:
    """A tokenizer of at most `vocab` tokens, special ones included."""
    if kind not in KINDS:
        raise RecipeError(f"a tokenizer of kind {kind!r} is not known. Allowed: {', '.join(KINDS)}.{nearest(str(kind), list(KINDS))}")
    tokens = _special(special)
    return _bpe(_checked(texts), vocab, tokens, lowercase)


def _special(special: str | SpecialTokens) -> SpecialTokens:
    if isinstance(special, SpecialTokens):
        return special
    if special not in SPECIAL:
        raise RecipeError(
            f"there are no special tokens for a task {special!r}. Allowed: {', '.join(SPECIAL)}.{nearest(special, list(SPECIAL))}"
        )
    return SPECIAL[special]


def _checked(texts: Iterable[str]) -> Iterator[str]:
    seen = False
    for text in texts:
        seen = seen or bool(text)
        yield text
    if not seen:
        raise DataError("there is no text to train a tokenizer on: every source was empty")


def _settings(tokens: SpecialTokens) -> dict[str, Any]:
    roles = {f"{role}_token": spelling for role, spelling in tokens.roles.items()}
    return roles | {"additional_special_tokens": [token for token in tokens.others if token not in tokens.roles.values()]}


def _bpe(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool) -> Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer (Sennrich et al. 2016; Radford et al. 2019)."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    least = 256 + len(tokens.spellings())
    if vocab < least:
        raise RecipeError(f"a byte-level vocabulary needs at least {least} tokens (256 bytes and {least - 256} special ones), not {vocab}")
    made = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens.spellings()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with library("training a tokenizer"):
        made.train_from_iterator(texts, trainer)
    return Tokenizer.from_json(made.to_str(), _settings(tokens))
