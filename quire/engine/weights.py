"""Which numbers a model computes with, as far as that can be seen without reading them.

An engine keeps keys and values that weights have made, and native code knows where weights lie. So it looks, with each request, whether
they are still the same: where every tensor lies, and how often it was changed in place. Seen are in-place operations (`p.add_`, an
optimizer's step), `p.data = ...`, another Parameter or module in its place, `load_state_dict` with and without `assign`, `model.to(...)`.
Not seen is what is written through `p.data` (`p.data.add_`), numpy or a pointer: torch does not count that. `Engine.forget` is for it.
"""

from __future__ import annotations

from ..nn.transformer import Transformer


def seen(model: Transformer) -> tuple[str, list[tuple[int, int]]]:
    """(number type and device, where each tensor lies and how often it was changed in place)."""
    tensors = (*model.parameters(), *model.buffers())
    weight = model.embed.weight
    kind = f"{str(weight.dtype).removeprefix('torch.')} on {weight.device}"
    return kind, [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


class Weights:
    """A model's weights as they are now, to be compared with those of later."""

    def __init__(self, model: Transformer) -> None:
        self.kind, self._seen = seen(model)
        self._held = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]  # so that no other can come to lie there

    def still(self, model: Transformer) -> bool:
        """Whether nothing was seen to change."""
        return seen(model) == (self.kind, self._seen)
