"""Fills a queue quickly: delayed jobs and a backlog as a producer does, dead letters as if they had been buried."""

from __future__ import annotations

import time
from collections.abc import Iterator

from millstream.protocol import transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.keys import QueueKeys
from millstream.protocol.link import Link
from millstream.protocol.transitions import MAX_ITEMS, NewJob

DAY = 24 * 3600 * 1000
ROW = b'{"n":"noop","a":4,"w":"w","s":1700000000000,"d":0.1,"c":"error","e":{"type":"ValueError","message":"no luck"}}'


def envelope(keys: QueueKeys, number: int) -> bytes:
    """What a producer sends for a job that does nothing."""
    return encode_envelope("noop", [number], {}, queue=keys.queue, enqueued_at=time.time_ns() // 1_000_000)


def new_jobs(keys: QueueKeys, prefix: str, first: int, count: int, delay: int | None = None) -> list[NewJob]:
    """So many jobs, numbered from *first*; their ids begin with *prefix*. *delay* in milliseconds."""
    numbers = range(first, first + count)
    return [
        NewJob(f"{prefix}{number}", "normal", envelope(keys, number), None if delay is None else delay + number, "")
        for number in numbers
    ]


def add(link: Link, keys: QueueKeys, prefix: str, count: int, delay: int | None = None) -> None:
    """Enqueue so many jobs, to run now or from *delay* milliseconds on, one a millisecond."""
    for first, size in _portions(count):
        link.run(transitions.enqueue(keys, new_jobs(keys, prefix, first, size, delay)))


def bury(link: Link, keys: QueueKeys, count: int) -> None:
    """Dead letters, in their place at once: to let them die would meet the cap of the queue."""
    now = time.time_ns() // 1_000_000
    for first, size in _portions(count):
        commands: list[tuple[str | bytes | int | float, ...]] = []
        for number in range(first, first + size):
            record = keys.job(f"dead{number}")
            state = ("state", "dead", "entry", "n0-0", "out", ROW, "run", 4, "attempt", 4, "crashes", 0)
            commands.append(("HSET", record, *state, "env", envelope(keys, number), "band", "normal"))
            commands.append(("PEXPIRE", record, 7 * DAY))
            commands.append(("ZADD", keys.dead, now, f"dead{number}"))
        link.execute_many(commands)


def _portions(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, MAX_ITEMS):
        yield first, min(MAX_ITEMS, count - first)
