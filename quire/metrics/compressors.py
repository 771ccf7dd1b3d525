"""What real compressors need for the same text, in bits a byte: the yardstick beside a language model's bits per byte.

Each at its best level (gzip 9, bzip2 9, xz 9 extreme), container and checksum included, because that is what a user of them gets. Two
figures, always named: `per_file` compresses each text alone, as a model that starts every document afresh sees it; `one_stream` compresses
their concatenation, so that a compressor can use what it saw in the files before (gzip within 32 kB, bzip2 within 900 kB, xz within 64 MB).
A model has also seen its training text, which a compressor has not; the report says so beside the figures.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterable

_EXTREME = 9 | lzma.PRESET_EXTREME
_XZ_WINDOW = 1 << 26  # bytes, preset 9's own


def _gzip(data: bytes) -> int:
    return len(gzip.compress(data, 9, mtime=0))


def _bzip2(data: bytes) -> int:
    return len(bz2.compress(data, 9))


def _xz(data: bytes) -> int:
    # A window no longer than the text finds the same matches, and clearing it costs an eighth of the time on short files.
    window = min(_XZ_WINDOW, 1 << max(12, (len(data) - 1).bit_length()))
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": _EXTREME, "dict_size": window}]))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}


def compressors(texts: Iterable[str | bytes]) -> dict[str, dict[str, float]]:
    """{"gzip": {"per_file": bits a byte, "one_stream": bits a byte}, "bzip2": ..., "xz": ...} over `texts` (str is encoded as UTF-8).

    Raises ValueError when there is not one byte of text.
    """
    files = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    stream = b"".join(files)
    if not stream:
        raise ValueError(f"{len(files)} texts without a byte between them cannot be compressed; give text that is not empty")
    return {
        name: {"per_file": 8 * sum(map(size, filter(None, files))) / len(stream), "one_stream": 8 * size(stream) / len(stream)}
        for name, size in COMPRESSORS.items()
    }
