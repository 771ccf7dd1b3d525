"""Who owns which block of the pages: reference counts, prefixes found again by their hash, and eviction of what was used longest ago.

A full block is known by the hash of its tokens and of everything before them, so two requests that begin alike share its keys and values
(Kwon et al. 2023; Zheng et al. 2024). A block that nobody uses stays findable until its memory is wanted. `salt` keeps tenants apart: what
one has sent cannot be guessed by another from how fast an answer begins.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

Hash = bytes


def extend(hashes: list[Hash], tokens: Sequence[int], size: int, salt: bytes = b"") -> None:
    """Append the hash of every further full block of `tokens`, each over all before it."""
    last = hashes[-1] if hashes else hashlib.blake2b(salt, digest_size=16).digest()
    for start in range(len(hashes) * size, len(tokens) - size + 1, size):
        text = array("I", tokens[start : start + size]).tobytes()
        last = hashlib.blake2b(last + text, digest_size=16).digest()
        hashes.append(last)


class Blocks:
    """`count` blocks of `size` positions. A block is used (by one request or several), or free and perhaps still findable."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._uses = [0] * count
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(count))  # the longest unused first
        self._of_hash: dict[Hash, int] = {}
        self._hash_of: dict[int, Hash] = {}
        self.hits = self.evictions = 0

    @property
    def free(self) -> int:
        """Blocks that `take` can give, findable ones included."""
        return len(self._free)

    @property
    def findable(self) -> int:
        """Blocks that are known by the hash of their tokens, used or free."""
        return len(self._of_hash)

    def take(self, number: int) -> list[int] | None:
        """So many blocks for one user, or None when there are not as many. What they held is forgotten."""
        if number > len(self._free):
            return None
        taken = []
        for _ in range(number):
            block, _ = self._free.popitem(last=False)
            known = self._hash_of.pop(block, None)
            if known is not None:
                del self._of_hash[known]
                self.evictions += 1
            self._uses[block] = 1
            taken.append(block)
        return taken

    def find(self, hashes: Sequence[Hash]) -> list[int]:
        """The blocks of the longest known beginning, now used once more each."""
        found = []
        for known in hashes:
            block = self._of_hash.get(known)
            if block is None:
                break
            if self._uses[block] == 0:
                del self._free[block]
            self._uses[block] += 1
            found.append(block)
        self.hits += len(found)
        return found

    def remember(self, block: int, known: Hash) -> None:
        """A used block is full: it can be found from now on. Where another block holds the same, that one stays the one to be found."""
        if known not in self._of_hash and block not in self._hash_of:
            self._of_hash[known], self._hash_of[block] = block, known

    def give_back(self, blocks: Sequence[int]) -> None:
        """One user less for each. The last blocks of a text are evicted first: what many texts begin with lives longest."""
        for block in reversed(blocks):
            if self._uses[block] <= 0:
                raise RuntimeError(f"block {block} is given back, and nobody uses it")
            self._uses[block] -= 1
            if self._uses[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)  # nothing to be found in it: it goes first

    def forget(self) -> None:
        """Nothing can be found any more; what is used stays used."""
        self._of_hash.clear()
        self._hash_of.clear()

    def check(self, owners: Sequence[Sequence[int]]) -> None:
        """Raises RuntimeError unless the counts are those of `owners` (the blocks of every user) and nothing is lost. For tests."""
        uses = [0] * self.count
        for blocks in owners:
            for block in blocks:
                uses[block] += 1
        if uses != self._uses:
            raise RuntimeError(f"blocks are counted {self._uses} times and used {uses} times")
        if set(self._free) != {block for block in range(self.count) if uses[block] == 0}:
            raise RuntimeError("the free blocks are not those that nobody uses")
        if {block: known for known, block in self._of_hash.items()} != self._hash_of:
            raise RuntimeError("blocks and hashes do not agree")
