"""Quire: train a language model, use it, and be shown that it is still the same model.

    import quire
    model = quire.load("runs/quickstart/model")
    print(model.generate("def parse_").text)

The names below are the public ones. Each is imported when it is first used, so `import quire` is quick and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .binding import Binding, Contract
    from .certify import Certificate
    from .engine.encoder import EncoderEngine
    from .engine.engine import Engine
    from .errors import (
        BindingError,
        CheckpointError,
        ContextError,
        DataError,
        ExtraError,
        HubError,
        ModelError,
        QuireError,
        RecipeError,
        StorageError,
        TrainingError,
        WeightsError,
    )
    from .model import Decoder, Encoder, Seq2Seq, load
    from .text.tokenizer import Tokenizer
    from .types import Answer, Beam, Chunk, Completion, Entity, Message, Sampling, Score, TokenLogprob

    __version__: str

_HOME = {
    "binding": ("Binding", "Contract"),
    "certify": ("Certificate",),
    "engine.encoder": ("EncoderEngine",),
    "engine.engine": ("Engine",),
    "errors": (
        "BindingError",
        "CheckpointError",
        "ContextError",
        "DataError",
        "ExtraError",
        "HubError",
        "ModelError",
        "QuireError",
        "RecipeError",
        "StorageError",
        "TrainingError",
        "WeightsError",
    ),
    "model": ("Decoder", "Encoder", "Seq2Seq", "load"),
    "text.tokenizer": ("Tokenizer",),
    "types": ("Answer", "Beam", "Chunk", "Completion", "Entity", "Message", "Sampling", "Score", "TokenLogprob"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Answer",
    "Beam",
    "Binding",
    "BindingError",
    "Certificate",
    "CheckpointError",
    "Chunk",
    "Completion",
    "ContextError",
    "Contract",
    "DataError",
    "Decoder",
    "Encoder",
    "EncoderEngine",
    "Engine",
    "Entity",
    "ExtraError",
    "HubError",
    "Message",
    "ModelError",
    "QuireError",
    "RecipeError",
    "Sampling",
    "Score",
    "Seq2Seq",
    "StorageError",
    "TokenLogprob",
    "Tokenizer",
    "TrainingError",
    "WeightsError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("quire")
        except metadata.PackageNotFoundError:  # run from a source tree that was never installed
            return "0+source"
    if name not in _MODULE:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE[name]}", __name__), name)
    globals()[name] = value  # from now on an ordinary attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
