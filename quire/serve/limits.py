"""How much a key may ask for: requests a minute, tokens a minute, tokens of one prompt, requests on their way at once.

Requests are counted in a moving window, exactly. Tokens are counted in two weighted windows, whose size does not grow with the limit.
What an answer takes is known at its end, so tokens are charged then: a key whose window is full is refused, and what it used beyond it is a
debt that is paid out of its next minutes before anything new is accepted. In the long run nobody gets more than the limit.

Counts are kept here, or in a Redis that several servers share. When that does not answer, this server counts alone until it does: then the
limit holds for each server, and the log says so. Requests at once are counted by each server for itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from ..errors import ExtraError, RecipeError
from .errors import Refused
from .keys import Key, Limit

log = logging.getLogger("quire.serve")
T = TypeVar("T")

_PATIENCE = 0.25  # seconds that a Redis may take to answer; it takes one or two thousandths
_ALONE = 5.0  # seconds after which a Redis that did not answer is asked again


class Limits:
    """everyone: limits of keys that have none of their own. url: of a Redis, `redis://[:PASSWORD@]HOST:PORT[/DB]`; None: count here."""

    def __init__(self, everyone: Limit | None = None, url: str | None = None) -> None:
        self.everyone = everyone or Limit()
        self._here = _Counts(MemoryStorage())
        self._shared = None if url is None else _Counts(_redis(url))
        self._until = 0.0  # until then Redis is not asked
        self._open: defaultdict[str, int] = defaultdict(int)
        self._debts: defaultdict[str, int] = defaultdict(int)
        self._paying: set[asyncio.Task[None]] = set()

    def of(self, key: Key) -> Limit:
        return key.limit.over(self.everyone)

    async def enter(self, key: Key, headers: dict[str, str]) -> Callable[[int], None]:
        """Counts one request. Returns what is called once with the tokens it took, when it has ended. Raises Refused (429).

        headers: those of the answer, to which is added how much is left.
        """
        limit = self.of(key)
        if limit.at_once is not None and self._open[key.name] >= limit.at_once:
            message = f"this key has {self._open[key.name]} requests on their way and may have {limit.at_once}. Wait for one of them."
            raise Refused(429, message, "rate_limit_error", code="too_many_at_once", retry=1)
        self._open[key.name] += 1  # before anything is awaited, so that several at once cannot pass together
        try:
            if limit.tokens is not None:
                await self._have_tokens(key.name, limit.tokens, headers)
            if limit.requests is not None:
                await self._one_more(key.name, limit.requests, headers)
        except BaseException:
            self._leave(key.name)
            raise

        def leave(tokens: int) -> None:
            self._leave(key.name)
            if limit.tokens is not None and tokens:
                self._debts[key.name] += tokens
                task = asyncio.get_running_loop().create_task(self._pay(key.name, limit.tokens))
                self._paying.add(task)
                task.add_done_callback(self._paying.discard)

        return leave

    async def stop(self) -> None:
        """Charges what has ended, and closes the connections."""
        await asyncio.gather(*self._paying)
        if self._shared is not None:
            client: Any = self._shared.storage.bridge.storage
            await client.aclose()

    def _leave(self, name: str) -> None:
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

    async def _one_more(self, name: str, most: int, headers: dict[str, str]) -> None:
        item = RateLimitItemPerMinute(most)
        passed = await self._ask(lambda counts: counts.requests.hit(item, "requests", name))
        left, reset = await self._left(lambda counts: counts.requests, item, "requests", name)
        _tell(headers, "requests", most, left, reset)
        if not passed:
            message = f"this key may send {most} requests a minute, and has. Try again in {math.ceil(reset)} s."
            raise Refused(429, message, "rate_limit_error", code="rate_limit_exceeded", retry=reset)

    async def _have_tokens(self, name: str, most: int, headers: dict[str, str]) -> None:
        await self._pay(name, most)
        left, reset = await self._left(lambda counts: counts.tokens, RateLimitItemPerMinute(most), "tokens", name)
        debt = self._debts.get(name, 0)
        if debt:
            left, reset = 0, max(1.0, reset)
        _tell(headers, "tokens", most, left, reset)
        if not left:
            message = f"this key may use {most:,} tokens a minute, and has. Try again in {math.ceil(reset)} s."
            raise Refused(429, message, "rate_limit_error", code="rate_limit_exceeded", retry=reset)

    async def _pay(self, name: str, most: int) -> None:
        """Charges what is owed, as far as the window has room."""
        item = RateLimitItemPerMinute(most)
        while (owed := self._debts.get(name, 0)) > 0:
            left, _ = await self._left(lambda counts: counts.tokens, item, "tokens", name)
            part = min(owed, left, self._debts.get(name, 0))
            if part <= 0:
                return
            self._debts[name] -= part  # before it is awaited: two that pay at once must not pay the same
            if not await self._ask(lambda counts, part=part: counts.tokens.hit(item, "tokens", name, cost=part)):  # type: ignore[misc]
                self._debts[name] += part
                return
        self._debts.pop(name, None)

    async def _left(self, which: Callable[[_Counts], RateLimiter], item: RateLimitItem, *names: str) -> tuple[int, float]:
        """How many are left, and seconds until there are more."""
        stats = await self._ask(lambda counts: which(counts).get_window_stats(item, *names))
        return max(0, int(stats.remaining)), min(60.0, max(0.0, stats.reset_time - time.time()))

    async def _ask(self, what: Callable[[_Counts], Any]) -> Any:
        """From the counts that several share, or from ours while those do not answer."""
        if self._shared is not None and time.monotonic() >= self._until:
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await what(self._shared)
            except Exception as error:
                self._until = time.monotonic() + _ALONE
                log.error("the shared limits do not answer; this server counts alone", extra={"reason": type(error).__name__})
        return await what(self._here)


class _Counts:
    """Both windows over one place where counts are kept."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.requests = MovingWindowRateLimiter(storage)
        self.tokens = SlidingWindowCounterRateLimiter(storage)


def _redis(url: str) -> Storage:
    if not url.startswith(("redis://", "rediss://", "redis+unix://")):
        raise RecipeError(f"--limits is {url.split('@')[-1]!r}; allowed: redis://HOST:PORT/DB, rediss://... or redis+unix:///PATH.")
    try:
        import redis  # noqa: F401
    except ImportError as error:
        raise ExtraError("redis", "redis", "limits that several servers share") from error
    return RedisStorage(f"async+{url}", implementation="redispy", key_prefix="quire")


def _tell(headers: dict[str, str], what: str, most: int, left: int, reset: float) -> None:
    """As OpenAI's API tells it."""
    headers[f"x-ratelimit-limit-{what}"] = str(most)
    headers[f"x-ratelimit-remaining-{what}"] = str(left)
    headers[f"x-ratelimit-reset-{what}"] = f"{reset:.3g}s"
