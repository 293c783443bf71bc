"""What the server and the producer's file say about the jobs."""

from __future__ import annotations

from pathlib import Path

from tests.support.servers import Server

PREFIX = "chaos:"
BASE = PREFIX + "{chaos}:"
STREAMS = tuple(f"{BASE}stream:{name}" for name in ("again", "critical", "high", "normal", "low"))


def text(value: bytes | str) -> str:
    """What redis-py returns, whose types do not know whether it decodes."""
    return value if isinstance(value, str) else value.decode()


def stored(server: Server) -> int:
    """Jobs in streams (pending ones as well), held and due, at one moment: they move between these."""
    with server.client() as client, client.pipeline(transaction=True) as pipe:
        for key in (*STREAMS, BASE + "held"):
            pipe.xlen(key)
        pipe.zcard(BASE + "due")
        return sum(int(length) for length in pipe.execute())


def counters(server: Server) -> dict[str, int]:
    """The queue's counters."""
    with server.client() as client:
        return {text(key): int(value) for key, value in client.hgetall(BASE + "stats").items()}


def states(server: Server) -> dict[str, str]:
    """The state of every job that has a record."""
    found = {}
    with server.client() as client:
        for key in client.scan_iter(match=BASE + "job:*", count=1000):
            found[text(key).removeprefix(BASE + "job:")] = text(client.hget(key, "state") or "")
    return found


def lengths(server: Server) -> dict[str, int]:
    """How many entries each stream has, and `due`."""
    with server.client() as client:
        found = {key.rpartition(":")[2]: int(client.xlen(key)) for key in STREAMS}
        return {**found, "due": int(client.zcard(BASE + "due"))}


def ids(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The ids that were tried, and those that were acknowledged, each with its kind of job."""
    found: dict[str, dict[str, str]] = {"tried": {}, "acknowledged": {}}
    for line in path.read_text().splitlines():
        what, job_id, kind = line.split()
        found[what][job_id] = kind
    return found["tried"], found["acknowledged"]
