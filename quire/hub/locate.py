"""A name or a path -> the model on this disk: a GGUF file, a model folder, a run's model, or what was pulled by that name. No network."""

from __future__ import annotations

from pathlib import Path

from .. import minilm
from ..errors import ModelError, nearest
from .cache import place_of

GGUF = ".gguf"


def locate(path: Path | str) -> Path:
    """The model at `path`: a GGUF file, a folder, `model/` in it, or (no network) what was pulled by that name. ModelError: what to do."""
    text, path = str(path), Path(path).expanduser()
    if text == minilm.NAME and not path.exists():
        return minilm.folder()
    for place in (path, path / "model"):
        if (place / "config.json").is_file():
            return place
    pulled, pull = (None, "") if path.exists() else place_of(text)
    if pulled is not None:
        return pulled
    if path.is_file() and path.suffix.lower() == GGUF:
        return path
    if path.is_file():
        other = ""
        if path.suffix.lower() == ".bin":
            other = f" Is it a model of llama2.c? Make a folder of it: quire convert {path} FOLDER --tokenizer TOKENIZER.bin"
        raise ModelError(
            f"{path} is a file. A model is a folder with config.json and model.safetensors, or a {GGUF} file; give that.{other}"
        )
    inside = sorted(file for file in path.glob("*") if file.suffix.lower() == GGUF) if path.is_dir() else []
    if inside:
        more = f" ({len(inside)} such files)" if len(inside) > 1 else ""
        raise ModelError(f"{path} holds no config.json, but a {GGUF} file{more}, which is a model itself. Give it: {inside[0]}")
    if (path / "adapter_config.json").is_file():
        whole = f" The run that it is of has the model of both: {path.parent}" if (path.parent / "model" / "config.json").is_file() else ""
        raise ModelError(
            f"{path} is an adapter, not a model. Give its base, with --adapter {path} (Python: adapter=), or make one model of the two: "
            f"quire merge BASE {path} OUT.{whole}"
        )
    if (path / "adapter" / "adapter_config.json").is_file():
        raise ModelError(
            f"the run in {path} left a soft prompt or a prefix, which is no model by itself. Open its base with "
            f"--adapter {path / 'adapter'}; `quire export {path} FOLDER --adapter` writes it as a folder of its own."
        )
    if (path / "recipe.toml").is_file():
        raise ModelError(f"the run in {path} has no model yet. It is written when the run ends; go on with it: quire resume {path}")
    here = sorted(place.parent.parent for root in {path.parent, Path("runs")} for place in root.glob("*/model/config.json"))
    here += sorted(place.parent for place in path.parent.glob("*/config.json"))
    names = list(dict.fromkeys(map(str, here)))
    beside = [name for name in names if Path(name).parent == path.parent]
    meant = nearest(str(path), [name for name in names if nearest(path.name, [Path(name).name])])
    what = "holds no config.json" if path.is_dir() else "is not there"
    said = [f"no model at {path}: it {what}. Give a model folder or a run folder.{meant}"]
    if beside and not meant:
        said.append(f"Models near it: {', '.join(beside[:6])}.")
    if pull and not meant and (path.parent == Path() or not path.parent.is_dir()):  # runs/x is a folder that is missing, and no owner's x
        said.append(f"{pull}.")
    if not meant:
        said.append("Train one: quire quickstart")
    raise ModelError(" ".join(said))
