"""What a test may leave behind: the listed keys, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import redis

PREFIX = re.compile(r"^t[0-9a-f]{8}:")

# Untagged keys, by what follows the prefix.
ALLOWED_GLOBAL = frozenset({"queues", "hosts", "schema"})

# Keys of a queue, by what follows "{tag}queue:"; they stay for the queue's life and are bounded.
ALLOWED_OF_QUEUE = frozenset({"meta", "stats", "enqueued", "history", "owners", "events", "control", "gate"})

# Keys of a queue that may exist but hold nothing once every job has ended.
EMPTY = re.compile(r"^(stream:(again|critical|high|normal|low)|due|dead|held|waiting|parked|rooms|room:.+|key:.+)$")

# Keys that end by themselves: they must have a TTL.
EXPIRING = re.compile(r"^(job:.+|wait:.+|stats:.+|history:.+)$")

# Locks: whoever held one has ended, and every end frees it.
LOCK = re.compile(r"^unique:.+$")

FILES_ALLOWED = (".coverage",)  # beginnings of names


def key_leaks(client: redis.Redis, leaves_jobs: bool = False, prefix: re.Pattern[str] = PREFIX) -> list[str]:
    """Describe each key of the server that no test may leave behind.

    With `leaves_jobs` the keys that hold jobs and records may hold them and need no TTL.
    """
    return [text for key in _keys(client) if (text := _leak(client, key, leaves_jobs, prefix))]


def _keys(client: redis.Redis) -> Iterator[str]:
    for key in client.scan_iter(count=1000):
        yield key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _leak(client: redis.Redis, key: str, leaves_jobs: bool, prefix: re.Pattern[str]) -> str | None:
    own = prefix.match(key)
    if own is None:
        return f"{key}: outside of the test's prefix"
    rest = key[own.end() :]
    if rest in ALLOWED_GLOBAL:
        return None
    part = re.sub(r"^\{[^}]*\}[^:]*:", "", rest)
    if LOCK.match(part):
        return f"{key}: no TTL" if client.ttl(key) == -1 else None if leaves_jobs else f"{key}: a lock that is held"
    if part == rest or not (part in ALLOWED_OF_QUEUE or EMPTY.match(part) or EXPIRING.match(part)):
        return f"{key}: not in the list of keys"
    if part in ALLOWED_OF_QUEUE or leaves_jobs:
        return None
    if EXPIRING.match(part):
        return None if client.ttl(key) != -1 else f"{key}: no TTL"
    return _holds(client, key)


def _holds(client: redis.Redis, key: str) -> str | None:
    kind = client.type(key)
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind == "none" or (kind == "stream" and client.xlen(key) == 0):
        pending = _pending(client, key) if kind == "stream" else 0
        return f"{key}: {pending} pending" if pending else None
    size = {"stream": client.xlen, "zset": client.zcard, "hash": client.hlen, "set": client.scard, "list": client.llen}[
        kind
    ](key)
    return f"{key}: holds {size}"


def _pending(client: redis.Redis, key: str) -> int:
    return sum(int(group["pending"]) for group in client.xinfo_groups(key))


def files(folder: Path) -> set[str]:
    """Names in the folder that no test may leave there."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(FILES_ALLOWED)}
