"""A load generator for servers with OpenAI's chat API, on loopback and bounded: so many streams at once, or so many requests a second.

It reads server-sent events from plain sockets, a connection a request, so that it takes little of the machine that it shares with the
server. Of every request it keeps when its first text came, the gaps between texts, how many tokens `usage` tells, and how it ended.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WORDS = "import class return self value list index path file name data type error open read write test node key item".split()


@dataclass
class Answer:
    began: float
    status: int = 0
    first: float | None = None  # seconds to the first text
    gaps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    texts: int = 0
    error: str = ""
    retry: str | None = None

    @property
    def whole(self) -> bool:
        return self.status == 200 and not self.error


def bodies(model: str, count: int, tokens: int, words: int = 60, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Streamed chats of that many random words, each different."""
    found = []
    for number in range(count):
        draw = random.Random(seed * 1_000_003 + number)
        text = " ".join(draw.choice(WORDS) for _ in range(words))
        body = {"model": model, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens, "temperature": 0}
        found.append({**body, "messages": [{"role": "user", "content": text}], **more})
    return found


async def ask(port: int, body: dict[str, Any], path: str = "/v1/chat/completions") -> Answer:
    """One request on a connection of its own."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    answer = Answer(time.perf_counter())
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer.status = int((await reader.readline()).split()[1])
        while (line := await reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"retry-after:"):
                answer.retry = line.split(b":", 1)[1].strip().decode()
        if answer.status == 200:
            await _events(reader, answer)
        else:
            answer.error = (await reader.read(500)).decode(errors="replace")
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
        answer.error = repr(error)
    finally:
        answer.seconds = time.perf_counter() - answer.began
        if writer is not None:
            writer.close()
    return answer


async def _events(reader: asyncio.StreamReader, answer: Answer) -> None:
    last, done = None, False
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            done = True
            continue
        event = json.loads(line[6:])
        if event.get("error"):
            answer.error = str(event["error"])[:300]
        answer.tokens = (event.get("usage") or {}).get("completion_tokens") or answer.tokens
        choices = event.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        done = done or choices[0].get("finish_reason") is not None
        if not delta.get("content"):
            continue
        now = time.perf_counter()
        if last is None:
            answer.first = now - answer.began
        else:
            answer.gaps.append(now - last)
        last, answer.texts = now, answer.texts + 1
    if not done and not answer.error:
        answer.error = "cut: neither a finish_reason nor [DONE]"


async def closed(port: int, given: Sequence[dict[str, Any]], streams: int, seconds: float = 600) -> list[Answer]:
    """All of them, so many at once; none is begun after that many seconds."""
    todo, found, until = iter(given), list[Answer](), time.perf_counter() + seconds

    async def one() -> None:
        for body in todo:
            if time.perf_counter() > until:
                return
            found.append(await ask(port, body))

    await asyncio.gather(*(one() for _ in range(streams)))
    return found


async def offered(port: int, given: Sequence[dict[str, Any]], rate: float, seconds: float, seed: int = 0) -> list[Answer]:
    """So many a second on average, at the times of a Poisson process, whether the server keeps up or not."""
    draw, begun, tasks = random.Random(seed), time.perf_counter(), []
    due = 0.0
    for number in range(10**9):
        due += draw.expovariate(rate)
        if due > seconds:
            break
        await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(port, given[number % len(given)])))
    return list(await asyncio.gather(*tasks))


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@dataclass(frozen=True)
class Summary:
    whole: int
    failed: int
    rate: float  # tokens a second, from the first request to the last answer
    first: tuple[float, float]  # median and 95th of a hundred, seconds
    gap: tuple[float, float]
    refused: tuple[float, float]  # as first, of those that were told 429 or 503


def summary(answers: Sequence[Answer]) -> Summary:
    whole = [answer for answer in answers if answer.whole]
    refused = [answer.seconds for answer in answers if answer.status in (429, 503)]
    took = max(answer.began + answer.seconds for answer in answers) - min(answer.began for answer in answers)
    gaps = [gap for answer in whole for gap in answer.gaps]
    firsts = [answer.first for answer in whole if answer.first is not None]
    middle = statistics.median(firsts) if firsts else float("nan")
    return Summary(
        len(whole),
        len(answers) - len(whole),
        sum(answer.tokens or answer.texts for answer in whole) / took,
        (middle, quantile(firsts, 0.95)),
        (quantile(gaps, 0.5), quantile(gaps, 0.95)),
        (quantile(refused, 0.5), quantile(refused, 0.95)),
    )
