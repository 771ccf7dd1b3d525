"""What a model is, in words: every family and every variant fits a terminal; what layers differ in is told by the layers."""

from __future__ import annotations

import json

import pytest

from quire.cli.shape import numbers, shape, words
from quire.families import FAMILIES

CONFIGS = [
    pytest.param(family, config, id=f"{name}-{number}")
    for name, family in FAMILIES.items()
    for number, config in enumerate((family.tiny, *({**family.tiny, **variant} for variant in family.variants)))
]


@pytest.mark.parametrize(("family", "config"), CONFIGS)
def test_every_family_fits_beside_a_title_on_80_columns(family, config):
    built = family.build(config)
    facts = shape(built)
    lines = words(json.loads(json.dumps(facts)))
    assert max(map(len, lines)) <= 67 and len(lines) <= 20
    told = "\n".join(lines)
    for stack in filter(None, (built.encoder, built.decoder)):
        for layer in stack.layers:
            assert f"{layer.attn.heads} heads" in told
            if layer.attn.window:
                assert f"window of {layer.attn.window:,} tokens" in told
            if layer.attn.rope and layer.attn.rope.scaling:
                assert f"{type(layer.attn.rope.scaling).__name__.lower()} scaling" in told
        if stack.order:
            assert f"used {len(stack.order)} times" in told
        if stack.alibi:
            assert "ALiBi" in told


def told(name: str) -> str:
    return "\n".join(words(shape(FAMILIES[name].build(FAMILIES[name].tiny))))


def test_layers_that_differ_are_told_by_their_numbers():
    assert "layer 1: window of 4 tokens" in told("gemma2") and "layer 2: no window" in told("gemma2")
    assert "layer 1: attention without a norm" in told("modernbert")
    assert "layer 1" not in told("llama")


def test_experts_and_shared_layers():
    assert "4 experts, 2 a token, each 48 gated silu" in told("mixtral")
    assert "1 layer of weights used 3 times" in told("albert") and "(embedding 12)" in told("albert")


@pytest.mark.parametrize(
    ("which", "shown"),
    [
        ([1], "1"),
        ([1, 2], "1-2"),
        ([1, 2, 3, 5], "1-3, 5"),
        ([1, 3, 5, 7], "1, 3 ... 7"),
        ([6, 12, 18, 24], "6, 12 ... 24"),
        ([1, 4], "1, 4"),
    ],
)
def test_numbers_of_layers_are_short(which, shown):
    assert numbers(which) == shown
