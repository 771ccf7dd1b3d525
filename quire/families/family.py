"""What a family of checkpoints is, as data: how its config.json becomes a `ModelConfig`, and one table of weights read both ways.

A rule joins our names to theirs; `{i}` is a layer's number, `{e}` an expert's, `{a,b}` alternatives that go in step, and a trailing `*`
whatever follows. When only our side has alternatives, theirs is one fused tensor and the operation splits it. An operation is a pair of
small functions, one the inverse of the other. A field of config.json that changes the mathematics and is not understood is refused by name,
never passed over.

No torch is imported here, so that a plan (parameters, memory) can be made without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import ModelError, WeightsError, nearest
from ..nn.config import Act, ModelConfig, Sizes
from .ops import COPY, Op

Json = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    ours: str
    theirs: str
    op: Op = COPY


@dataclass(frozen=True)
class Entry:
    """One tensor on disk and the parameters that it fills."""

    theirs: str
    ours: tuple[str, ...]
    op: Op


@dataclass(frozen=True)
class Family:
    """One file of this folder. `names` are the `model_type`s that it answers to; the first is the name that we write.

    new: sizes -> a stock config.json. build: config.json -> ModelConfig. adjust: the same, once the names of the weights are known.
    weights: the table for a config. tiny, variants: the smallest configs that exercise it. prefix: what base-model names start with where a
    head exists; `bare` architectures are written without it. same: (name, other) a tensor that may only repeat another. renames: endings of
    older checkpoints. spelled: {name of the table: name} for a folder whose config.json or tensors (none of a new one) say other names.
    recomputed: patterns of tensors that follow from the config, with the reason why they are not read.
    """

    names: tuple[str, ...]
    kind: Literal["decoder", "encoder", "seq2seq"]
    new: Callable[[Sizes], Json]
    build: Callable[[Json], ModelConfig]
    weights: Callable[[ModelConfig], list[Rule]]
    tiny: Json
    variants: tuple[Json, ...] = ()
    adjust: Callable[[Json, ModelConfig, Collection[str], Callable[[str, str], bool]], ModelConfig] | None = None
    prefix: str = ""
    bare: tuple[str, ...] = ()
    same: tuple[tuple[str, str], ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    spelled: Callable[[Json, Collection[str]], dict[str, str]] | None = None
    recomputed: dict[str, str] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()

    def table(self, model: ModelConfig, config: Json, names: Collection[str] = ()) -> list[Rule]:
        """The weights' table for one folder; names: of its tensors, none for a folder that is to be written."""
        other = self.spelled(config, names) if self.spelled else {}
        return [replace(rule, theirs=other.get(rule.theirs, rule.theirs)) for rule in self.weights(model)]


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    for name in family.names:
        FAMILIES[name] = family
    return family


def family_for(config: Json) -> Family:
    """The family of a config.json. Raises ModelError naming the `model_type` and those that are known."""
    name = config.get("model_type")
    known = sorted(FAMILIES)
    if not isinstance(name, str) or name not in FAMILIES:
        hint = nearest(name, known) if isinstance(name, str) else ""
        raise ModelError(f"config.json has model_type {name!r}. Known: {', '.join(known)}.{hint}")
    return FAMILIES[name]


def entries(rules: Iterable[Rule], ours: Collection[str], names: Collection[str] = ()) -> list[Entry]:
    """Pair every one of our parameter names with the tensor on disk that fills it.

    Where several rules are for one parameter, the first counts whose tensor is among `names`, which a folder has; else the first of all.
    """
    found: dict[str, tuple[Op, list[tuple[int, list[int], str]]]] = {}
    left = dict.fromkeys(ours)
    spare: dict[str, tuple[str, Op, int]] = {}

    def pair(name: str, theirs: str, op: Op, place: int) -> None:
        del left[name]
        found.setdefault(theirs, (op, []))[1].append((place, [int(number) for number in re.findall(r"\d+", name)], name))

    for rule in rules:
        for place, (pattern, template) in enumerate(_alternatives(rule)):
            for name in list(left):
                match = pattern.fullmatch(name)
                if match:
                    theirs = template.format(**{"i": "", "e": "", "tail": ""} | match.groupdict())
                    if names and theirs not in names:
                        spare.setdefault(name, (theirs, rule.op, place))
                    else:
                        pair(name, theirs, rule.op, place)
    for name, meant in spare.items():
        if name in left:
            pair(name, *meant)
    if left:
        raise WeightsError(f"The family's table has no rule for our {', '.join(sorted(left)[:5])}; it cannot hold this model.")
    return [Entry(theirs, tuple(name for _, _, name in sorted(parts)), op) for theirs, (op, parts) in found.items()]


_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


def _alternatives(rule: Rule) -> list[tuple[re.Pattern[str], str]]:
    """(pattern of ours, template of theirs) for each alternative of a rule."""
    braces = _BRACES.search(rule.ours)
    words = braces.group(1).split(",") if braces else [""]
    other = _BRACES.search(rule.theirs)
    theirs = other.group(1).split(",") if other else [""] * len(words)
    pairs = []
    for word, their in zip(words, theirs, strict=True):
        pattern = (
            re.escape(_BRACES.sub(word, rule.ours))
            .replace(r"\{i\}", r"(?P<i>\d+)")
            .replace(r"\{e\}", r"(?P<e>\d+)")
            .replace(r"\*", r"(?P<tail>\w+)")
        )
        pairs.append((re.compile(pattern), _BRACES.sub(their, rule.theirs).replace("*", "{tail}")))
    return pairs


# The reference implementation's names of activations, and ours.
ACTS: dict[str, Act] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "tanh": "tanh",
}

# Fields that change the mathematics somewhere in this field of work, and the values at which they change nothing. A family that
# understands one reads it; otherwise any other value is refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope_scaling": (),
    "rope_parameters": (),
    "rope_theta": (),
    "partial_rotary_factor": (1.0,),
    "rotary_pct": (1.0,),
    "rope_interleaved": (),
    "sliding_window": (),
    "attention_chunk_size": (),
    "layer_types": (),
    "no_rope_layers": (),
    "attention_bias": (),
    "mlp_bias": (),
    "qk_norm": (),
    "use_qk_norm": (),
    "clip_qkv": (),
    "alibi": (),
    "position_embedding_type": ("absolute",),
    "parallel_attn": (),
    "use_parallel_residual": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logit_scale": (1.0,),
    "logits_scaling": (1.0,),
    "residual_multiplier": (1.0,),
    "embedding_multiplier": (1.0,),
    "attention_multiplier": (),
    "scale_embedding": (),
    "scale_attn_by_inverse_layer_idx": (),
    "is_decoder": (),
    "add_cross_attention": (),
    "tie_encoder_decoder": (),
    "pruned_heads": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "quantization_config": (),
    "embedding_size": (),
}

# Fields that say how to run, train, label or print, not what is computed.
HARMLESS = frozenset(
    """_name_or_path architectures attn_implementation _attn_implementation_autoset bos_token_id chunk_size_feed_forward classifier_dropout
    decoder_start_token_id dtype eos_token_id finetuning_task gradient_checkpointing id2label label2id initializer_range
    is_encoder_decoder model_type num_labels _num_labels output_attentions output_hidden_states output_past pad_token_id
    pretraining_tp problem_type return_dict sep_token_id task_specific_params tokenizer_class torch_dtype torchscript
    transformers_version unk_token_id use_bfloat16 use_cache transformers_weights""".split()
)


class Fields:
    """Reads a config.json and remembers which fields were read; `close` refuses what changes the mathematics and was not."""

    def __init__(self, config: Json) -> None:
        self.config = config
        self.read: set[str] = set()

    def _take(self, name: str) -> Any:
        self.read.add(name)
        return self.config.get(name)

    def integer(self, name: str, default: int | None = None, low: int = 1, high: int = 1 << 24) -> int:
        """A whole number in [low, high]; a missing or null field takes the default, or is an error when there is none."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ModelError(f"config.json: {name} is {value!r}; allowed is a whole number from {low} to {high}.")
        return value

    def number(self, name: str, default: float, low: float = 0.0, high: float = 1e12) -> float:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ModelError(f"config.json: {name} is {value!r}; allowed is a number from {low:g} to {high:g}.")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            raise ModelError(f"config.json: {name} is {value!r}; allowed is true or false.")
        return default if value is None else value

    def choice(self, name: str, default: str, allowed: dict[str, Any]) -> Any:
        """The value that `allowed` has for this word."""
        value = self._take(name)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            raise ModelError(f"config.json: {name} is {value!r}, which this family does not compute. Allowed: {', '.join(allowed)}.")
        return allowed[value]

    def record(self, name: str) -> Json:
        value = self._take(name)
        if value is not None and not isinstance(value, dict):
            raise ModelError(f"config.json: {name} is {value!r}; allowed is a table of values, or null.")
        return value or {}

    def array(self, name: str) -> list[Any]:
        value = self._take(name)
        if value is not None and not isinstance(value, list):
            raise ModelError(f"config.json: {name} is {value!r}; allowed is a list of values, or null.")
        return value or []

    def fixed(self, name: str, *allowed: Any) -> None:
        """Refuse a value that the family cannot honour: only these, and a missing or null field, mean what is computed."""
        value = self._take(name)
        if value is not None and not any(value is ok or (value == ok and not isinstance(value, bool)) for ok in allowed):
            words = ", ".join(repr(ok) for ok in allowed) or "null"
            raise ModelError(f"config.json: {name} is {value!r}. It changes what the model computes; this family computes only: {words}.")

    def labels(self) -> int:
        """How many labels a classifier has: the entries of id2label, or num_labels; 2 where neither is said."""
        names = self.record("id2label")
        count = self.integer("num_labels", len(names) or 2, high=1 << 20)
        if names and count != len(names):
            raise ModelError(f"config.json: num_labels is {count}, but id2label names {len(names)} labels. Correct one of the two.")
        return count

    def architecture(self, known: Sequence[str]) -> str:
        """Which class of the reference implementation wrote this; the first of `known` when it is not said."""
        names = self._take("architectures")
        if names in (None, []):
            return known[0]
        if not isinstance(names, list) or names[0] not in known:
            raise ModelError(f"config.json: architectures is {names!r}. This family reads {', '.join(known)}.")
        return str(names[0])

    def close(self, harmless: Collection[str] = ()) -> tuple[str, ...]:
        """The fields that nobody read and that are not known to be harmless, for `inspect` to show. Refuses those of NEUTRAL."""
        unread = []
        for name, value in self.config.items():
            if name in self.read or name in HARMLESS or name in harmless:
                continue
            if name in NEUTRAL:
                if value not in (None, False, {}, [], *NEUTRAL[name]):
                    raise ModelError(
                        f"config.json: {name} is {value!r}. It changes what the model computes and this family does not understand it, "
                        "so the model would answer differently. Only a model without it can be opened."
                    )
                continue
            unread.append(name)
        return tuple(unread)


def split_heads(width: int, heads: int, kv_heads: int, head_dim: int | None = None, even: bool = False) -> int:
    """Channels of a head. Raises ModelError when the numbers cannot go together."""
    if head_dim is None and width % heads:
        raise ModelError(f"A width of {width} cannot be cut into {heads} heads; choose a width that is a multiple of the heads.")
    channels = head_dim or width // heads
    if heads % kv_heads:
        raise ModelError(f"{heads} query heads cannot share {kv_heads} key/value heads; choose a divisor of {heads}.")
    if even and channels % 2:
        raise ModelError(f"Rotary positions turn pairs of channels, but a head has {channels}; choose a width that gives an even number.")
    return channels


def check_sizes(sizes: Sizes) -> Sizes:
    """Refuse sizes that no model can have; fill in `kv_heads`."""
    for name in ("vocab", "width", "layers", "heads", "context"):
        if getattr(sizes, name) < 1:
            raise ModelError(f"{name} is {getattr(sizes, name)}; allowed is 1 and more.")
    if not 0.0 <= sizes.dropout < 1.0:
        raise ModelError(f"dropout is {sizes.dropout}; allowed is 0 up to, not including, 1.")
    split_heads(sizes.width, sizes.heads, sizes.kv_heads or sizes.heads)
    return sizes


def no_groups(sizes: Sizes, family: str) -> None:
    if sizes.kv_heads not in (0, sizes.heads):
        raise ModelError(f"kv_heads is {sizes.kv_heads}, but {family} has one for every head ({sizes.heads}). Use 0, or the family llama.")


def gated_hidden(width: int) -> int:
    """Two thirds of 4 x width, which keeps a gated part's weights equal to a plain one's, rounded up to 32 (Shazeer 2020)."""
    return -(-8 * width // (3 * 32)) * 32
