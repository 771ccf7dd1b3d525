"""Small SentencePiece models, trained by the reference itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Source code points, target code points.
RULES = "FB01\t66 69\n65 301\tE9\nFF21\t41\n200B\t\n3000\t20\n9\t20\nA\t20\nBD\t31 2044 32\nA8\t20 308\n"


def spm(texts: Sequence[str], folder: Path, **options: Any) -> bytes:
    """The .model of a tiny vocabulary; options as SentencePieceTrainer takes them, `rules=True` for a normaliser of nine rules."""
    import sentencepiece

    if options.pop("rules", False):
        (folder / "rules.tsv").write_text(RULES)
        options["normalization_rule_tsv"] = str(folder / "rules.tsv")
    else:
        options.setdefault("normalization_rule_name", "identity")
    out = io.BytesIO()
    usual = {"vocab_size": 400, "hard_vocab_limit": False, "character_coverage": 1.0, "minloglevel": 2, "num_threads": 1}
    sentences = (line for text in texts for line in text.splitlines() if line.strip())
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=out, **usual | options)
    return out.getvalue()


def processor(model: bytes) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)
