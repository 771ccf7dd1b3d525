"""What a model's stacks are made of, in words and as JSON: what all layers share once, and only what differs by the layers it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..nn.config import FFN, Attn, Conv, Head, Layer, ModelConfig, MoE, Rope, Scaling, Stack


_WITHOUT = {"window": "no window"}  # what a layer is said to be that lacks an aspect of others


def shape(config: ModelConfig) -> dict[str, Any]:
    """Every record of the model, as JSON; `words` says the same to people."""
    stacks = {name: stack(part) for name, part in (("encoder", config.encoder), ("decoder", config.decoder)) if part is not None}
    return {
        "width": config.width,
        "vocabulary": config.vocab,
        "context": config.context,
        **({"embedding_width": config.embed_width} if config.embed_width else {}),
        **stacks,
        "head": type(config.head).__name__ if config.head is not None else None,
        "head_is": head(config.head),
        "tied": getattr(config.head, "tied", None),
    }


def stack(part: Stack) -> dict[str, Any]:
    """The first layer's figures, whether all layers are like it, what is common to all and what only some have."""
    layer = part.layers[0]
    ffn, experts = _parts(layer.ffn)
    common, different = aspects(part.layers)
    return {
        "layers": len(part.order) or len(part.layers),
        "own_weights": len(part.layers),
        "alike": not different,
        "heads": layer.attn.heads,
        "kv_heads": layer.attn.kv_heads,
        "head_dim": layer.attn.head_dim,
        "feed_forward": ffn.hidden,
        "activation": f"gated {ffn.act}" if ffn.gated else ffn.act,
        **({"experts": {"count": experts.experts, "a_token": experts.top, "normalised": experts.normalise}} if experts else {}),
        "norm": f"{layer.norm.kind}, {layer.wiring}",
        "common": common,
        "different": [{"layers": [i + 1 for i in which], "have": what} for which, what in different],
        "beside": _beside(part),
        "first_layer": asdict(layer),
    }


def aspects(layers: Sequence[Layer]) -> tuple[list[str], list[tuple[list[int], list[str]]]]:
    """(what every layer is, [(layers, what only these are)]), each aspect in words."""
    told = [_layer(layer) for layer in layers]
    names = list(dict.fromkeys(name for one in told for name in one))
    same = [name for name in names if len({one.get(name, "") for one in told}) == 1]
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, one in enumerate(told):
        groups.setdefault(tuple(one.get(name, _WITHOUT.get(name, "")) for name in names if name not in same), []).append(number)
    return [told[0][name] for name in same], [(which, list(filter(None, what))) for what, which in groups.items()] if len(
        groups
    ) > 1 else []


def _layer(layer: Layer) -> dict[str, str]:
    """aspect -> words; an aspect that is as usual is left out."""
    attn, told = layer.attn, dict[str, str]()
    groups = f" ({attn.kv_heads} key/value)" if attn.kv_heads != attn.heads else ""
    told["heads"] = f"{attn.heads} heads{groups} of {attn.head_dim}"
    told["feed forward"] = _feed_forward(layer.ffn)
    told["norm"] = f"norm {layer.norm.kind}, {layer.wiring}" + (f", weights around {layer.norm.offset:g}" if layer.norm.offset else "")
    if layer.bare:
        told["bare"] = "attention without a norm"
    told |= {name: words for name, words in _attention(attn).items() if words}
    if layer.cross is not None:
        told["cross"] = f"reads the encoder with {layer.cross.heads} heads"
    return told


def _attention(attn: Attn) -> dict[str, str]:
    turned = attn.disentangled
    sides = [name for name, on in (("key", turned.key), ("query", turned.query)) if on] if turned else []
    return {
        "window": f"window of {attn.window:,} tokens" if attn.window else "",
        "rope": rope(attn.rope, attn.head_dim) if attn.rope else "",
        "scaling": _scaling(attn.rope.scaling) if attn.rope and attn.rope.scaling else "",
        "scale": f"scores times {attn.scale:.4g}" if attn.scale is not None else "",
        "softcap": f"scores capped at {attn.softcap:g}" if attn.softcap else "",
        "qk": f"{attn.norm.norm.kind} norm of queries and keys" + (" over all heads" if attn.norm.whole else "") if attn.norm else "",
        "clip": f"queries, keys and values cut at {attn.clip:g}" if attn.clip else "",
        "disentangled": f"weighs distance against {' and '.join(sides)}" if sides else "",
    }


def _parts(ffn: FFN | MoE) -> tuple[FFN, MoE | None]:
    from ..nn.config import MoE

    return (ffn.expert, ffn) if isinstance(ffn, MoE) else (ffn, None)


def _feed_forward(ffn: FFN | MoE) -> str:
    part, experts = _parts(ffn)
    words = f"{part.hidden} {'gated ' if part.gated else ''}{part.act}"
    return f"{experts.experts} experts, {experts.top} a token, each {words}" if experts else f"feed forward {words}"


def rope(turns: Rope, head_dim: int) -> str:
    part = f", {turns.channels} of {head_dim} channels" if turns.channels and turns.channels != head_dim else ""
    return f"rotary, base {turns.theta:,.10g}{part}"


def _scaling(scaling: Scaling) -> str:
    from ..nn.config import LongRope

    name = type(scaling).__name__.lower()
    original = getattr(scaling, "original", None)
    by = f"{name} scaling" if isinstance(scaling, LongRope) else f"{name} scaling x{scaling.factor:g}"
    return by + (f" from {original:,} positions" if original else "")


def positions(part: Stack) -> list[str]:
    """How a stack knows where a token stands, beside rotary positions: they are told with the layers, which may differ in them."""
    found = []
    if part.positions:
        found.append(f"positions {'sinusoids' if part.sinusoid else 'learned'}, {part.positions:,}")
    elif part.sinusoid:
        found.append("positions sinusoids")
    if part.relative:
        found.append(f"positions relative, {part.relative.buckets} buckets up to {part.relative.max_distance}")
    if part.distances:
        found.append(f"positions distances up to {part.distances.furthest or part.distances.span:,}, disentangled")
    if part.alibi:
        found.append("positions ALiBi slopes")
    return found


def _beside(part: Stack) -> list[str]:
    """What stands around the layers."""
    found = positions(part)
    if part.order:
        found.append(f"{len(part.layers)} layer{'s' * (len(part.layers) != 1)} of weights used {len(part.order)} times")
    if part.types:
        found.append(f"{part.types} token types")
    if part.embed_norm:
        found.append("norm of the embedding")
    if part.conv:
        found.append(_conv(part.conv))
    return found


def _conv(conv: Conv) -> str:
    return f"a convolution over {conv.kernel} tokens beside the first layer"


def head(found: Head | None) -> str:
    """'the next token, tied to the embedding', '3 labels of a text, from its first token' ..."""
    from ..nn.config import LabelHead, LMHead, MLMHead

    if found is None:
        return "none: hidden states"
    if isinstance(found, LMHead):
        cap = f", capped at {found.softcap:g}" if found.softcap else ""
        return ("words, tied to the embedding" if found.tied else "words, weights of its own") + cap
    if isinstance(found, MLMHead):
        return "masked words" + (" and the next sentence" if found.next_sentence else "")
    if isinstance(found, LabelHead):
        over = {"row": "a text", "token": "every token", "span": "where an answer begins and ends", "next": "whether a text follows"}
        pool = {"first": "its first token", "mean": "the mean of its tokens", "last": "its last token", "eos": "its end token"}
        pooled = f", from {pool[found.pool]}" if found.over in ("row", "next") else ""
        return f"{found.labels} label{'s' * (found.labels != 1)} of {over[found.over]}{pooled}"
    return "a summary of the first token"


# -- for people ----------------------------------------------------------------------------------------------------------------------


def words(found: dict[str, Any]) -> list[str]:
    rows = []
    for name in ("encoder", "decoder"):
        if name not in found:
            continue
        s = found[name]
        rows += wrapped(f"{name}: {s['layers']} layers, ", [*s["common"], *s["beside"]])
        for one in s["different"]:
            rows += wrapped(
                f"  {'layers' if len(one['layers']) > 1 else 'layer'} {numbers(one['layers'])}: ", one["have"] or ["without it"]
            )
    narrow = f" (embedding {found['embedding_width']})" if "embedding_width" in found else ""
    rows.append(f"width {found['width']}{narrow}, vocabulary {found['vocabulary']:,}, context {found['context']:,}")
    return [*rows, f"head: {found['head_is']}"]


def wrapped(start: str, parts: Sequence[str], columns: int = 64) -> list[str]:
    """Parts with commas between them, in lines that fit beside the titles on 80 columns."""
    rows = [start]
    for number, part in enumerate(parts):
        part += "," if number + 1 < len(parts) else ""
        if rows[-1] != start and len(rows[-1]) + len(part) + 1 > columns:
            rows[-1] = rows[-1].rstrip()
            rows.append(" " * (len(start) - len(start.lstrip()) + 2) + part)
        else:
            rows[-1] += ("" if not rows[-1] or rows[-1].endswith(" ") else " ") + part
    return rows


def numbers(which: Sequence[int]) -> str:
    """[1, 2, 3, 5] -> '1-3, 5'; [1, 3, 5, 7, 9] -> '1, 3 ... 9'."""
    steps = {b - a for a, b in pairwise(which)}
    if len(which) > 3 and len(steps) == 1 and steps != {1}:
        return f"{which[0]}, {which[1]} ... {which[-1]}"
    runs: list[list[int]] = []
    for number in which:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
