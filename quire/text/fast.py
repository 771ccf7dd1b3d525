"""Byte-level BPE through tiktoken (extra `fast`), several times faster, and only where its ids are the library's.

Equal ids rest on four facts, each checked here before the fast path is taken:
  1. The pre-tokenizer is one whose pattern we have an equal of for tiktoken's regular expressions (`_PATTERNS`; the tests compare
     the two engines over every assigned code point).
  2. Nothing happens before it: no normaliser, no added token that plain text could match.
  3. tiktoken merges any two neighbours whose joined bytes are a token; the library only pairs that are listed. The two agree when
     every token, taken alone, is built by the listed merges and by one pair only: before the step that makes it, what stands
     between its ends is then the same inside any text as it is alone (a merge across its end would have removed that end).
     Vocabularies made from tiktoken's ranks (`ignore_merges`: a piece that is a token is that token, as in tiktoken) list every way of
     cutting a token into two instead, in the order of ids. They agree when that list is complete: two neighbours that together are
     the token c are always the same two, namely what c's own bytes are merged to without c, since no merge crossed their ends and
     those inside came in the same order as alone. So both see the same neighbours, and both take the lowest id, the leftmost first.
  4. A sample in many scripts gives the same ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .. import machine
from .decoding import byte_level

if TYPE_CHECKING:
    import tiktoken

    from .tokenizer import Tokenizer

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPACES = r"|\s+(?!\S)|\s+"
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
_CASES = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASES[0]}*{_CASES[1]}+{_CASES[2]}|[^\r\n\p{{L}}\p{{N}}]?{_CASES[0]}+{_CASES[1]}*{_CASES[2]}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The library's pattern -> one that tiktoken's engine runs faster, with the same result. That engine gives what needs no look-ahead to an
# automaton, and one group costs one call where alternatives beside each other cost one each. A last `\s` does what `\s+` did: only one
# character of white space can be left there, since `\s+(?!\S)` takes all but the last of a run, or all of it at the end.
_PATTERNS = {
    GPT2_PATTERN: r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s",
    **{pattern: rf"(?:{pattern.removesuffix(_SPACES)})|\s+(?!\S)|\s" for pattern in (CL100K, QWEN2)},
}

_LONG = 1 << 17  # characters: a longer text is divided, so that several threads share it
_LONG_RUN = 100_000  # characters of white space that make tiktoken's engine run out of stack, by a wide margin
# All three patterns end a piece at a newline between two characters that are no white space, whatever stands around it.
_DIVISION = re.compile(r"(?<=\S)\n(?=\S)")

SAMPLE = (
    "def parse(self, text: str = '') -> None:\n    \"\"\"It's done; we'll see, they've said I'M O'Neil's.\"\"\"\n\n\n",
    "\treturn x[0]  # 12345 67,890.12\r\n\r\n#end",
    "Größe naïve façade Ελληνικά Привет мир עברית العربية हिन्दी বাংলা ไทย 中文字符 日本語テキスト 한국어 ５６ Ⅷ ½ ²",
    "👋🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ e\u0301 n\u0303 \u200b\u200d\ufeff \u00a0\u2003\u3000x \x00\x01\x7f\x85 \u2028\u2029 \U0010ffff\ufffd",
    "   leading\n \n  \n   spaces   \n\n\t\t tabs \t\n trailing   ",
    "'s 't 're 've 'm 'll 'd 'S 'LL 'D ''s '\u017f <|endoftext|> <s> </s> [MASK] ____ ==== ---- !!!??? 1000000 000 a1b2c3",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa                                      =======================\n\n\n\n\n\n\n\n",
)


class Fast:
    """Encodes like the tokenizer it was made from."""

    def __init__(self, encoding: tiktoken.Encoding, translate: list[int] | None, instead: Callable[[str], list[int]]) -> None:
        """translate: rank -> id, or None where they are the same; instead: what encodes a text that the engine gives up on."""
        self._encoding = encoding
        self._translate = translate
        self._instead = instead

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        parts: list[str] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for part in _divide(text):
                parts.append(part)
                owners.append(number)
        rows: list[list[int]] = [[] for _ in texts]
        for owner, ids in zip(owners, self._encode_parts(parts)):
            rows[owner] = rows[owner] + ids if rows[owner] else ids
        return rows

    def _encode_parts(self, parts: list[str]) -> Iterator[list[int]]:
        threads = min(machine.threads(), len(parts))
        if threads < 2 or sum(map(len, parts)) < _LONG:
            return map(self._one, parts)
        # Groups of about equal length: a task for every short text would cost more than encoding it.
        goal = max(1 << 14, sum(map(len, parts)) // (threads * 8))
        groups, size = [[parts[0]]], len(parts[0])
        for part in parts[1:]:
            if size >= goal:
                groups.append([])
                size = 0
            groups[-1].append(part)
            size += len(part)
        with ThreadPoolExecutor(threads) as pool:
            return (ids for group in list(pool.map(lambda group: [self._one(part) for part in group], groups)) for ids in group)

    def _one(self, text: str) -> list[int]:
        if len(text) >= _LONG_RUN and any(space * _LONG_RUN in text for space in " \n\t"):
            return self._instead(text)
        try:
            ids: list[int] = self._encoding.encode_ordinary(text)
        except BaseException as error:
            # The engine gives up on very long runs (its stack is bounded), by an error or a panic; the library does not. The usual
            # ones were sent there above, since a panic also writes to standard error.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            return self._instead(text)
        return ids if self._translate is None else [self._translate[rank] for rank in ids]


def _divide(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _LONG:
        found = _DIVISION.search(text, start + _LONG - 1)
        if found is None:
            break
        yield text[start : found.end()]
        start = found.end()
    yield text[start:] if start else text


def prepare(tokenizer: Tokenizer) -> tuple[Fast | None, str]:
    """(the fast path, "") or (None, why it is not taken)."""
    try:
        import tiktoken
    except ImportError:
        return None, "the package 'tiktoken' is not installed (pip install 'quire[fast]')"
    why = _unfit(tokenizer)
    if why:
        return None, why
    pattern = _PATTERNS[_pattern(tokenizer.definition.raw.get("pre_tokenizer")) or ""]
    order, why = (_rank_order if tokenizer.definition.model.get("ignore_merges") else _merge_order)(tokenizer)
    if order is None:
        return None, why
    ids = list(order.values())
    rising = all(a < b for a, b in pairwise(ids[256:]))
    # Ranks must rise with the merges. Ids nearly always do, and then need no translation.
    ranks = order if rising else {token: rank for rank, token in enumerate(order)}
    try:
        encoding = tiktoken.Encoding("quire", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except Exception as error:
        return None, f"tiktoken does not accept this vocabulary: {error}"
    fast = Fast(encoding, None if rising else ids, lambda text: tokenizer.library_batch([text])[0])
    for sample in SAMPLE:
        if fast.encode(sample) != tokenizer.library_batch([sample])[0]:
            return None, f"tiktoken gave other ids for the sample {sample[:30]!r}..."
    return fast, ""


def _unfit(tokenizer: Tokenizer) -> str:
    raw, model = tokenizer.definition.raw, tokenizer.definition.model
    if tokenizer.definition.kind != "BPE" or (raw.get("decoder") or {}).get("type") != "ByteLevel":
        return "it is not a byte-level BPE"
    if raw.get("normalizer") is not None:
        return "it changes text before it is split (a normaliser)"
    if any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")):
        return "its merges follow rules that tiktoken does not have"
    plain = [token.content for token in tokenizer.definition.added if token.content not in tokenizer.definition.special]
    if plain:
        return f"it has added tokens that are not special, such as {plain[0]!r}"
    if _pattern(raw.get("pre_tokenizer")) not in _PATTERNS:
        return "its pattern for splitting text is not one whose equality is proven"
    return ""


def _pattern(pre_tokenizer: Any) -> str | None:
    """The regular expression that a byte-level pre-tokenizer splits by, when it does nothing else."""
    if not isinstance(pre_tokenizer, dict):
        return None
    steps = pre_tokenizer.get("pretokenizers") if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        return None
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    if len(steps) == 1:
        return GPT2_PATTERN if last.get("use_regex", True) else None
    first = steps[0]
    if len(steps) != 2 or last.get("use_regex", True) or first.get("type") != "Split":
        return None
    if first.get("behavior") != "Isolated" or first.get("invert") or not isinstance(first.get("pattern"), dict):
        return None
    pattern = first["pattern"].get("Regex")
    return pattern if isinstance(pattern, str) else None


def _merge_order(tokenizer: Tokenizer) -> tuple[dict[bytes, int] | None, str]:
    """{bytes: id}: the 256 bytes, then what each merge makes, in order; None with the reason where fact 3 does not hold."""
    ids = tokenizer.byte_ids
    order = {bytes([byte]): ids[bytes([byte])] for byte in range(256) if bytes([byte]) in ids}
    if len(order) != 256:
        return None, f"it has tokens for {len(order)} of the 256 bytes"
    for left, right in tokenizer.definition.merges():
        token = byte_level(left + right)
        if token is None or token not in ids:
            return None, f"the merge of {left!r} and {right!r} makes no token"
        if token in order:
            return None, f"two merges make the token {left + right!r}"
        order[token] = ids[token]
    for token, id in order.items():
        if tokenizer.alone(id) != [id]:
            return None, f"the token {token!r} is not what its own bytes are merged to"
    return order, ""


def _rank_order(tokenizer: Tokenizer) -> tuple[dict[bytes, int] | None, str]:
    """{bytes: id} in the order of ids; None with the reason where the second half of fact 3 does not hold."""
    ids = tokenizer.byte_ids
    missing = 256 - sum(bytes([byte]) in ids for byte in range(256))
    if missing:
        return None, f"it has tokens for {256 - missing} of the 256 bytes"
    listed = set()
    last = -1
    for left, right in tokenizer.definition.merges():
        parts = byte_level(left), byte_level(right)
        if parts[0] is None or parts[1] is None or parts[0] + parts[1] not in ids:
            return None, f"the merge of {left!r} and {right!r} makes no token"
        made = ids[parts[0] + parts[1]]
        if made < last:
            return None, f"the merge of {left!r} and {right!r} stands behind one that makes a later token"
        last = made
        listed.add(parts)
    order = dict(sorted(ids.items(), key=lambda pair: pair[1]))
    for token in order:
        for cut in range(1, len(token)):
            if token[:cut] in ids and token[cut:] in ids and (token[:cut], token[cut:]) not in listed:
                return None, f"the merge of {token[:cut]!r} and {token[cut:]!r} is not listed"
    return order, ""
