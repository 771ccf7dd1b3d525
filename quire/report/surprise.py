"""A held-out file as the model reads it: every token coloured by the bits it cost, with a slider over training time.

Bits of a token = -log2 of the probability that the model gave it after what stands before it (Shannon 1948): 0 for a certainty, 1 for a
coin toss, 10 for one in a thousand. The colours are nine fixed classes, so that a shade means the same on every page and at every step.
"""

from __future__ import annotations

from .folder import Run, Surprise
from .page import Absent, Part, escape, evenly, visible

CLASSES = (0.25, 0.5, 1.0, 2.0, 3.0, 4.5, 6.5, 9.0)  # bits; upper ends of the first eight of nine shades
_TOKENS, _FIGURES = 1500, 45_000  # tokens shown; tokens times steps embedded


def shade(bits: float | None) -> int | None:
    return None if bits is None else sum(bits >= limit for limit in CLASSES)


def part(run: Run) -> Part | Absent:
    title = "What surprises the model"
    found = run.surprise
    if not found.tokens or not found.steps:
        return Absent(
            title, "surprise.jsonl holds no scored file: no evaluation has run, or the run’s task does not score tokens one by one."
        )
    tokens = found.tokens[:_TOKENS]
    kept = evenly(len(found.steps), max(2, min(60, _FIGURES // len(tokens))))
    last = found.bits[-1]
    spans = "".join(_token(token, bits, index) for index, (token, bits) in enumerate(zip(tokens, last, strict=False)))
    cut = f" The first {len(tokens):,} of {len(found.tokens):,} tokens are shown." if len(tokens) < len(found.tokens) else ""
    html = (
        '<p class="say">A file the model has never been trained on. The stronger a token’s colour, the more bits it cost: '
        "1 bit is a coin toss, 10 bits a chance of one in a thousand. Move the slider to watch it learn; "
        f"point at a token, or use the arrow keys, to read its figure.{cut}</p>"
        f'<figure class="surprise"><figcaption><code>{escape(found.file or "a held-out file")}</code>{_legend()}</figcaption>'
        f'<div class="slider" data-slider="surprise"></div><p class="now"><output>{_sum(found, -1, len(tokens))}</output></p>'
        '<pre class="tokens" tabindex="0" role="group" aria-label="Tokens of the held-out file; arrow keys move from one to the next">'
        f"{spans}</pre></figure>"
    )
    data = {
        "steps": [found.steps[i] for i in kept],
        "bits": [[None if b is None else round(b, 2) for b in found.bits[i][: len(tokens)]] for i in kept],
        "classes": CLASSES,
    }
    return Part("surprise", title, html, data)


def _token(token: str, bits: float | None, index: int) -> str:
    level = shade(bits)
    return f'<span class="t{"" if level is None else f" s{level}"}" data-i="{index}">{visible(token)}</span>'


def _legend() -> str:
    ends = ("0", *(f"{limit:g}" for limit in CLASSES))
    cells = "".join(f'<span class="s{level}"><small>{end}</small></span>' for level, end in enumerate(ends))
    name = "Nine shades, from none for 0 bits to the strongest for 9 bits and more"
    return f'<span class="legend" role="img" aria-label="{name}">{cells}<em>bits</em></span>'


def _sum(found: Surprise, index: int, count: int) -> str:
    scored = [bits for bits in found.bits[index][:count] if bits is not None]
    mean = sum(scored) / len(scored) if scored else 0.0
    return f"Step {found.steps[index]:,}: {mean:.2f} bits a token on average"
