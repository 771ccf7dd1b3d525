"""How a config.json says rotary positions, in every spelling in use, as the one `Rope` record.

Older files keep the scaling in `rope_scaling` and theta beside it; newer ones keep all of it in `rope_parameters`. What follows from other
fields (the original length, the factor on cos and sin) is worked out here, as the reference implementation does, so that `nn` sees plain
numbers. A kind of scaling or a field of it that is not known is refused by name.

Two kinds depend on the length of the text (dynamic, longrope). A forward takes the frequencies of the longest row it sees, and a cache
keeps its keys as they were turned, both as the reference's forward does: a text that grows across the original length while it is written
is not quite the text read at once. (For Phi 3 alone the reference's `generate` reads the text again at that border; ours goes on.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ModelError
from ..nn.config import Dynamic, Linear, Llama3, LongRope, Rope, Scaling, Yarn
from .family import Fields, Json

COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
KINDS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        "factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale mscale_all_dim truncate".split()
    ),
    "longrope": frozenset("factor original_max_position_embeddings attention_factor short_factor long_factor".split()),
}
LARGEST = 1e6  # of a factor: beyond it no position of any text would turn


@dataclass(frozen=True)
class Spelling:
    """How a family's config.json names things, and what holds where it is silent.

    partial: the share of a head's channels that turn where none is said; None: all of them, and the reference computes nothing else.
    original: of texts, where the field of that name is missing; 0: the model's context. aliases: older names of a kind.
    """

    theta: float = 10_000.0
    theta_name: str = "rope_theta"
    partial: float | None = None
    partial_name: str = "partial_rotary_factor"
    original: int = 0
    kinds: tuple[str, ...] = tuple(KINDS)
    aliases: Mapping[str, str] | None = None


PLAIN = Spelling()


def read_rope(f: Fields, head_dim: int, context: int, spelling: Spelling = PLAIN) -> Rope:
    """The rotary positions of a config.json. Raises ModelError for what is not understood."""
    old, new = f.record("rope_scaling"), f.record("rope_parameters")
    theta = f.number(spelling.theta_name, spelling.theta, low=1.0)
    partial = 1.0 if spelling.partial is None else f.number(spelling.partial_name, spelling.partial, high=1.0)
    original = f.integer("original_max_position_embeddings", spelling.original or 0)
    # where a file has both spellings, the reference reads the older one
    record = Fields(old or new)
    theta = record.number("rope_theta", theta, low=1.0)
    partial = record.number("partial_rotary_factor", partial, high=1.0)
    if spelling.partial is None and partial != 1.0:
        raise ModelError(f"config.json: partial_rotary_factor is {partial!r}; in this family every channel of a head turns. Allowed: 1.")
    channels = int(head_dim * partial)
    if channels < 2 or channels % 2:
        raise ModelError(
            f"config.json: {partial:g} of {head_dim} channels of a head would turn, which is {channels}; pairs turn, so it must be an even "
            "number of at least 2."
        )
    scaling = read_scaling(record, channels, context, original, spelling)
    if isinstance(scaling, Yarn) and theta <= 1.0:
        raise ModelError(f"config.json: rope_theta is {theta!r}; with yarn it must be more than 1.")
    return Rope(theta, channels if channels < head_dim else 0, scaling)


def read_scaling(record: Fields, channels: int, context: int, original: int, spelling: Spelling = PLAIN) -> Scaling | None:
    """The scaling of one table of rope fields. original: what stands beside the table, which wins over the table's own; 0: nothing does."""
    kind = record.config.get("rope_type") or record.config.get("type") or "default"
    kind = (spelling.aliases or {}).get(kind, kind) if isinstance(kind, str) else kind
    if kind not in spelling.kinds:
        raise ModelError(f"config.json: rope type {kind!r} is not computed by this family. Allowed: {', '.join(spelling.kinds)}.")
    extra = sorted(name for name, value in record.config.items() if value is not None and name not in COMMON | KINDS[kind])
    if extra:
        raise ModelError(
            f"config.json: rotary positions of type {kind!r} have the fields {', '.join(extra)}, which are not understood. "
            f"Allowed: {', '.join(sorted(COMMON | KINDS[kind]))}."
        )
    if kind == "default":
        return None
    original = original or record.integer("original_max_position_embeddings", context)
    if kind in ("yarn", "longrope"):
        factor = record.number("factor", context / original, low=1e-3, high=LARGEST)
        attention = record.number("attention_factor", -1.0, high=LARGEST)
        if kind == "yarn":
            return _yarn(record, factor, original, attention)
        return _longrope(record, factor, original, attention, channels)
    if record.config.get("factor") is None:
        raise ModelError(f"config.json: rotary positions of type {kind!r} need a factor, and there is none.")
    factor = record.number("factor", 1.0, low=1e-3, high=LARGEST)
    if kind == "linear":
        return Linear(factor)
    if kind == "dynamic":
        if channels < 4:
            raise ModelError(f"config.json: dynamic scaling needs at least 4 channels of a head that turn; there are {channels}.")
        return Dynamic(factor, context)
    low, high = (record.number(name, 0.0, high=LARGEST) for name in ("low_freq_factor", "high_freq_factor"))
    if not 0.0 < low < high:
        raise ModelError(f"config.json: low_freq_factor is {low:g} and high_freq_factor {high:g}; allowed is 0 < low < high.")
    return Llama3(factor, low, high, original)


def _yarn(record: Fields, factor: float, original: int, attention: float) -> Yarn:
    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    if attention < 0.0:
        one, all_dim = record.number("mscale", 0.0), record.number("mscale_all_dim", 0.0)
        attention = grown(one) / grown(all_dim) if one and all_dim else grown(1.0)
    fast, slow = record.number("beta_fast", 0.0) or 32.0, record.number("beta_slow", 0.0) or 1.0
    return Yarn(factor, original, fast, slow, attention, record.flag("truncate", True))


def _longrope(record: Fields, factor: float, original: int, attention: float, channels: int) -> LongRope:
    if attention < 0.0:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 and original > 1 else 1.0
    short, long = (_divisors(record.config, name, channels // 2) for name in ("short_factor", "long_factor"))
    return LongRope(short, long, original, attention)


def _divisors(config: Json, name: str, count: int) -> tuple[float, ...]:
    values = config.get(name)
    if not isinstance(values, list) or len(values) != count:
        size = f"{len(values)} entries" if isinstance(values, list) else repr(values)
        raise ModelError(f"config.json: {name} has {size}; it needs a number for each of the {count} pairs of channels that turn.")
    return tuple(Fields({name: value}).number(name, 1.0, low=1e-6) for value in values)
