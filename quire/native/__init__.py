"""Native CPU kernels: products of one to 32 tokens at the speed of memory, and a whole decoding step in one parallel region.

Optional throughout: where they were not built, on a processor they do not know, or with QUIRE_NATIVE=0, plain torch computes the same
(`plain.py`). `available()` says what is in use.
"""

from __future__ import annotations


def available() -> str:
    """What computes here, in a line: an instruction set and whose threads it runs on, or why plain torch does."""
    from .library import find

    kernels, reason = find()
    if kernels is None:
        return f"plain torch ({reason})"
    return f"{kernels.name} on {'the threads of torch' if kernels.shared else 'threads of its own'}"
