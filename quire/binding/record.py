"""The binding of a model folder: is it the same model as the one that was trained, measured and certified?

    contract id      tokenizer, chat template, special ids, stop rule, loss-mask rule
    weights id       name, dtype, shape and bytes of every tensor
    architecture id  config.json without what changes no number (a rope base or an epsilon makes another model of the same weights)
    binding id       the three together; receipts, adapters and indexes name a model by it

Hash once, stamp often: everything is hashed when a folder is saved, first seen or verified. A load compares sizes and times of the files
with the stamp of the last full check, which stays in the user's cache because times mean something on one machine only. The binding of a
folder that has none (somebody else's) is computed and kept in that cache too; a folder that is not ours is never written to.

Recorded but not hashed: generation defaults, lineage, versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import BindingError, StorageError
from . import gguf, weights
from .contract import Contract, _object, canonical
from .generation import GENERATION
from .weights import TensorFacts

SCHEMA = 1
FILE = "binding.json"

_ANEW = "Restore it, or bind the folder anew: quire verify FOLDER --rebind"

# Fields of config.json that change no number: labels, versions, and ids that the contract holds.
_NOT_MATHEMATICS = frozenset(
    """_name_or_path transformers_version dtype torch_dtype use_cache id2label label2id task_specific_params
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id unk_token_id tokenizer_class
    attention_dropout resid_pdrop embd_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob dropout_rate classifier_dropout
    initializer_range initializer_factor gradient_checkpointing output_attentions output_hidden_states return_dict""".split()
)
_STAMPED = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", GENERATION)


@dataclass(frozen=True)
class Binding:
    """Everything that is hashed, part by part, so that a difference can be named. `id` is the model's identity."""

    contract: Mapping[str, Any]
    architecture: Mapping[str, Any]
    tensors: Mapping[str, TensorFacts] = field(repr=False)
    recorded: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def contract_id(self) -> str:
        return canonical(self.contract)

    @cached_property
    def weights_id(self) -> str:
        return weights.weights_id(dict(self.tensors))

    @cached_property
    def architecture_id(self) -> str:
        return canonical(self.architecture)

    @cached_property
    def id(self) -> str:
        return canonical([SCHEMA, self.contract_id, self.weights_id, self.architecture_id])

    @classmethod
    def of(cls, folder: Path | str, lineage: Mapping[str, Any] | None = None) -> Binding:
        """Hashes a model folder as it is now. `lineage`: what it came from (a run, a recipe's hash, a parent's binding id)."""
        folder = Path(folder)
        contract = Contract.open(folder)
        return cls(
            contract.facts,
            _architecture(folder),
            weights.tensors(folder),
            {"generation defaults": dict(contract.defaults), "lineage": dict(lineage or {}), "versions": versions()},
        )

    def write(self, folder: Path | str) -> None:
        """Writes binding.json, and the stamp that lets the next load be quick. Of a GGUF file it is kept in the cache alone."""
        folder = Path(folder)
        if not folder.is_file():
            durable.write_json(folder / FILE, self.json())
        _keep(folder, self, _stamp(folder))

    def json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.id,
            "contract": {"id": self.contract_id, **self.contract},
            "architecture": {"id": self.architecture_id, "config": dict(self.architecture)},
            "weights": {"id": self.weights_id, "tensors": {name: fact.json() for name, fact in sorted(self.tensors.items())}},
            "recorded": dict(self.recorded),
        }

    @classmethod
    def read(cls, folder: Path | str) -> Binding | None:
        """The binding that a folder carries, None where it has none. Raises BindingError when it is damaged or from a newer Quire."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            with durable.storage(path, "read"):
                return cls.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
        except ValueError:
            raise BindingError(
                f"{path} is not JSON: it is damaged. Restore it, or bind the folder anew: quire verify {folder} --rebind"
            ) from None

    @classmethod
    def parse(cls, value: Any, origin: str) -> Binding:
        """The inverse of `json`. An id that does not follow from the parts was changed by hand, and is refused."""
        try:
            schema = value["schema"]
            if type(schema) is int and schema > SCHEMA:
                raise BindingError(f"{origin} has schema {schema}; this Quire reads up to {SCHEMA}. Install a newer Quire.")
            contract = {name: part for name, part in value["contract"].items() if name != "id"}
            tensors = weights.read_facts(value["weights"]["tensors"])
            binding = cls(contract, dict(value["architecture"]["config"]), tensors, dict(value["recorded"]))
            wrong = next((name for name, said, is_ in binding._ids(value) if said != is_), None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BindingError(f"{origin} is damaged ({type(error).__name__}: {error}). {_ANEW}") from None
        if wrong:
            raise BindingError(
                f"{origin}: its {wrong} does not follow from what it lists, so it was changed. Restore it, or bind the folder anew."
            )
        return binding

    def _ids(self, value: Any) -> list[tuple[str, str, str]]:
        return [
            ("contract id", value["contract"]["id"], self.contract_id),
            ("weights id", value["weights"]["id"], self.weights_id),
            ("architecture id", value["architecture"]["id"], self.architecture_id),
            ("binding id", value["id"], self.id),
        ]


def _architecture(folder: Path) -> dict[str, Any]:
    """What decides the numbers beside the weights: fields of config.json, or the values of a GGUF file's architecture."""
    if folder.is_file():
        container = gguf.read(folder)
        names = [name for name in container.values if name.startswith(f"{container.architecture}.")]
        return {name: container.values[name] for name in sorted([*names, "general.architecture"])}
    config = _object(folder / "config.json")
    return {name: value for name, value in sorted(config.items()) if name not in _NOT_MATHEMATICS}


def bound(folder: Path | str, verify: bool = False) -> Binding:
    """The binding of a model folder, proven to be the folder's: by its stamp, or in full with `verify` or where there is no stamp.

    Raises BindingError naming the parts that differ from binding.json. A folder without one is held against what was seen before only
    where no file was touched since; files that were replaced make it another model with another id.
    """
    folder = Path(folder)
    stamp = _stamp(folder)  # before anything is hashed: a file that changes meanwhile must not pass next time
    own, (before, kept) = Binding.read(folder), _kept(folder)
    untouched = before == stamp
    if untouched and not verify and kept is not None and (own is None or own.id == kept.id):
        return own or kept
    found = Binding.of(folder)
    expected = own or (kept if untouched else None)
    if expected is not None and expected.id != found.id:
        what = "\n".join(f"  - {line}" for line in differences(expected, found))
        raise BindingError(
            f"{folder} is not the model that its binding {expected.id[:12]} names:\n{what}\n"
            f"Restore those files. If the change is meant, it is another model: quire verify {folder} --rebind"
        )
    result = expected or found  # the same id; what is recorded beside it stays
    _keep(folder, result, stamp)
    return result


def check(folder: Path | str) -> Binding:
    """Hashes everything and raises BindingError naming exactly what differs from the binding."""
    return bound(folder, verify=True)


def differences(expected: Binding, found: Binding) -> list[str]:
    """In words, one line a part that differs; weights by the tensor's name, config and ids by the field."""
    lines: list[str] = []
    for part in sorted(expected.contract.keys() | found.contract.keys()):
        was, now = expected.contract.get(part), found.contract.get(part)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            lines += _fields(part, was, now)
        elif part == "template" and (was is None or now is None):
            lines.append(f"the chat template (chat_template.jinja) {'is missing' if now is None else 'is new'}")
        elif part in ("template", "tokenizer"):
            name = {"template": "the chat template (chat_template.jinja)", "tokenizer": "the tokenizer (tokenizer.json)"}[part]
            lines.append(f"{name} has other content: its hash is {str(now)[:12]} where {str(was)[:12]} was recorded")
        else:
            lines.append(f"the {part} is {now!r} where {was!r} was recorded")
    lines += _fields("config.json", expected.architecture, found.architecture)
    return lines + weights.differences(dict(expected.tensors), dict(found.tensors))


def _fields(part: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    return [f"{part}: {name} is {now.get(name)!r} where {was.get(name)!r} was recorded" for name in names]


def versions() -> dict[str, str]:
    """Versions of what computes and encodes, without importing any of it."""
    found = {"python": platform.python_version()}
    for name in ("quire", "torch", "tokenizers", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


# -- the user's cache ----------------------------------------------------------------------------------------------------------------


def cache_folder(folder: Path | str) -> Path:
    """Where facts about a model folder are kept that must not be written into it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    place = Path(folder).resolve()
    name = hashlib.sha256(str(place).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(base) / "quire" / "models" / f"{place.name[:40] or 'root'}-{name}"


def _stamp(folder: Path) -> dict[str, Any]:
    """Size and times of every file that is hashed, and the hash of each weights file's header."""
    stamp: dict[str, Any] = {}
    one = folder.is_file()
    files = [] if one else weights.weight_files(folder)
    for path in [folder] if one else [*(folder / name for name in _STAMPED), *files]:
        if path.is_file():
            facts = path.stat()
            # The time of the last change of any kind is there too: tools that set a file's time (archives, images) cannot set that one.
            stamp[path.name] = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    for path in files:
        stamp[path.name].append(weights.header_hash(path))
    return stamp


def _keep(folder: Path, binding: Binding, stamp: dict[str, Any]) -> None:
    """Best effort: without a cache every load hashes the folder, and nothing else is lost."""
    with contextlib.suppress(StorageError, OSError, RuntimeError):
        place = durable.make_folder(cache_folder(folder))
        durable.write_json(place / FILE, {"folder": str(folder.resolve()), "stamp": stamp, "binding": binding.json()})


def _kept(folder: Path) -> tuple[Any, Binding | None]:
    """(stamp, binding) of the last full check on this machine; (None, None) where there was none, or its record is damaged."""
    try:
        value = json.loads((cache_folder(folder) / FILE).read_text(encoding="utf-8"))
        return value["stamp"], Binding.parse(value["binding"], "the cache")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, BindingError):
        return None, None
