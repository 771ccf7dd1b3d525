"""Turn a model in one file into a Hugging Face folder: a .gguf file, or a model of llama2.c with its tokenizer.

quire convert model.gguf folder

quire convert stories260K.bin folder --tokenizer tok512.bin

Quantized numbers become fp32 ones. The folder opens with quire and with transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import ModelError, RecipeError, StorageError
from .lines import parse
from .paint import paint

if TYPE_CHECKING:
    from ..binding import Contract
    from ..families.folder import ModelFolder


@dataclass(frozen=True)
class Convert:
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A .gguf file, or a .bin file of llama2.c."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Where the model folder is written; it must be new or empty."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The tokenizer of a llama2.c model (tok512.bin ...)."""


def run(argv: list[str]) -> int:
    options = parse(Convert, "convert", argv, __doc__)
    opened, contract = read(options.file, options.tokenizer)
    facts = convert(opened, contract, options.folder, {"converted": options.file.name})
    print(
        f"{paint(str(options.folder), 'bold')}  {opened.family.names[0]} · {opened.model_config.parameters():,} parameters · {facts[:12]}"
    )
    return 0


def read(file: Path, tokenizer: Path | None = None) -> tuple[ModelFolder, Contract]:
    """Raises ModelError for what is no such file, RecipeError for a tokenizer that is missing or too many."""
    from ..binding import Contract
    from ..families.folder import ModelFolder
    from ..families.llama2c import Llama2c
    from ..hub import GGUF
    from ..text import llama2c
    from ..text.tokenizer import Tokenizer

    if not file.is_file():
        raise ModelError(f"there is no file {file}. Give a {GGUF} file, or a .bin file of llama2.c.")
    if file.suffix.lower() == GGUF:
        if tokenizer is not None:
            raise RecipeError(f"{file} holds its own tokenizer; leave --tokenizer out.")
        return ModelFolder.open(file), Contract.open(file)
    if tokenizer is None:
        raise RecipeError(f"{file} holds no tokenizer. Give its file: quire convert {file} FOLDER --tokenizer tok512.bin")
    opened = ModelFolder(file, Llama2c(file))
    words = Tokenizer(*llama2c.read(tokenizer))
    if words.vocab_size != opened.model_config.vocab:
        raise ModelError(f"{tokenizer} has {words.vocab_size} pieces, but {file} was made for {opened.model_config.vocab}.")
    return opened, Contract(words)


def convert(opened: ModelFolder, contract: Contract, folder: Path, lineage: dict[str, Any]) -> str:
    """Writes the folder, whole, and returns the id of its binding."""
    from ..binding import Binding
    from ..durable import building
    from ..families.folder import ModelFolder

    if folder.exists() and any(folder.iterdir()):
        raise StorageError(f"{folder} is not empty. Give a new folder.")
    with building(folder) as place:
        ModelFolder.save(place, opened.build(), opened.config)
        contract.save(place)
    binding = Binding.of(folder, lineage)
    binding.write(folder)
    return binding.id
