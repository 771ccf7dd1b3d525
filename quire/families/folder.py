"""A model on disk is a Hugging Face folder: config.json beside safetensors. Opened strictly, saved durably, both by the family's one table.

Opening reads headers only: every tensor must have its place and every place its tensor, or both sides are named. Weights that can run code
when opened (pickles) and configs that ask for somebody's code are refused. A GGUF file opens too (`source.py`) and is never written.

Building copies nothing that need not change: the files are mapped into memory, and what is kept as it lies in them is used there.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..binding.gguf import READ
from ..binding.weights import INDEX, WEIGHTS, Slot, some
from ..durable import building, make_folder, write_json
from ..errors import ModelError, StorageError, WeightsError
from ..nn.config import MLMHead, ModelConfig, MoE, Pooler
from ..nn.heads import LabelHeadModule
from ..nn.init import initialise, initialise_labels
from ..nn.transformer import Transformer
from .family import Entry, Family, Fields, Json, entries, family_for
from .source import CONFIG, Source, read_config, source
from .tensors import FLOATING, write_tensors

__all__ = ["CONFIG", "ModelFolder", "read_config"]

READABLE = tuple(dict.fromkeys((*FLOATING, *READ)))

_REPLACED = "belongs to the head that was replaced"


class ModelFolder:
    """An opened model: `path`, `config` (config.json as it is), `family`, `model_config`, `slots` (name on disk -> where it lies).

    `unread` are fields of config.json that nothing reads; `ignored` are tensors of the file that are not loaded, each with its reason.
    `changed` are fields of config.json that `with_head` or `tell` put over the file's; `fresh` are parameters that the file does not hold:
    the new head's.
    """

    def __init__(self, path: Path, source: Source, head: Json | None = None) -> None:
        self.path, self.config, self._source = path, source.config | (head or {}), source
        self.changed, self.fresh = dict(head or {}), list[str]()
        self._new_head, self._places = head is not None, list[Entry]()
        config = self.config
        self.family: Family = family_for(config)
        self.unread = _unread(self.family, config)
        self.slots, self.ignored, self._disk_names = _names(self.family, source.slots)
        bare = not any(name.startswith(self.family.prefix) for name in self._disk_names.values())
        planned = _planned(self.family, config, bare and head is None, self.slots.keys(), self._equal)
        if head is not None and isinstance(self.family.build(config).head, Pooler | None):  # the stack alone, whatever the file holds on it
            stack = [name for name in self.slots if name.startswith(self.family.prefix)]
            planned = _planned(self.family, config, False, stack, self._equal)
        self.model_config: ModelConfig = planned
        self._check_size()
        self._shapes = {name: tuple(t.shape) for name, t in _laid_out(planned).state_dict().items()}
        self._entries: list[Entry] = entries(self.family.table(planned, config, self.slots.keys()), self._shapes, self.slots.keys())
        self._places = self._entries
        self._check()
        source.close()

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Read and check a folder, or a GGUF file, without reading its weights.

        Raises ModelError for a config that is unknown or asks for what is not computed, and WeightsError for weights that are pickled,
        damaged, left over, missing or of another shape.
        """
        path = Path(path)
        return cls(path, source(path))

    def with_head(self, fields: Json) -> ModelFolder:
        """The same model with the head that `fields` of config.json describe (`heads.fields`).

        What the file holds for it is loaded; what is missing is `fresh`, and `build` draws it; what belongs to the old head is `ignored`.
        """
        return ModelFolder(self.path, source(self.path), fields)

    def tell(self, fields: Json) -> None:
        """Puts fields of config.json over the file's that say how the model is used, and nothing of what it computes."""
        self.config |= fields
        self.changed |= fields

    @property
    def left_out(self) -> list[str]:
        """Tensors of the file's own head, where `with_head` has put another one, or none, in its place."""
        return [name for name, why in self.ignored.items() if why == _REPLACED]

    def _equal(self, name: str, other: str) -> bool:
        """Whether two tensors of the file hold the same numbers."""
        if name not in self.slots or other not in self.slots or self.slots[name].shape != self.slots[other].shape:
            return False
        return torch.equal(self.tensor(name), self.tensor(other))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every tensor that is loaded and the parameters that it fills."""
        return tuple(self._entries)

    @property
    def places(self) -> tuple[Entry, ...]:
        """Every tensor of such a model and its parameters: `entries`, and those of a new head that the file does not hold."""
        return tuple(self._places)

    def tensor(self, name: str) -> Tensor:
        """The numbers of one of `slots`, as they lie in the file."""
        return self._source.tensor(self._disk_names[name])

    def _check_size(self) -> None:
        """Refuse thousands of parts that the files cannot hold before they are laid out, which would take seconds to minutes."""
        stacks = [stack for stack in (self.model_config.encoder, self.model_config.decoder) if stack]
        parts = sum(layer.ffn.experts if isinstance(layer.ffn, MoE) else 1 for stack in stacks for layer in stack.layers)
        held = sum(math.prod(slot.shape) for slot in self.slots.values())
        if parts > 1 << 6 and self.model_config.parameters() > 2 * held:
            raise WeightsError(
                f"{self.path}: {CONFIG} describes {self.model_config.parameters():,} numbers, the files hold {held:,}. "
                f"Correct {CONFIG}, or use the files that belong together."
            )

    def _check(self) -> None:
        """Every place filled, every tensor used, every shape right."""
        wanted = {entry.theirs for entry in self._entries}
        same = () if self._new_head else self.family.same  # an output table of its own belongs to the head that is replaced
        repeats = {name: other for name, other in same if name in self.slots and name not in wanted}
        for name, other in repeats.items():
            if not self._equal(name, other):
                raise WeightsError(
                    f"{self.path}: {name} must repeat {other} (they are tied), but its numbers differ. Is tie_word_embeddings right?"
                )
            self.ignored[name] = f"repeats {other}"
        left = sorted(self.slots.keys() - wanted - repeats.keys())
        for name in list(left):
            reason = next((why for pattern, why in self.family.recomputed.items() if re.fullmatch(pattern, name)), None)
            if reason:
                self.ignored[name] = reason
                left.remove(name)
        if self._new_head:
            self._take_head(left)
        missing = sorted({entry.theirs for entry in self._entries} - self.slots.keys())
        if left or missing:
            raise WeightsError(
                f"{self.path}: the weights do not fit {CONFIG} (architectures {self.config.get('architectures')}). "
                f"In the file but not in the model: {some(left)}. In the model but not in the file: {some(missing)}. "
                f"Correct {CONFIG}, or use the files that belong together."
            )
        for entry in self._entries:
            self._check_shape(entry)

    def _take_head(self, left: list[str]) -> None:
        """Sorts out what of the file belongs to the old head and what of the new one the file does not hold."""
        old = ModelFolder.open(self.path)
        heads = {entry.theirs for entry in old.entries if all(name.startswith("head.") for name in entry.ours)}
        self.ignored |= {name: _REPLACED for name in left if name in heads}
        self.ignored |= {name: reason for name, reason in old.ignored.items() if name in left}
        left[:] = [name for name in left if name not in self.ignored]
        kept = []
        for entry in self._entries:
            slot, is_head = self.slots.get(entry.theirs), all(name.startswith("head.") for name in entry.ours)
            if is_head and (slot is None or math.prod(slot.shape) != sum(math.prod(self._shapes[name]) for name in entry.ours)):
                self.fresh += entry.ours
            else:
                kept.append(entry)
        self._entries = kept

    def _check_shape(self, entry: Entry) -> None:
        slot = self.slots[entry.theirs]
        if slot.dtype not in READABLE:
            raise WeightsError(f"{slot.file}: {entry.theirs} has dtype {slot.dtype}; weights are read in {', '.join(READABLE)}.")
        with torch.device("meta"):
            ours = entry.op.save([torch.empty(self._shapes[name]) for name in entry.ours])
        if tuple(ours.shape) != slot.shape:
            raise WeightsError(
                f"{slot.file}: {entry.theirs} has shape {list(slot.shape)}, but {CONFIG} makes it {list(ours.shape)}. "
                "One of the two belongs to another model."
            )

    def build(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0) -> Transformer:
        """The model with its weights, in `dtype` on `device`, ready for evaluation (`eval()`). seed: of weights that are `fresh`.

        Tensors that the model takes as they lie in the file are the file's own pages, private to this model: a change in place does not
        reach the file, and a file that is replaced later (as a save does) does not reach the model. See `tensors.Mapped` for what does.
        """
        model = _laid_out(self.model_config)
        state: dict[str, Tensor] = {}
        self._source.close()  # pages that an earlier model may have changed
        for entry in self._entries:
            whole = self.tensor(entry.theirs)
            place, held = whole.untyped_storage().data_ptr(), False
            for name, part in zip(entry.ours, entry.op.load(whole, [self._shapes[name] for name in entry.ours]), strict=True):
                state[name] = part.to(device, dtype).contiguous()
                held = held or state[name].untyped_storage().data_ptr() == place
            if not held:
                self._source.release(self._disk_names[entry.theirs])
        self._source.close()
        state |= {name: tensor.to(device, dtype) for name, tensor in self._drawn(seed).items()}
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval()

    def _drawn(self, seed: int) -> dict[str, Tensor]:
        """First weights of what is fresh: a label head by fan-in, everything else as the model's family draws it."""
        if not self.fresh:
            return {}
        config = replace(self.model_config, vocab=1)  # the stacks are not needed: one layer without a table costs nothing
        for side in ("encoder", "decoder"):
            if (stack := getattr(config, side)) is not None:
                config = replace(config, **{side: replace(stack, layers=stack.layers[:1])})
        model = _laid_out(config).to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        initialise(model, generator)
        if isinstance(model.head, LabelHeadModule):
            initialise_labels(model.head, generator)
        drawn = model.state_dict()
        return {name: drawn[name] for name in self.fresh}

    @classmethod
    def save(cls, path: str | Path, model: Transformer, config: Json, *, dtype: torch.dtype | None = None) -> ModelFolder:
        """Write `model` with the config.json that describes it, and open the result.

        dtype: of the file; None keeps the model's. A new folder appears whole; in an existing one each file is replaced whole and other
        files stay. Raises ModelError when `config` describes another model, StorageError when the folder cannot be written.
        """
        path = Path(path)
        family = family_for(config)
        state = model.state_dict()
        plan = entries(family.table(model.config, config), state)
        base = family.kind == "encoder" and isinstance(model.config.head, Pooler | None)
        bare = bool(family.bare) and (base or (config.get("architectures") or [""])[0] in family.bare)
        _same_model(family, config, model.config, bare, [entry.theirs for entry in plan])
        tensors = []
        for entry in plan:
            tensor = entry.op.save([state[name] for name in entry.ours])
            name = entry.theirs.removeprefix(family.prefix) if bare else entry.theirs
            tensors.append((name, tensor if dtype is None else tensor.to(dtype)))
        kind = str(tensors[0][1].dtype).removeprefix("torch.")
        written = copy.deepcopy(config) | {"dtype": kind}
        if path.exists() and any(path.iterdir()):
            if (path / INDEX).exists():
                raise StorageError(f"{path} holds a model in several files ({INDEX}); a save would contradict them. Use another folder.")
            make_folder(path)
            _write(path, written, tensors)
        else:
            with building(path) as folder:
                _write(folder, written, tensors)
        return cls.open(path)


def _write(folder: Path, config: Json, tensors: list[tuple[str, Tensor]]) -> None:
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, config)


def _names(family: Family, disk: dict[str, Slot]) -> tuple[dict[str, Slot], dict[str, str], dict[str, str]]:
    """(name of the family's table -> slot, ignored, name of the table -> name on disk)."""
    headless = bool(family.prefix) and not any(name.startswith(family.prefix) for name in disk)
    stems = {name for name in disk if headless and not name.startswith(("cls.", "lm_head."))}
    slots: dict[str, Slot] = {}
    origin: dict[str, str] = {}
    for name, slot in disk.items():
        known = family.prefix + name if name in stems else name
        for old, new in family.renames:
            known = known.removesuffix(old) + new if known.endswith(old) else known
        if known in slots:
            raise WeightsError(f"{slot.file}: {name} and {origin[known]} are the same weight ({known}). Fetch or save it again.")
        slots[known], origin[known] = slot, name
    return slots, {}, origin


def _planned(family: Family, config: Json, bare: bool, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    """The model that config.json and the names of the tensors describe together.

    bare: the names are without the family's prefix. Then an encoder's base class wrote them, whatever `architectures` says:
    sentence-transformers keeps the name of the class that the training began with.
    """
    planned = family.build(config)
    if bare and isinstance(planned.head, MLMHead):
        config = config | {"architectures": [family.bare[0]]}
        planned = family.build(config)
    return planned if family.adjust is None else family.adjust(config, planned, names, equal)


class _Unset(TorchFunctionMode):
    """Modules are made without first values. Drawing them for weights that have no memory imports torch's compiler: seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _laid_out(config: ModelConfig) -> Transformer:
    """The model's modules, with shapes and no memory."""
    with torch.device("meta"), _Unset():
        return Transformer(config)


def _unread(family: Family, config: Json) -> tuple[str, ...]:
    """Fields of config.json that the family does not look at."""
    recorder, rest = _Recorder(config), Fields(config)
    family.build(recorder)
    rest.read = recorder.asked
    return rest.close(family.harmless)


class _Recorder(dict[str, Any]):
    """A config that remembers which of its fields were looked at."""

    def __init__(self, config: Json) -> None:
        super().__init__(config)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def _same_model(family: Family, config: Json, model: ModelConfig, bare: bool, theirs: list[str]) -> None:
    """Raise ModelError when config.json would describe another model than the one that is saved."""
    # an output table of its own counts as different from the embedding, whatever the numbers: it is another parameter
    never_equal: Callable[[str, str], bool] = lambda name, other: False  # noqa: E731
    said = _planned(family, config, bare, theirs, never_equal)
    for item in fields(ModelConfig):
        ours, other = getattr(model, item.name), getattr(said, item.name)
        if ours != other and item.name not in ("dropout", "attention_dropout", "init_std", "context"):  # these change no answer
            raise ModelError(
                f"The config does not describe this model: {item.name} is {ours!r} in the model and {other!r} by {CONFIG}. "
                "Save it with the config that it was built from."
            )
