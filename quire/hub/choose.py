"""Which files of a repository are fetched, and which repositories are refused before their weights are.

Of a model: config, tokenizer, chat template, generation defaults, the modules of a sentence encoder, safetensors (or one GGUF file), its
card and licence. Never pickles (they can run code when opened), never programs. Of a data set: Parquet, JSONL, CSV and plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ..errors import DataError, HubError, ModelError, WeightsError
from ..progress import count
from .cache import Name
from .remote import File

Read = Callable[[File, int], bytes]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_JSON_BYTES, _INDEX_BYTES = 4 << 20, 16 << 20
_BESIDE = re.compile(
    r"""config\.json | generation_config\.json
    | tokenizer\.json | tokenizer_config\.json | special_tokens_map\.json | added_tokens\.json
    | vocab\.(json|txt) | merges\.txt | [\w.\-]+\.(model|spm|tiktoken) | target_vocab\.json
    | chat_template\.(jinja|json) | additional_chat_templates/[\w.\-]+\.jinja
    | modules\.json | config_sentence_transformers\.json | sentence_\w+_config\.json
    | README\.md | LICEN[SC]E[\w.\-]* | NOTICE[\w.\-]*""",
    re.VERBOSE | re.ASCII,
)
_PICKLED = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|h5|msgpack|onnx|ot)")
_ROWS = re.compile(r"(?:.*/)?[^/.][^/]*\.(?:parquet|(?:jsonl|ndjson|csv|tsv|txt)(?:\.gz)?)", re.IGNORECASE)
_MODULE_PATH = re.compile(r"[\w][\w.\-]*", re.ASCII)


def choose(name: Name, files: dict[str, File], read: Read) -> list[File]:
    """The files to fetch. Raises ModelError for code, WeightsError for pickles, DataError for a data set without data, HubError."""
    if name.kind == "dataset":
        return _data(name, files)
    if name.file or not any(path.endswith(".safetensors") for path in files):
        gguf = _gguf(name, files)
        if gguf:
            return [gguf]
    _refuse_code(name, files, read)
    weights = _weights(name, files, read)
    beside = [file for path, file in files.items() if _BESIDE.fullmatch(path)]
    return sorted({*beside, *weights, *_modules(name, files, read)}, key=lambda file: (file.bytes, file.path))


def _data(name: Name, files: dict[str, File]) -> list[File]:
    found = [file for path, file in sorted(files.items()) if _ROWS.fullmatch(path) and name.means(path)]
    if found:
        return found
    program = any(path.endswith(".py") for path in files)
    why = "it is a program that makes its data, and Quire runs no code of a data set" if program else f"it holds {_some(files)}"
    if name.file and any(_ROWS.fullmatch(path) for path in files):
        raise DataError(f"{name.repo} has no data file {name.file!r}. It holds {_some(filter(_ROWS.fullmatch, files))}.")
    raise DataError(
        f"{name} has no Parquet, JSONL, CSV or text file: {why}. The hub often keeps a converted copy: "
        f"quire pull {name.repo}@refs/convert/parquet --dataset"
    )


def _gguf(name: Name, files: dict[str, File]) -> File | None:
    there = {path: file for path, file in sorted(files.items()) if path.endswith(".gguf")}
    if name.file:
        if name.file not in there:
            raise HubError(f"{name.repo} has no GGUF file {name.file!r}. It has {_some(there)}.")
        return there[name.file]
    if len(there) > 1:
        listed = "".join(f"\n  {Name(name.repo, name.revision, path).pull}   ({count(file.bytes)}B)" for path, file in there.items())
        raise HubError(f"{name} has {len(there)} GGUF files and no safetensors. Name one of them:{listed}")
    return next(iter(there.values()), None)


def _refuse_code(name: Name, files: dict[str, File], read: Read) -> None:
    """Raises ModelError when something in the repository asks to run code that came with it."""
    slow = () if "tokenizer.json" in files else ("tokenizer_config.json",)  # beside a tokenizer.json its program is a second way, unused
    for path in ("config.json", *slow):
        asked = _object(path, files, read).get("auto_map")
        if asked is not None:
            raise ModelError(
                f"{name} carries code: {path} asks to run {repr(asked)[:160]} (auto_map). Quire runs no code of a model, so its "
                "weights were not fetched. Look for a copy that needs none (often NAME-hf). Where its model_type is one "
                "that Quire knows, you can also fetch the folder by other means, remove auto_map from it and load that folder."
            )
    for module in _listed(files, read):
        kind = str(module.get("type", ""))
        if not re.fullmatch(r"sentence_transformers\.[\w.]+", kind):
            raise ModelError(
                f"{name} carries code: modules.json asks for {kind[:80]!r}. Read are sentence_transformers' own modules; "
                "its weights were not fetched. Look for a model without code of its own."
            )


def _listed(files: dict[str, File], read: Read) -> list[dict[str, Any]]:
    """The rows of modules.json."""
    rows = _parsed("modules.json", files, read, _JSON_BYTES) if "modules.json" in files else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ModelError("modules.json of the repository is no list of modules, so it is no sentence encoder's. Try another revision.")
    return rows


def _modules(name: Name, files: dict[str, File], read: Read) -> list[File]:
    """config and weights of the modules of a sentence encoder (1_Pooling, 2_Dense ...)."""
    found = []
    for module in _listed(files, read):
        folder = module.get("path")
        if folder and not (isinstance(folder, str) and _MODULE_PATH.fullmatch(folder)):
            raise ModelError(f"{name}: modules.json names the folder {str(folder)[:80]!r}; allowed are plain names in the repository.")
        found += [files[path] for path in (f"{folder}/config.json", f"{folder}/{WEIGHTS}") if folder and path in files]
    return found


def _weights(name: Name, files: dict[str, File], read: Read) -> list[File]:
    if "config.json" in files and WEIGHTS in files:
        return [files[WEIGHTS]]
    if "config.json" in files and INDEX in files:
        table = _object(INDEX, files, read, _INDEX_BYTES).get("weight_map")
        shards = set(table.values()) if isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) else set()
        lost = sorted(shard for shard in shards if shard not in files or not re.fullmatch(r"[\w][\w.\-]*\.safetensors", shard, re.ASCII))
        if lost or not shards:
            raise WeightsError(f"{name}: {INDEX} names {_some(lost)}, which the repository does not have. Try another revision.")
        return [files[INDEX], *(files[shard] for shard in sorted(shards))]
    pickled = sorted(path for path in files if _PICKLED.fullmatch(path))
    if "config.json" not in files:
        what = "an adapter to another model" if "adapter_config.json" in files else _some(files)
        raise ModelError(f"{name} is no model that Quire reads: it has no config.json; it holds {what}. For a data set, add --dataset.")
    if pickled:
        raise WeightsError(
            f"{name} has its weights only as {_some(pickled)}. Such files can run code when they are opened, so they were not fetched. "
            f"Many repositories have a safetensors copy in a pull request (the model's page lists them): quire pull {name.repo}@refs/pr/1. "
            "Or convert it where you trust it, with transformers: AutoModel.from_pretrained(name).save_pretrained(folder)."
        )
    raise WeightsError(f"{name} has no weights: neither {WEIGHTS} nor {INDEX}; it holds {_some(files)}.")


def _object(path: str, files: dict[str, File], read: Read, limit: int = _JSON_BYTES) -> dict[str, Any]:
    """A JSON object of the repository, {} where the file is not there. Raises ModelError when it is something else."""
    value = _parsed(path, files, read, limit) if path in files else {}
    if not isinstance(value, dict):
        raise ModelError(f"{path} of the repository is no JSON object, so it is no model's. Try another revision.")
    return value


def _parsed(path: str, files: dict[str, File], read: Read, limit: int) -> Any:
    try:
        return json.loads(read(files[path], limit))
    except (ValueError, RecursionError):
        return None


def _some(paths: Any) -> str:
    names = sorted(paths)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
