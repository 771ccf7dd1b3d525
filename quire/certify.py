"""Is it still the same model, whichever way it is computed? Every way is held against one reference, and the largest difference is named.

    plain attention    the forward with attention written out (it also returns the weights), against the fused kernel
    cached             token by token over the key/value cache, against reading everything at once
    lean step          the decoder's fast step, where it understands the model, against the same
    native step        the kernels' step over pages, where there are kernels that compute the model, against the same
    padded batch       rows of different lengths together, against each row alone
    saved, reloaded    written to a new folder, opened and computed again: not one bit may differ, and the binding must be equal

Differences are of log-probabilities (of hidden states where a model has no vocabulary head). fp32 paths must agree to 1e-4. A model that is
stored in fewer bits is also computed in them: two of its paths may differ by at most twice their distance to fp32, because that distance
is what the number type itself costs. Rows are drawn from a fixed generator over the whole vocabulary, so a certificate can be repeated.
"""

from __future__ import annotations

import datetime
import itertools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import durable
from .binding import Binding, Contract, bound
from .binding.record import cache_folder, versions
from .decode.loop import Forward
from .decode.step import understands
from .families.folder import ModelFolder
from .native.step import NativeStep, unfit
from .nn.attention import AttnContext
from .nn.batch import Batch
from .nn.cache import Cache
from .nn.config import LabelHead
from .nn.paged import Pages
from .nn.transformer import Transformer

FILE = "certificate.json"
FP32_LIMIT = 1e-4
_LENGTHS = (48, 31, 17, 5, 1)  # tokens of the rows, cut to the model's context


@dataclass(frozen=True)
class Check:
    """One way of computing against the reference: the largest difference, where it was, and how much is allowed."""

    name: str
    dtype: str
    difference: float
    limit: float
    row: int = 0
    position: int = 0
    token: int | None = None  # whose log-probability differed most; None: a channel of the hidden state

    @property
    def ok(self) -> bool:
        return self.difference <= self.limit  # False for a difference that is not a number

    def __str__(self) -> str:
        where = f"row {self.row}, position {self.position}" + (f", token {self.token}" if self.token is not None else "")
        return f"{self.name} ({self.dtype}): {self.difference:.2g} of at most {self.limit:.2g}, at {where}"


@dataclass(frozen=True)
class Certificate:
    binding: str
    checks: tuple[Check, ...]
    date: str
    versions: dict[str, str]
    rows: tuple[int, ...]  # tokens of each row

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    def json(self) -> dict[str, Any]:
        checks = [
            asdict(check) | {"ok": check.ok, "difference": _finite(check.difference), "limit": _finite(check.limit)}
            for check in self.checks
        ]
        return {"schema": 1, "ok": self.ok, "binding": self.binding, "date": self.date, "versions": self.versions, "rows": self.rows} | {
            "checks": checks
        }


def _finite(value: float) -> float | str:
    return value if value - value == 0 else str(value)


def certify(folder: Path | str, *, date: str | None = None, seed: int = 0) -> Certificate:
    """Checks a model folder against its binding, then every way of computing it, and returns what was found. Writes nothing in it.

    `date`: ISO, for the certificate; None takes the clock. Raises BindingError when the files are not those of the binding, ModelError
    when the folder cannot be opened. A difference that is too large is not an exception: `Certificate.ok` is False.
    """
    opened = ModelFolder.open(folder)
    binding = bound(folder, verify=True)
    model = opened.build(torch.float32)
    ways = Ways(model, _rows(model, seed))
    with torch.inference_mode():
        reference = ways.alone()
        checks = [_largest(name, "fp32", reference, way(), FP32_LIMIT) for name, way in ways.named()]
        stored = _stored_dtype(opened)
        if stored is not torch.float32:
            checks += _narrow(ways, opened.build(stored), reference, stored)
    checks.append(_reloaded(opened, binding, model, ways, reference))
    date = date or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Certificate(binding.id, tuple(checks), date, versions(), tuple(len(row) for row in ways.rows))


def compared(name: str, model: Transformer, opened: ModelFolder, seed: int = 0) -> Check:
    """Whether a folder computes what `model`, of which it was made, does: both in fp32, over the rows of a certificate.

    A head of labels is compared by its logits. A folder in 16 bits may differ by what rounding its weights costs, which is only named.
    """
    model, other = model.float().eval(), opened.build(torch.float32)
    rows = _rows(model, seed)
    limit = FP32_LIMIT if _stored_dtype(opened) is torch.float32 else float("inf")

    def found(one: Transformer) -> list[Tensor]:
        ways = Ways(one, rows)
        if not isinstance(one.config.head, LabelHead) or one.head is None:
            return ways.alone()
        return [one.head(one(ways._batch([row]))).flatten(0, -2) for row in rows]

    with torch.inference_mode():
        return _largest(name, "fp32", found(model), found(other), limit)


def write(certificate: Certificate, folder: Path | str) -> Path:
    """Writes certificate.json beside the binding: into the folder when that carries its own, else into the user's cache."""
    folder = Path(folder)
    place = folder if Binding.read(folder) is not None else durable.make_folder(cache_folder(folder))
    durable.write_json(place / FILE, certificate.json())
    return place / FILE


def _rows(model: Transformer, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (min(length, model.config.context) for length in _LENGTHS)
    return [torch.randint(model.config.vocab, (length,), generator=generator).tolist() for length in lengths]


@dataclass(frozen=True)
class Ways:
    """Every way of computing the same rows. Each returns one tensor a row, (T, V) log-probabilities or (T, D) hidden states.

    An encoder-decoder reads each row reversed on the encoder's side.
    """

    model: Transformer
    rows: list[list[int]]

    def named(self) -> Iterable[tuple[str, Callable[[], list[Tensor]]]]:
        yield "plain attention", lambda: self.alone(plain=True)
        if self.model.config.decoder is not None:
            yield "cached", self.cached
        if understands(self.model):
            yield "lean step", self.lean
        if self.model.head is not None and self.model.config.decoder is not None and not unfit(self.model):
            yield "native step", self.native
        yield "padded batch", self.padded

    def _batch(self, rows: list[list[int]]) -> Batch:
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # (B, T)
        keep = torch.tensor([[place < len(row) for place in range(longest)] for row in rows])
        batch = Batch(tokens, keep=None if len(rows) == 1 else keep)
        if self.model.config.kind == "seq2seq":
            batch = replace(batch, source=replace(batch, tokens=torch.tensor([row[::-1] + [0] * (longest - len(row)) for row in rows])))
        return batch

    def alone(self, plain: bool = False) -> list[Tensor]:
        """Each row in a forward of its own: the reference; `plain`: with attention written out."""
        found = []
        for row in self.rows:
            context = AttnContext(trace=[]) if plain else None
            found.append(self._read(self.model(self._batch([row]), context))[0])
        return found

    def padded(self) -> list[Tensor]:
        """All rows in one forward, the shorter ones padded."""
        scores = self._read(self.model(self._batch(self.rows)))
        return [scores[i, : len(row)] for i, row in enumerate(self.rows)]

    def cached(self) -> list[Tensor]:
        """A third of each row at once, the rest token by token."""
        found = []
        for row in self.rows:
            batch = self._batch([row])
            memory = None if batch.source is None else self.model.encode(batch.source.tokens)
            weight = self.model.embed.weight
            context = AttnContext(cache=Cache(self.model.config, 1, len(row), weight.dtype, weight.device))
            cuts = [0, *range(max(len(row) // 3, 1), len(row) + 1)]
            parts = [self.model.decode(batch.tokens[:, a:b], context, memory) for a, b in itertools.pairwise(cuts)]
            found.append(self._read(torch.cat(parts, dim=1))[0])
        return found

    def lean(self) -> list[Tensor]:
        found = []
        for row in self.rows:
            forward = Forward(self.model, len(row))
            found.append(torch.stack([torch.from_numpy(forward([token])) for token in row]).log_softmax(-1))
        return found

    def native(self) -> list[Tensor]:
        """All rows side by side, each token by token."""
        longest, size = max(map(len, self.rows)), 16
        blocks = -(-longest // size)
        weight = self.model.embed.weight
        pages = Pages(self.model.config, blocks * len(self.rows), size, weight.dtype)
        step = NativeStep(self.model, *([pool.transpose(1, 2) for pool in pools] for pools in (pages.keys, pages.values)))
        tables = torch.arange(blocks * len(self.rows)).view(-1, blocks)
        found: list[list[Tensor]] = [[] for _ in self.rows]
        for place in range(longest):
            at = [number for number, row in enumerate(self.rows) if place < len(row)]
            tokens = torch.tensor([self.rows[number][place] for number in at])
            for number, logits in zip(at, step(tokens, torch.full((len(at),), place), tables[at])):
                found[number].append(logits)
        return [torch.stack(rows).log_softmax(-1) for rows in found]

    def _read(self, hidden: Tensor) -> Tensor:
        """Log-probabilities (B, T, V), or the hidden states of a model that predicts no vocabulary; fp32."""
        head = self.model.head
        if head is None or not hasattr(head, "table"):
            return hidden.float()
        scores: Tensor = head(hidden).float().log_softmax(-1)
        return scores


def _largest(name: str, dtype: str, reference: list[Tensor], found: list[Tensor], limit: float) -> Check:
    worst = Check(name, dtype, 0.0, limit)
    for row, (a, b) in enumerate(zip(reference, found)):
        difference = (a - b).abs()  # (T, V)
        difference = torch.where(a == b, 0.0, difference)  # equal infinities are equal
        place = int(torch.nan_to_num(difference, nan=float("inf")).argmax())
        value = float(difference.flatten()[place])
        if row == 0 or not value <= worst.difference:
            position, token = divmod(place, difference.shape[-1])
            worst = Check(name, dtype, value, limit, row, position, token)
        if value != value:
            break
    return worst


def _stored_dtype(opened: ModelFolder) -> torch.dtype:
    kinds = {slot.dtype for slot in opened.slots.values()}
    return torch.bfloat16 if kinds == {"BF16"} else torch.float16 if kinds == {"F16"} else torch.float32


def _narrow(ways: Ways, model: Transformer, exact: list[Tensor], dtype: torch.dtype) -> list[Check]:
    """The paths of a bf16 or fp16 model against one another, allowed twice their distance to fp32."""
    word = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    narrow = Ways(model, ways.rows)
    reference = narrow.alone()
    distance = _largest("distance to fp32", word, exact, reference, float("inf"))
    limit = max(2 * distance.difference, FP32_LIMIT)
    return [distance, *(_largest(name, word, reference, way(), limit) for name, way in narrow.named())]


def _reloaded(opened: ModelFolder, binding: Binding, model: Transformer, ways: Ways, reference: list[Tensor]) -> Check:
    """Saved into a new folder, as a whole model folder, and opened again."""
    with tempfile.TemporaryDirectory(prefix="quire-certify-") as place:
        folder = Path(place) / "model"
        again = ModelFolder.save(folder, model, opened.config)
        Contract.open(opened.path).save(folder)
        with torch.inference_mode():
            check = _largest("saved, reloaded", "fp32", reference, Ways(again.build(torch.float32), ways.rows).alone(), 0.0)
        if Binding.of(folder).contract_id != binding.contract_id:
            # The numbers may agree and the tokenizer still be another one after a save: no certificate for that.
            return replace(check, name="saved, reloaded: the contract differs", difference=float("inf"))
        return check
