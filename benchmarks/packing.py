"""What it costs to keep packed documents apart: one training step of attention and of a whole model, three ways.

`attend` lets a token see whatever stands before it in its row (the fused kernel's causal path); `mask` gives the kernel a mask of segments;
`apart` calls the kernel once for each document. Equal work: the same rows, fp32 and bf16, forward and backward, no dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.paired import interleaved, table
from quire import machine
from quire.nn.attention import attend
from quire.nn.batch import Batch
from quire.nn.config import FFN, Attn, Layer, LMHead, ModelConfig, Norm, Rope, Stack
from quire.nn.heads import token_loss
from quire.nn.init import initialise
from quire.nn.transformer import Transformer

ROWS, CONTEXT, HEADS, CHANNELS = 8, 512, 8, 32
DOCUMENTS = (160, 96, 224, 32)  # tokens of the documents in a row


def segments() -> Tensor:
    """(B, T): which document of its row a token belongs to."""
    return torch.repeat_interleave(torch.arange(len(DOCUMENTS)), torch.tensor(DOCUMENTS)).expand(ROWS, CONTEXT)


def attention(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(ROWS, HEADS, CONTEXT, CHANNELS, generator=draw, dtype=dtype).requires_grad_() for _ in range(3))
    numbers = segments()

    def apart() -> Tensor:
        pieces = [part.split(DOCUMENTS, dim=2) for part in (q, k, v)]
        return torch.cat([attend(*three, causal=True) for three in zip(*pieces, strict=True)], dim=2)

    def step(out: Tensor) -> None:
        out.sum().backward()

    assert torch.allclose(apart(), attend(q, k, v, causal=True, segments=numbers), atol=1e-5 if dtype == torch.float32 else 2e-2)
    ways = {
        "attend": lambda: step(attend(q, k, v, causal=True)),
        "mask": lambda: step(attend(q, k, v, causal=True, segments=numbers)),
        "apart": lambda: step(apart()),
    }
    print(f"attention alone, {dtype}, {ROWS} x {CONTEXT}, {HEADS} heads of {CHANNELS}")
    print(table(interleaved(ways, rounds=15)))


def model(autocast: bool) -> None:
    attn = Attn(HEADS, HEADS, CHANNELS, rope=Rope())
    layer = Layer(attn, FFN(704, "silu", gated=True), Norm("rms", 1e-5))
    config = ModelConfig(HEADS * CHANNELS, 2048, CONTEXT, decoder=Stack((layer,) * 4, final_norm=Norm("rms", 1e-5)), head=LMHead())
    net = Transformer(config)
    draw = torch.Generator().manual_seed(0)
    initialise(net, draw)
    tokens = torch.randint(2048, (ROWS, CONTEXT), generator=draw)
    labels = tokens.roll(-1, 1)

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total, count = token_loss(net.head, net(batch), labels)
        (total / count).backward()
        net.zero_grad(set_to_none=True)

    ways = {"attend": lambda: step(Batch(tokens)), "mask": lambda: step(Batch(tokens, segments=segments()))}
    print(f"forward and backward of a model, {'bf16' if autocast else 'fp32'}, {config.parameters():,} parameters, {ROWS} x {CONTEXT}")
    print(table(interleaved(ways)))


def main() -> None:
    threads = machine.threads()
    torch.set_num_threads(threads)
    print(f"{machine.processor()}, {threads} threads, torch {torch.__version__}")
    print(f"documents of {DOCUMENTS} tokens in each row")
    for dtype in (torch.float32, torch.bfloat16):
        attention(dtype)
    model(autocast=False)
    model(autocast=True)


if __name__ == "__main__":
    main()
