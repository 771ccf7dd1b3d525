"""An opened model as a folder that other tools open too: weights and config, contract, what makes vectors of texts, and the binding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from .. import durable
from ..adapt.surgery import check_plain
from ..binding import Binding, Contract
from ..errors import RecipeError, StorageError
from ..families.folder import ModelFolder
from ..native.linears import packed_bytes
from ..nn.config import LabelHead
from ..nn.transformer import Transformer
from ..tasks.sentence import beside, carry, limit_to

Stored = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save(
    folder: Path | str,
    source: Path,
    changed: Mapping[str, Any],
    model: Transformer,
    contract: Contract,
    lineage: Mapping[str, Any],
    dtype: Stored | None,
) -> Binding:
    """Writes `folder`, whole or not at all; source: the folder or GGUF file that the model was opened from, for its config, over which
    `changed` has other fields.

    Raises StorageError for a folder that holds something, RecipeError for a dtype that is not there, ModelError for a source that was
    replaced by another model, or whose modules for vectors are not understood.
    """
    folder = Path(folder)
    if packed_bytes(model):
        raise RecipeError(
            "a model with packed weights (quant) cannot be saved: what was packed is not what was loaded. Load it without quant."
        )
    if dtype is not None and dtype not in DTYPES:
        raise RecipeError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}, None (as the model is in memory).")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is not an empty folder. Give a new one.")
    check_plain(model)
    opened = ModelFolder.open(source)
    config = {**opened.config, **changed}
    # an adapter's labels made it a model of another kind: how its base made vectors says nothing of it
    labelled = isinstance(model.config.head, LabelHead) and not isinstance(opened.model_config.head, LabelHead)
    beside(source)  # what is not understood is refused before anything is written
    with durable.building(folder) as place:
        ModelFolder.save(place, model, config, dtype=None if dtype is None else DTYPES[dtype])
        contract.save(place)
        if not labelled and carry(source, place) and contract.truncation is not None:
            limit_to(place, contract.truncation.longest)  # an adapter was trained on shorter texts than its base: others are to know it too
    binding = Binding.of(folder, lineage)
    binding.write(folder)
    return binding
