"""An adapter's folder: PEFT's two files read with care and written whole, and the record of whose adapter it is.

quire_adapter.json holds the binding of the base that the adapter was trained on and the hash of its own weights. On another base, or
changed, it is refused; an adapter that PEFT wrote has no such record and opens with a note.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, float32

from ..binding import Binding
from ..binding.contract import FILES
from ..binding.weights import PICKLES, Slot, TensorFacts, read_header, some, strict_json, weights_id
from ..durable import building, sha256_file, write_bytes, write_json
from ..errors import BindingError, ModelError, StorageError, WeightsError, nearest
from ..families.tensors import FLOATING, Mapped, stamp, write_tensors
from ..nn.config import LabelHead, LMHead, MLMHead, ModelConfig

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "quire_adapter.json"
SCHEMA = 1
MAX_BYTES = 1 << 20  # of a JSON file
_LONGEST_NAME = 200  # characters of a base's name that a message shows
_PARTS = ("id", "contract", "weights", "architecture")


def write(path: Path, tensors: Mapping[str, Tensor], config: dict[str, Any], base: Binding | None, head: Mapping[str, Any]) -> Path:
    """A new folder, whole or not at all. head: `ModelFolder.changed` of the base. Raises StorageError for a folder that is not empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(f"{path} is not an empty folder. Give a new one.")
    with building(path) as folder:
        write_tensors(folder / WEIGHTS, tensors.items(), {"format": "pt"})
        write_json(folder / CONFIG, config)
        if base is not None:
            write_json(folder / RECORD, {"schema": SCHEMA, "base": _ids(base), "weights": weights_hash(folder), "head": dict(head)})
    return path


def copy(path: Path, to: Path) -> str:
    """The same adapter in a new folder, whole or not at all; returns the hash of its weights.

    Raises BindingError where they are not those of its record, StorageError for a folder that is not empty.
    """
    found = weights_hash(path)
    if (path / RECORD).exists() and read_json(path, RECORD).get("weights") != found:
        raise BindingError(f"{path / WEIGHTS} is not what {RECORD} names: it was changed or exchanged. Restore the two together.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StorageError(f"{to} is not an empty folder. Give a new one.")
    with building(to) as folder:
        for name in (WEIGHTS, CONFIG, RECORD, *FILES):
            if (path / name).is_file():
                write_bytes(folder / name, (path / name).read_bytes())
    return found


def task_type(config: ModelConfig) -> str | None:
    """PEFT's word for what a model's head does."""
    head = config.head
    if isinstance(head, LabelHead):
        return {"row": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS", "next": None}[head.over]
    if isinstance(head, LMHead):
        return "SEQ_2_SEQ_LM" if config.kind == "seq2seq" else "CAUSAL_LM"
    return None if isinstance(head, MLMHead) else "FEATURE_EXTRACTION"


def read_json(path: Path, name: str = CONFIG) -> dict[str, Any]:
    file = path / name
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ModelError(f"{file} has {file.stat().st_size} bytes; allowed are {MAX_BYTES}.")
        return strict_json(file.read_bytes(), str(file))
    except OSError as error:
        own = path / "adapter"  # where a run leaves its own
        hint = f" Did you mean {own}?" if (own / CONFIG).is_file() else ""
        raise ModelError(f"{file} cannot be read: {error.strerror}. An adapter is a folder with {CONFIG} and {WEIGHTS}.{hint}") from None
    except WeightsError as error:
        raise ModelError(str(error)) from None


def refuse_unknown(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises ModelError for a field that is neither read nor harmless, unless its value asks for nothing."""
    for name, value in config.items():
        if name not in known and value not in (None, False, {}, []):
            raise ModelError(
                f"{CONFIG}: {name} is {str(value)[:80]!r}. It may change what the adapter computes and is not understood here, so the "
                f"model would answer differently.{nearest(name, sorted(known))}"
            )


def read_slots(path: Path) -> dict[str, Slot]:
    """What lies where in the weights. Raises WeightsError, also where there are only pickles."""
    file = path / WEIGHTS
    if not file.is_file():
        pickles = sorted(found.name for pattern in PICKLES for found in path.glob(pattern))
        if pickles:
            raise WeightsError(
                f"{path} has its weights as {some(pickles)}. Such files can run code when they are opened; Quire reads safetensors only. "
                "Open it once where you trust it, with peft: PeftModel.from_pretrained(base, folder).save_pretrained(new_folder)."
            )
        raise WeightsError(f"{path} has no {WEIGHTS}. An adapter is a folder with {CONFIG} and {WEIGHTS}.")
    slots = read_header(file)
    for name, slot in slots.items():
        if slot.dtype not in FLOATING:
            raise WeightsError(f"{file}: {name} has dtype {slot.dtype}; weights are read in {', '.join(FLOATING)}.")
    return slots


def read_tensors(path: Path, slots: Mapping[str, Slot]) -> dict[str, Tensor]:
    """Every tensor in fp32, in memory of its own. Raises WeightsError for numbers that are none."""
    file = path / WEIGHTS
    mapped = Mapped(file, stamp(file))
    tensors = {key: mapped.tensor(slot).to(float32, copy=True) for key, slot in slots.items()}
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{file}: {key} holds numbers that are infinite or not a number. Its training diverged, or it is damaged.")
    return tensors


def weights_hash(path: Path) -> str:
    """Of an adapter's weights, as a binding hashes a model's."""
    return weights_id({WEIGHTS: TensorFacts("file", (), sha256_file(path / WEIGHTS))})


def _ids(base: Binding) -> dict[str, str]:
    return {"id": base.id, "contract": base.contract_id, "weights": base.weights_id, "architecture": base.architecture_id}


def proven(path: Path, base: Binding | None, found: str, on: Path) -> str:
    """A note for an adapter without a record, "" for one that is on its own base. Raises BindingError for any other, naming both bases.

    found: the hash of the weights that are there. on: the folder of the base that it was tried on.
    """
    file = path / RECORD
    if not file.exists():
        return f"{path} has no record of its base ({RECORD}): that it was trained on this one is taken on trust."
    record = read_json(path, RECORD)
    ids = record.get("base")
    if type(record.get("schema")) is int and record["schema"] > SCHEMA:
        raise BindingError(f"{file} has schema {record['schema']}; this Quire reads up to {SCHEMA}. Install a newer Quire.")
    if not isinstance(ids, dict) or not all(isinstance(ids.get(part), str) for part in _PARTS):
        raise BindingError(f"{file} is damaged: it does not name a base. Restore it; without the file the adapter opens on trust.")
    if record.get("weights") != found:
        raise BindingError(f"{path / WEIGHTS} is not what {RECORD} names: it was changed or exchanged. Restore the two together.")
    if base is None:
        raise BindingError(f"{path} records its base, {_own(path, ids)}, and {on} has no binding to compare with. Open it with one.")
    if base.id != ids["id"]:
        mine = _ids(base)
        what = [part for part in _PARTS[1:] if ids[part] != mine[part]]
        raise BindingError(
            f"{path} was trained on the base {_own(path, ids)}, and was tried on {on} ({base.id[:12]}). Other: "
            f"{', '.join(what) or 'the schema'} (contract: tokenizer, chat template, stop rule). Use the base that it belongs to."
        )
    return ""


def base_of(path: Path) -> str:
    """What an adapter's config calls its base, in quotes; "" where it does not. It is text of a stranger, so printed as a literal."""
    name = read_json(path).get("base_model_name_or_path")
    return repr(str(name)[:_LONGEST_NAME]) if name else ""


def _own(path: Path, ids: Mapping[str, str]) -> str:
    """The base that an adapter's record is about: its name and its id."""
    name, id = base_of(path), ascii(ids["id"][:12])[1:-1]
    return f"{name} ({id})" if name else id
