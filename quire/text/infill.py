"""Filling in between two texts, for models that were taught to: the marks of their families, and the ids of such a prompt.

Source: "Efficient Training of Language Models to Fill in the Middle" (Bavarian et al. 2022), in its order prefix, suffix, middle; the marks
as the vocabularies of StarCoder, SantaCoder, Qwen2.5-Coder and CodeGemma, and DeepSeek-Coder spell them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ModelError
from .tokenizer import Tokenizer

MARKS = (  # before the prefix, before the suffix, before what is between
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
_ENDS = ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "<file_sep>")


def infill(tokenizer: Tokenizer, prefix: str | Sequence[int], suffix: str) -> tuple[list[int], list[int]]:
    """(ids after which the model writes what stands between, ids that end it beside the model's own stop rule).

    Raises ModelError for a tokenizer without such marks.
    """
    for names in MARKS:
        marks = [id for name in names if (id := tokenizer.token_id(name)) is not None]
        if len(marks) == len(names):
            break
    else:
        raise ModelError(
            "a suffix is given, and this model's tokenizer has no marks for filling in between two texts (such as <|fim_prefix|>). "
            "Leave the suffix out."
        )
    before = tokenizer.encode(prefix) if isinstance(prefix, str) else list(prefix)
    ends = [id for name in _ENDS if (id := tokenizer.token_id(name)) is not None]
    return [marks[0], *before, marks[1], *tokenizer.encode(suffix), marks[2]], marks + ends
