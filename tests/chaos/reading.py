"""What the server and the producer's file say about the jobs."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, cast

import redis

from tests.chaos.checker import Acknowledged
from tests.support import leaks
from tests.support.servers import Server

PREFIX = "chaos:"
BASE = PREFIX + "{chaos}:"
GROUP = "millstream"
STREAMS = tuple(f"{BASE}stream:{name}" for name in ("again", "critical", "high", "normal", "low"))
HISTORY = 1000  # ids that the history keeps
LASTING = 100_000  # bytes that keys without an end may take together once no job is left

_STORED = """#!lua flags=no-writes,allow-oom
local sum = redis.call('ZCARD', KEYS[1])
for i = 2, #KEYS do sum = sum + redis.call('XLEN', KEYS[i]) end
return sum
"""

_DELIVERED = """#!lua flags=allow-oom
local found = {}
for _, stream in ipairs(KEYS) do
  local rows = redis.pcall('XPENDING', stream, 'millstream', 'IDLE', ARGV[2], '-', '+', 100000)
  for _, row in ipairs(rows.err and {} or rows) do
    local entry = redis.call('XRANGE', stream, row[1], row[1])[1]
    if entry and string.sub(row[2], 1, #ARGV[1]) == ARGV[1] then found[#found + 1] = entry[2] end
  end
end
return found
"""


def text(value: bytes | str) -> str:
    """What redis-py returns, whose types do not know whether it decodes."""
    return value if isinstance(value, str) else value.decode()


def stored(server: Server) -> int:
    """Jobs in streams (pending ones as well), held and due, at one moment: they move between these."""
    keys = (BASE + "due", BASE + "held", *STREAMS)
    with server.client() as client:
        return int(cast(int, client.eval(_STORED, len(keys), *keys)))


def delivered(server: Server, host: str, idle: float = 0.0) -> set[tuple[str, int]]:
    """Id and run of what the workers of a host hold, not renewed for at least `idle` seconds."""
    with server.client() as client:
        found: Any = client.eval(_DELIVERED, len(STREAMS), *STREAMS, host + "-", int(idle * 1000))
    return {_delivery({text(key): text(value) for key, value in zip(f[::2], f[1::2], strict=True)}) for f in found}


def _delivery(fields: dict[str, str]) -> tuple[str, int]:
    return fields.get("id", ""), int(fields.get("run", 1))


def counters(server: Server) -> dict[str, int]:
    """The queue's counters."""
    with server.client() as client:
        return {text(key): int(value) for key, value in client.hgetall(BASE + "stats").items()}


def states(server: Server) -> dict[str, str]:
    """The state of every job that has a record."""
    with server.client() as client:
        found = [text(key) for key in client.scan_iter(match=BASE + "job:*", count=1000)]
        return {name: state for name, (state, _) in ends(client, [key[len(BASE) + 4 :] for key in found]).items()}


def ends(client: redis.Redis, names: list[str]) -> dict[str, tuple[str, str]]:
    """State and last outcome of these jobs, of those that have a record."""
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(f"{BASE}job:{name}", "state", "out")
        replies = pipe.execute()
    rows = {name: (text(row[0] or b""), text(row[1] or b"")) for name, row in zip(names, replies, strict=True)}
    return {name: row for name, row in rows.items() if row[0]}


def dead(client: redis.Redis) -> list[str]:
    """The ids in the list of dead letters."""
    found: Any = client.zrange(BASE + "dead", 0, -1)
    return [text(name) for name in found]


def lengths(server: Server) -> dict[str, int]:
    """How many entries each stream has, and `due`."""
    with server.client() as client:
        found = {key.rpartition(":")[2]: int(client.xlen(key)) for key in STREAMS}
        return {**found, "due": int(client.zcard(BASE + "due"))}


def ids(path: Path) -> tuple[dict[str, str], dict[str, Acknowledged]]:
    """The ids that were tried, and those that were acknowledged, each with its kind of job."""
    tried: dict[str, str] = {}
    acknowledged: dict[str, Acknowledged] = {}
    for line in path.read_text().splitlines():
        what, job_id, kind, at = line.split()
        if what == "tried":
            tried[job_id] = kind
        else:
            acknowledged[job_id] = Acknowledged(kind, int(at))
    return tried, acknowledged


# --- what is left when no job is stored any more


def consumers(server: Server) -> set[str]:
    """The consumers of all streams."""
    found: set[str] = set()
    with server.client() as client:
        for stream in STREAMS:
            with contextlib.suppress(redis.ResponseError):  # no such stream: nobody ever joined
                found |= {text(row["name"]) for row in client.xinfo_consumers(stream, GROUP)}
    return found


def leftovers(server: Server, orphans: set[str]) -> list[str]:
    """What should not be there once every job has ended and every host has left; records of *orphans* may be."""
    spared = {f"{BASE}job:{name}: no TTL" for name in orphans}
    with server.client() as client:
        found = leaks.key_leaks(client, prefix=re.compile("^" + PREFIX))
        problems = [leak for leak in found if leak not in spared and not leak.startswith(BASE + "dead: holds")]
        problems += [f"host {text(name)} is still registered" for name in client.hkeys(PREFIX + "hosts")]
        if int(client.llen(BASE + "history")) > HISTORY:
            problems.append(f"the history has {client.llen(BASE + 'history')} ids")
        buried = set(dead(client))
        ended = {name for name, state in states(server).items() if state == "dead"}
        problems += [f"{name}: dead, and not in the list of dead letters" for name in sorted(ended - buried)]
        problems += [f"{name}: in the list of dead letters, and not dead" for name in sorted(buried - ended)]
        lasting = {text(key): _size(client, key) for key in client.scan_iter(count=1000) if client.ttl(key) == -1}
    lasting = {key: size for key, size in lasting.items() if not key.startswith((BASE + "dead", BASE + "job:"))}
    if sum(lasting.values()) > LASTING:
        problems.append(f"keys without an end take {sum(lasting.values())} bytes: {lasting}")
    return problems


def _size(client: redis.Redis, key: bytes | str) -> int:
    return int(client.memory_usage(key, samples=0) or 0)
