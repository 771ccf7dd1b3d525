"""Attention on a click: what each head of each layer looked at in one short text.

`attention.json` in the run folder, made by `pack`:

    {"version": 1, "tokens": ["def", " parse", ...],        T <= 64 strings
     "layer_numbers": [0, 3], "heads": 4,                    which layers were kept, counted from 0
     "layers": [[base64, ...one a head], ...one a layer]}    T*T bytes each, row = the token that looks, column = the token looked at

A byte q stands for the weight (q / 255)**2: a weight's square root is stored because most weights are small and would round to nothing.
Rows sum to 1 within a few per cent after that. Weights are of one forward without a cache; for a decoder everything above the diagonal is
0.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .folder import Run
from .page import Absent, Part, clean, escape, evenly, visible

MOST_TOKENS = 64
_BUDGET = 300_000  # bytes of weights; a deep and wide model keeps some of its layers, evenly spaced
_INK = (58, 124, 196)  # of the maps; its opacity is the weight, so it works on light and dark paper alike

Maps = NDArray[np.uint8]  # (layers, heads, T, T)


def pack(weights: Sequence[NDArray[Any]], tokens: Sequence[str]) -> dict[str, Any]:
    """The content of `attention.json` from weights, one (H, T, T) array a layer, rows summing to 1, and T token texts.

    Keeps the first 64 tokens, and of a large model as many layers, evenly spaced, as fit into 300 kB. Rows that are cut stay as they
    were (for a decoder a row looks only back, so nothing is lost). Raises ValueError for shapes that do not fit each
    other or weights outside [0, 1].
    """
    if not weights or not tokens:
        raise ValueError(
            f"{len(weights)} layers over {len(tokens)} tokens hold no attention; give one (H, T, T) array a layer and T tokens"
        )
    heads, full = weights[0].shape[0], len(tokens)
    for index, layer in enumerate(weights):
        if layer.shape != (heads, full, full):
            raise ValueError(
                f"layer {index} has weights of shape {layer.shape} where ({heads}, {full}, {full}) belong: heads, tokens, tokens"
            )
        if not (np.isfinite(layer).all() and layer.min() >= 0 and layer.max() <= 1.001):
            raise ValueError(f"layer {index} has weights outside 0 to 1; give them after the softmax")
    length = min(full, MOST_TOKENS, int((_BUDGET / heads) ** 0.5))
    fit = max(1, _BUDGET // (heads * length * length))
    kept = evenly(len(weights), fit)
    return {
        "version": 1,
        "tokens": [str(token) for token in tokens[:length]],
        "layer_numbers": kept,
        "heads": heads,
        "layers": [[_encode(head[:length, :length]) for head in weights[i]] for i in kept],
    }


def _encode(head: NDArray[Any]) -> str:
    return base64.b64encode(np.rint(255 * np.sqrt(np.clip(head, 0, 1))).astype(np.uint8).tobytes()).decode("ascii")


def unpack(packed: dict[str, Any]) -> tuple[Maps, list[str], list[int]]:
    """(square roots of the weights as bytes (L, H, T, T), tokens, layer numbers). Raises ValueError saying what does not fit."""
    tokens, numbers, layers = packed.get("tokens"), packed.get("layer_numbers"), packed.get("layers")
    if packed.get("version") != 1 or not isinstance(tokens, list) or not isinstance(layers, list) or not layers or not tokens:
        raise ValueError("it is not of version 1, or holds no tokens or layers")
    length = len(tokens)
    if length > MOST_TOKENS or not isinstance(numbers, list) or [type(n) for n in numbers] != [int] * len(layers):
        raise ValueError(f"{length} tokens (at most {MOST_TOKENS}) or the numbers of the layers do not fit its {len(layers)} layers")
    try:
        raw = [[base64.b64decode(head, validate=True) for head in layer] for layer in layers]
    except (TypeError, ValueError, binascii.Error):
        raise ValueError("a head's weights are not base64") from None
    if any(len(head) != length * length for layer in raw for head in layer) or len({len(layer) for layer in raw}) != 1 or not raw[0]:
        raise ValueError(f"a head does not hold {length} x {length} weights, or layers differ in heads")
    maps = np.frombuffer(b"".join(head for layer in raw for head in layer), dtype=np.uint8)
    return maps.reshape(len(raw), -1, length, length), [str(token) for token in tokens], list(numbers)


def png(shades: Maps, ink: tuple[int, int, int] = _INK) -> bytes:
    """A (height, width) map of opacities as a PNG of one ink: 256 palette entries that differ in their alpha alone (PNG 1.2, 4.2.1)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = shades.shape
    rows = b"".join(b"\0" + row.tobytes() for row in shades)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        chunk(b"IHDR", head),
        chunk(b"PLTE", bytes(ink) * 256),
        chunk(b"tRNS", bytes(range(256))),
        chunk(b"IDAT", zlib.compress(rows, 9)),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def part(run: Run) -> Part | Absent:
    title = "Where the model looks"
    if not run.attention:
        return Absent(title, "attention.json was not written.")
    try:
        maps, tokens, numbers = unpack(run.attention)
    except ValueError as error:
        return Absent(title, f"attention.json cannot be shown: {error}.")
    mean = ((maps / 255.0) ** 2).mean(axis=(0, 1))  # (T, T)
    last = max((i for i, token in enumerate(tokens) if any(map(str.isalnum, token))), default=len(tokens) - 1)
    spans = "".join(_token(token, index, float(mean[last, index]), index == last) for index, token in enumerate(tokens))
    html = (
        '<p class="say">Click a token, or walk to it with the arrow keys and press Enter: the others are inked by how much of its '
        "attention they get. Each small map is one head: row by row the token that looks, column by column what it looks at. "
        "Click a map to follow that head alone.</p>"
        f'<figure class="attention"><div class="{"beside" if maps.shape[1] <= 4 else ""}"><div>'
        f'<p class="now"><output>From <code>{escape(tokens[last])}</code>, the mean of all heads.</output></p>'
        f'<pre class="tokens" tabindex="0" role="group" aria-label="Tokens; Enter chooses the one that looks">{spans}</pre></div>'
        f"{_maps(maps, numbers)}</div>"
        '<figcaption class="note">The ink’s strength is the square root of the weight, so that small weights can be seen. '
        f"Layers {', '.join(str(number + 1) for number in numbers)}, counted from the input.</figcaption></figure>"
    )
    flat = base64.b64encode(maps.tobytes()).decode("ascii")
    return Part(
        "attention",
        title,
        html,
        {"t": [clean(token) for token in tokens], "from": last, "n": [n + 1 for n in numbers], "h": maps.shape[1], "w": flat},
    )


def _token(token: str, index: int, weight: float, chosen: bool) -> str:
    style = f"--w:{weight**0.5:.3f}"
    return f'<span class="t a{" q" if chosen else ""}" data-i="{index}" style="{style}">{visible(token)}</span>'


def _maps(maps: Maps, numbers: Sequence[int]) -> str:
    cells = []
    for row, layer in enumerate(numbers):
        cells.append(f'<span class="layer">layer {layer + 1}</span>')
        for head in range(maps.shape[1]):
            image = base64.b64encode(png(maps[row, head])).decode("ascii")
            name = f"Layer {layer + 1}, head {head + 1}"
            cells.append(
                f'<button type="button" class="head" data-l="{row}" data-h="{head}" aria-pressed="false" title="{name}">'
                f'<img src="data:image/png;base64,{image}" alt="{name}"><i></i></button>'
            )
    return f'<div class="scroll"><div class="heads" style="--n:{maps.shape[1]}">{"".join(cells)}</div></div>'
