"""What it costs to keep packed documents apart, for attention alone, forward and backward, three ways.

`attend` lets a token see whatever stands before it in its row (the kernel's causal path); `mask` gives the kernel a mask of segments;
`apart` calls the kernel once for each document of each row, whose cuts are its own. Equal work: the same rows, no dropout, one thread.
`benchmarks/data.py` has what the first two cost in a whole training step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.paired import interleaved, table
from quire import machine
from quire.nn.attention import attend

ROWS, CONTEXT, HEADS, CHANNELS = 8, 512, 8, 32
KINDS = {"long documents": 2, "documents of middle length": 5, "short documents": 16}  # documents in a row


def cuts(documents: int, draw: torch.Generator) -> list[list[int]]:
    """For each row the lengths of its documents, drawn at random: they sum to CONTEXT."""
    rows = []
    for _ in range(ROWS):
        places = (torch.randperm(CONTEXT - 1, generator=draw)[: documents - 1] + 1).sort().values.tolist()
        rows.append([end - start for start, end in zip([0, *places], [*places, CONTEXT], strict=True)])
    return rows


def compare(name: str, documents: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(ROWS, HEADS, CONTEXT, CHANNELS, generator=draw, dtype=dtype).requires_grad_() for _ in range(3))
    lengths = cuts(documents, draw)
    segments = torch.stack([torch.repeat_interleave(torch.arange(documents), torch.tensor(row)) for row in lengths])  # (B, T)

    def apart() -> Tensor:
        rows = []
        for i, row in enumerate(lengths):
            pieces = zip(*(part[i : i + 1].split(row, dim=2) for part in (q, k, v)), strict=True)
            rows.append(torch.cat([attend(*piece, causal=True) for piece in pieces], dim=2))
        return torch.cat(rows)

    assert torch.allclose(apart(), attend(q, k, v, causal=True, segments=segments), atol=1e-5 if dtype == torch.float32 else 3e-2)
    ways = {
        "attend": lambda: attend(q, k, v, causal=True).sum().backward(),
        "mask": lambda: attend(q, k, v, causal=True, segments=segments).sum().backward(),
        "apart": lambda: apart().sum().backward(),
    }
    print(f"{name} ({documents} in a row), {str(dtype).removeprefix('torch.')}")
    print(table(interleaved(ways, rounds=9)))


def main() -> None:
    torch.set_num_threads(1)  # the ratios are the same with more, and less disturbed by other work
    print(f"{machine.processor()}, 1 thread, torch {torch.__version__}; rows of {ROWS} x {CONTEXT}, {HEADS} heads of {CHANNELS}")
    for name, documents in KINDS.items():
        for dtype in (torch.float32, torch.bfloat16):
            compare(name, documents, dtype)


if __name__ == "__main__":
    main()
