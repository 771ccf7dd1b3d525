"""What a model is bound to, as hashes: see `contract` (what it reads and when it stops), `weights` and `record` (the binding itself)."""

from __future__ import annotations

from .contract import Contract
from .record import Binding, bound, check, differences
from .weights import weights_id

__all__ = ["Binding", "Contract", "bound", "check", "differences", "weights_id"]
