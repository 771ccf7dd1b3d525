"""Which numbers a model computes with, as far as that can be seen without reading them.

An engine keeps keys and values that weights have made, and native code knows where weights lie. So it looks, with each request, whether
they are still the same: where every tensor lies, and how often it was changed in place. Seen are in-place operations (`p.add_`, an
optimizer's step), `p.data = ...`, another Parameter or module in its place, `load_state_dict` with and without `assign`, `model.to(...)`.
Not seen is what is written through `p.data` (`p.data.add_`), numpy or a pointer: torch does not count that. `Engine.forget` is for it.
"""

from __future__ import annotations

from ..nn.transformer import Transformer


class Weights:
    """A model's weights at one moment; equal to those of another moment where nothing was seen to change."""

    def __init__(self, model: Transformer) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._held = [tensor.detach() for tensor in tensors]  # so that no other tensor can come to lie where one of these lay
        self._seen = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        weight = model.embed.weight
        self.kind = f"{str(weight.dtype).removeprefix('torch.')} on {weight.device}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weights) and (self.kind, self._seen) == (other.kind, other._seen)

    __hash__ = None  # type: ignore[assignment]
