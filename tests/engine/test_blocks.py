"""Whoever takes, finds and gives back blocks in whatever order: the counts are right, and what is found is what was remembered."""

from __future__ import annotations

import random

import pytest

from quire.engine.blocks import Blocks, extend


def hashes(tokens: list[int], size: int = 4, salt: bytes = b"") -> list[bytes]:
    found: list[bytes] = []
    extend(found, tokens, size, salt)
    return found


def test_a_hash_stands_for_everything_before_it() -> None:
    base = hashes([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert len(base) == 2  # the ninth token fills no block
    assert hashes([1, 2, 3, 4, 5, 6, 7, 8]) == base
    assert hashes([1, 2, 3, 4, 5, 6, 7, 9])[0] == base[0] != base[1]
    assert hashes([0, 2, 3, 4, 5, 6, 7, 8])[1] != base[1]
    assert not set(hashes([1, 2, 3, 4, 5, 6, 7, 8], salt=b"other")) & set(base)
    longer = list(base)
    extend(longer, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 4)
    assert longer == hashes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])


def test_what_is_given_back_can_be_found_until_its_memory_is_wanted() -> None:
    blocks, known = Blocks(3, 4), hashes(list(range(8)))
    taken = blocks.take(2)
    assert taken == [0, 1]
    for block, name in zip(taken, known, strict=True):
        blocks.remember(block, name)
    blocks.give_back(taken)
    assert blocks.free == 3 and blocks.findable == 2
    assert blocks.find(known) == [0, 1] and blocks.free == 1
    assert blocks.find(known[:1]) == [0]  # a second user
    blocks.give_back([0, 1])
    blocks.check([[0]])
    assert blocks.take(3) is None
    assert blocks.take(2) == [2, 1]  # the one with nothing in it goes first
    assert blocks.evictions == 1 and blocks.find(known) == [0]  # only the beginning is left, used twice


def test_giving_back_what_nobody_uses_is_an_error() -> None:
    blocks = Blocks(2, 4)
    with pytest.raises(RuntimeError, match="block 1 is given back, and nobody uses it"):
        blocks.give_back([1])


@pytest.mark.parametrize("seed", range(20))
def test_random_users(seed: int) -> None:
    draw, blocks = random.Random(seed), Blocks(11, 2)
    users: list[tuple[list[int], list[bytes], int]] = []  # blocks, hashes of their text, how many are remembered
    for _ in range(300):
        if users and draw.random() < 0.4:
            owned, _, _ = users.pop(draw.randrange(len(users)))
            blocks.give_back(owned)
        else:
            text = [draw.randrange(2) for _ in range(draw.randrange(1, 10))]
            names = hashes(text, 2)
            found = blocks.find(names)
            assert len(found) <= len(names)
            more = blocks.take(len(names) - len(found))
            if more is None:
                blocks.give_back(found)
            else:
                owned = [*found, *more]
                for block, name in zip(owned, names, strict=True):
                    if draw.random() < 0.8:
                        blocks.remember(block, name)
                    else:
                        break
                users.append((owned, names, 0))
        blocks.check([owned for owned, _, _ in users])
    for owned, _, _ in users:
        blocks.give_back(owned)
    blocks.check([])
    assert blocks.free == 11
