"""Train a tokenizer from a stream of texts: the same texts give the same tokenizer, to the last bit of its hash.

bpe       byte-level, with GPT-2's pre-tokenizer (Sennrich et al. 2016; Radford et al. 2019): any text, restored exactly
wordpiece BERT's normaliser and pre-tokenizer (Wu et al. 2016; Devlin et al. 2019)
unigram   SentencePiece's model (Kudo 2018) with its mark for spaces, and bytes for characters that have no piece
word      words and runs of punctuation; what is rare is unknown
char      single characters; restores any text whose characters it has seen

The `tokenizers` library trains bpe, word and char, and runs all five. Its WordPiece and Unigram trainers depend on the order of hash
tables that are seeded anew in each process; here WordPiece is learned by its BPE trainer over characters that tell the beginning of a word
from its inside (the same merges), and Unigram in `unigram.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError, RecipeError, nearest
from . import unigram
from .fast import GPT2_PATTERN
from .library import library_errors
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

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
    "rewrite": SpecialTokens({"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}),
}


def train(kind: Kind, texts: Iterable[str], vocab: int, *, lowercase: bool = False, special: str | SpecialTokens = "causal") -> Tokenizer:
    """A tokenizer of at most `vocab` tokens, special ones included; fewer where the text has no more to offer.

    texts: read once, in order, and never held together. special: a task of SPECIAL, or tokens of one's own. An unknown token is added for
    the kinds that need one. Raises RecipeError for sizes that cannot hold what the kind needs, DataError when there is no text.
    """
    if kind not in KINDS:
        raise RecipeError(f"a tokenizer of kind {kind!r} is not known. Allowed: {', '.join(KINDS)}.{nearest(str(kind), list(KINDS))}")
    tokens = _special(special)
    if kind != "bpe" and "unk" not in tokens.roles:
        tokens = SpecialTokens({**tokens.roles, "unk": tokens.unknown}, tokens.others)
    trained = _TRAINERS[kind](_checked(texts), vocab, tokens, lowercase)
    _add_around(trained, tokens)
    return Tokenizer.from_json(trained.to_str(), _settings(tokens))


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


def _room(vocab: int, tokens: SpecialTokens, least: int, what: str) -> int:
    """How many tokens beside the special ones."""
    room = vocab - len(tokens.spellings())
    if room < least:
        raise RecipeError(
            f"a vocabulary of {vocab} tokens is too small: {len(tokens.spellings())} special tokens and {what} need at least "
            f"{len(tokens.spellings()) + least}"
        )
    return room


def _added(tokens: SpecialTokens) -> list[tokenizers.AddedToken]:
    import tokenizers

    return [tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens.spellings()]


def _add_around(made: tokenizers.Tokenizer, tokens: SpecialTokens) -> None:
    """What transformers puts around a text, as BERT and T5 do; Quire's tasks put it there themselves."""
    from tokenizers import processors

    roles = tokens.roles
    if "cls" in roles and "sep" in roles:
        single, pair = f"{roles['cls']} $A {roles['sep']}", f"{roles['cls']} $A {roles['sep']} $B:1 {roles['sep']}:1"
        used = [roles["cls"], roles["sep"]]
    elif "eos" in roles and "bos" not in roles:
        single, pair = f"$A {roles['eos']}", f"$A {roles['eos']} $B {roles['eos']}"
        used = [roles["eos"]]
    else:
        return
    places = [(token, made.token_to_id(token)) for token in used]
    made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=places)


def _bpe(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    _room(vocab, tokens, 256, "the 256 bytes")
    made = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=_added(tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with library_errors("training a tokenizer"):
        made.train_from_iterator(texts, trainer)
    return made


_INSIDE = 0xF0000  # private characters that stand for a letter inside a word while WordPiece is learned
_MOST_LETTERS = 1000  # as BERT: rarer characters are unknown


def _wordpiece(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    room = _room(vocab, tokens, 64, "letters at the beginning and inside of words")
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts = _words(texts, lambda text: splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(_frequent(counts, min(_MOST_LETTERS, room // 4)))
    shift = {letter: chr(_INSIDE + number) for number, letter in enumerate(letters)}
    back = {inside: letter for letter, inside in shift.items()}
    known = {word: count for word, count in counts.items() if all(letter in shift for letter in word)}
    shifted = {word[0] + "".join(shift[letter] for letter in word[1:]): count for word, count in known.items()}
    vocabulary = {token: id for id, token in enumerate(tokens.spellings())}
    # Every letter at the beginning and inside of words, seen there or not: a word is unknown as a whole when one of its letters is.
    for spelt in (*letters, *(f"##{letter}" for letter in letters)):
        vocabulary.setdefault(spelt, len(vocabulary))
    seen = len({letter for word in shifted for letter in word})
    for token in _merged(shifted, room - 2 * len(letters) + seen):
        spelt = "".join(back.get(letter, letter) for letter in token)
        vocabulary.setdefault(f"##{spelt}" if token[0] in back else spelt, len(vocabulary))
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=tokens.roles["unk"], max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece(prefix="##", cleanup=True)
    made.add_special_tokens(_added(tokens))
    return made


def _merged(counts: dict[str, int], room: int) -> list[str]:
    """The vocabulary that BPE learns from counted words, in order: letters, then what each merge makes."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=room, min_frequency=2, show_progress=False)
    # The trainer wants text, not counts. Beyond this much, counts are brought down together.
    scale = max(1, sum(len(word) * count for word, count in counts.items()) // 2**28)
    with library_errors("training a tokenizer"):
        made.train_from_iterator(((word + " ") * max(1, count // scale) for word, count in sorted(counts.items())), trainer)
    return [token for token, _ in sorted(made.get_vocab().items(), key=lambda pair: pair[1])]


_MARK = "▁"
_BYTE_LETTERS = "<>x0123456789ABCDEF"  # so that the spelling of a byte token in a text never needs that token
_BYTE_SCORE = -1000.0


def _unigram(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    room = _room(vocab, tokens, 64, "single characters")
    splitter = pre_tokenizers.Sequence(
        [
            # Not at every space, as SentencePiece does by default: indentation and line ends of code are pieces too.
            pre_tokenizers.Split(Regex(GPT2_PATTERN), "isolated"),
            pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme="never", split=False),
        ]
    )
    lower = normalizers.Lowercase() if lowercase else None
    counts = _words(texts, lambda text: splitter.pre_tokenize_str(lower.normalize_str(text) if lower else text))
    fallback = room >= 256 + 512
    if fallback:
        room -= 256
    required = {*_frequent(counts, room // 2), _MARK}
    if fallback:
        required |= set(_BYTE_LETTERS)
    pieces = unigram.learn(counts, room, required)
    listed: list[list[Any]] = [[token, 0.0] for token in tokens.spellings()]
    if fallback:
        listed += [[f"<0x{byte:02X}>", _BYTE_SCORE] for byte in range(256)]
    taken = {piece for piece, _ in listed}
    listed += [[piece, score] for piece, score in pieces if piece not in taken]
    model = {"type": "Unigram", "unk_id": tokens.spellings().index(tokens.roles["unk"]), "vocab": listed, "byte_fallback": fallback}
    with library_errors("training a tokenizer"):
        made = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    if lower is not None:
        made.normalizer = lower
    made.pre_tokenizer = splitter
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=_MARK, prepend_scheme="never"), decoders.Fuse()]
    )
    made.add_special_tokens(_added(tokens))
    return made


def _words(texts: Iterator[str], split: Callable[[str], list[tuple[str, tuple[int, int]]]]) -> dict[str, int]:
    """How often each word occurs, in the order of the alphabet."""
    counts: Counter[str] = Counter()
    with library_errors("training a tokenizer"):
        for text in texts:
            counts.update(word for word, _ in split(text))
    return dict(sorted(counts.items()))


def _frequent(counts: dict[str, int], most: int) -> list[str]:
    """The most frequent characters of counted words."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            if ord(letter) < _INSIDE:
                found[letter] += count
    return [letter for letter, _ in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]


def _word(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool) -> tokenizers.Tokenizer:
    from tokenizers import pre_tokenizers

    return _levels(texts, vocab, tokens, lowercase, pre_tokenizers.Whitespace(), None)


def _char(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool) -> tokenizers.Tokenizer:
    from tokenizers import Regex, decoders, pre_tokenizers

    return _levels(texts, vocab, tokens, lowercase, pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse())


def _levels(texts: Iterator[str], vocab: int, tokens: SpecialTokens, lowercase: bool, splitter: Any, decoder: Any) -> tokenizers.Tokenizer:
    """A vocabulary of whole units, the most frequent ones."""
    import tokenizers
    from tokenizers import models, normalizers, trainers

    _room(vocab, tokens, 1, "one unit of text")
    made = tokenizers.Tokenizer(models.WordLevel(unk_token=tokens.roles["unk"]))
    if lowercase:
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = splitter
    if decoder is not None:
        made.decoder = decoder
    with library_errors("training a tokenizer"):
        made.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=vocab, special_tokens=_added(tokens), show_progress=False))
    return made


_TRAINERS: dict[str, Callable[[Iterator[str], int, SpecialTokens, bool], Any]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
    "word": _word,
    "char": _char,
}
