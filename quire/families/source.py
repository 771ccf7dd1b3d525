"""Where a model's tensors come from: a folder of safetensors, or a GGUF file (`gguf.py`). `ModelFolder` knows nothing else of either."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..binding.weights import Slot, read_files, strict_json, weight_files
from ..errors import ModelError, WeightsError
from ..hub import GGUF
from .tensors import Mapped, stamp

CONFIG = "config.json"
MAX_CONFIG_BYTES = 1 << 20


class Source(Protocol):
    """`config`: what config.json says. `slots`: every tensor by its name in a Hugging Face folder: type, shape, file.

    tensor: its numbers, in memory that may be written without reaching the file. release: nobody holds them any more.
    close: forget every page; tensors that are still held stay.
    """

    config: dict[str, Any]
    slots: dict[str, Slot]

    def tensor(self, name: str) -> Tensor: ...
    def release(self, name: str) -> None: ...
    def close(self) -> None: ...


def source(path: Path) -> Source:
    """Raises ModelError for what is neither a folder nor a GGUF file."""
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix.lower() == GGUF:
        from .gguf import Gguf

        return Gguf(path)
    raise ModelError(f"{path} is not a folder. A model is a folder with {CONFIG} and model.safetensors, or a {GGUF} file.")


class Maps:
    """The files of a source, each mapped when it is first needed, as it was when its header was read."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._stamps = {file: stamp(file) for file in files}
        self._open: dict[Path, Mapped] = {}

    def __getitem__(self, file: Path) -> Mapped:
        if file not in self._open:
            self._open[file] = Mapped(file, self._stamps[file])
        return self._open[file]

    def close(self) -> None:
        self._open.clear()


class Folder:
    """config.json beside safetensors, in one file or in several with an index."""

    def __init__(self, path: Path) -> None:
        self.config = read_config(path)
        files = weight_files(path)
        self._maps = Maps(files)  # before the headers are read, so that a change from then on is seen
        self.slots = read_files(files)

    def tensor(self, name: str) -> Tensor:
        slot = self.slots[name]
        return self._maps[slot.file].tensor(slot)

    def release(self, name: str) -> None:
        slot = self.slots[name]
        self._maps[slot.file].release(slot)

    def close(self) -> None:
        self._maps.close()


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a folder. Raises ModelError when it is missing, damaged, or asks for code of its own."""
    file = path / CONFIG
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{file} has {file.stat().st_size} bytes; allowed are {MAX_CONFIG_BYTES}. It is no model's config.")
        config = strict_json(file.read_bytes(), str(file))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}. A model is a folder with {CONFIG} and model.safetensors.") from None
    except WeightsError as error:
        raise ModelError(str(error)) from None
    if "auto_map" in config:
        raise ModelError(
            f"{file} has auto_map: it asks to run {config['auto_map']!r}, code that comes with the weights. Quire runs no code of a model. "
            "If the model is of a known family, remove auto_map."
        )
    return config
