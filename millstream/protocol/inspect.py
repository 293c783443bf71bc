"""Bounded reads for people and dashboards: how full queues are, which jobs are where, which hosts live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from millstream.protocol.call import Call
from millstream.protocol.keys import STREAMS, Keys, QueueKeys
from millstream.protocol.limits import NO_LIMIT, Limit
from millstream.protocol.runner import Runner
from millstream.protocol.scripts import script
from millstream.protocol.transitions import all_keys

_OUTCOMES = {"retry": "retried", "crash": "crashed", "release": "released"}
"""What users call the outcomes that the scripts count by their kind."""


@dataclass(frozen=True)
class Survey:
    """How many jobs of one queue are where, at one instant of the server.

    ``waiting`` is ready to run, held by a pause, or parked: in a room, because of a limit, a paused name or a key.
    ``gated`` of the parked ones wait for a limit. ``streams`` is what was not delivered yet, per stream.
    ``due`` counts scheduled and retrying jobs. ``oldest`` is the age in seconds of the job that waits
    longest, ``next_due`` the seconds until the next job is due (not below 0); None where there is none.
    """

    queue: str
    tag: str | None
    paused: bool
    resuming: bool
    waiting: int
    running: int
    held: int
    due: int
    dead: int
    oldest: float | None
    next_due: float | None
    streams: dict[str, int]
    counters: dict[str, int]
    parked: int = 0
    gated: int = 0
    limit: Limit = NO_LIMIT
    paused_jobs: tuple[str, ...] = ()

    @property
    def startable(self) -> int:
        """How many of the waiting jobs more workers would start."""
        gated = self.gated
        if self.limit.concurrency is not None:
            gated = min(gated, max(0, self.limit.concurrency - self.running))
        return sum(self.streams.values()) + self.held + gated

    def to_dict(self) -> dict[str, Any]:
        """As the command line and the API print it."""
        return {**vars(self), "limit": self.limit.to_dict(), "paused_jobs": list(self.paused_jobs)}


class Browsed(NamedTuple):
    """One page of ids of a place; ``position`` is "" at the end."""

    position: str
    ids: list[str]


def survey(keys: QueueKeys) -> Call[Survey]:
    """Count the jobs of one queue."""
    return Call(script("survey"), all_keys(keys), (), lambda reply: _parse_survey(keys, reply))


def browse(
    keys: QueueKeys, place: str, position: str = "", count: int = 100, *, name: str | None = None
) -> Call[Browsed]:
    """The ids of the jobs in one *place*: running, queued, due, dead, history or finished.

    *name* tells only for ``finished``: the jobs of this name; it does nothing elsewhere.
    """
    return Call(
        script("browse"),
        all_keys(keys),
        (place, position, count, name or ""),
        lambda reply: Browsed(reply[0].decode(), [job_id.decode(errors="replace") for job_id in reply[1]]),
    )


def _parse_survey(keys: QueueKeys, reply: list[Any]) -> Survey:
    now, paused, lengths, pendings, held, due, dead, oldest, next_due, counters, (parked, gated), switches = reply
    streams = {name: max(0, length - pending) for name, length, pending in zip(STREAMS, lengths, pendings, strict=True)}
    return Survey(
        queue=keys.queue,
        tag=keys.tag,
        paused=paused != b"",
        resuming=paused == b"resuming",
        waiting=sum(streams.values()) + held + parked,
        running=sum(pendings),
        held=held,
        due=due,
        dead=dead,
        oldest=max(0, now - oldest) / 1000 if oldest >= 0 else None,
        next_due=max(0, next_due - now) / 1000 if next_due >= 0 else None,
        streams=streams,
        counters=_parse_counters(counters),
        parked=parked,
        gated=gated,
        limit=Limit.parse(*switches[:3]),
        paused_jobs=_names(switches[3]),
    )


def _names(text: bytes | None) -> tuple[str, ...]:
    return tuple(sorted((text or b"").decode(errors="replace").split()))


def _parse_counters(flat: list[bytes]) -> dict[str, int]:
    names = (name.decode(errors="replace") for name in flat[::2])
    return {_OUTCOMES.get(name, name): int(count) for name, count in zip(names, flat[1::2], strict=True)}


def known_queues(runner: Runner, keys: Keys) -> list[QueueKeys]:
    """Every queue that was ever used, sorted by name. Raises :class:`Unavailable`."""
    members = sorted(member.decode(errors="replace") for member in runner.execute("SMEMBERS", keys.queues))
    split = (member.partition("@") for member in members)
    return [keys.queue(name, tag or None) for name, _, tag in split]


def surveys(runner: Runner, queues: Sequence[QueueKeys]) -> list[Survey]:
    """Count the jobs of several queues, in one round trip. Raises :class:`Unavailable`."""
    return runner.run_many([survey(keys) for keys in queues])


@dataclass(frozen=True)
class Host:
    """One supervisor by its last heartbeat; ``age`` in seconds. It is ``alive`` until its lease expires."""

    name: str
    age: float
    alive: bool
    heartbeat: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The heartbeat, with ``age`` and ``alive``."""
        return {**self.heartbeat, "name": self.name, "age": self.age, "alive": self.alive}


def hosts(runner: Runner, keys: Keys) -> list[Host]:
    """Every supervisor that left a heartbeat, by name. Raises :class:`Unavailable`."""
    flat = runner.execute("HGETALL", keys.hosts)
    clock = runner.execute("TIME")
    now = int(clock[0]) * 1000 + int(clock[1]) // 1000
    found = [_parse_host(name, beat, now) for name, beat in zip(flat[::2], flat[1::2], strict=True)]
    return sorted((host for host in found if host), key=lambda host: host.name)


def _parse_host(name: bytes, text: bytes, now: int) -> Host | None:
    try:
        heartbeat = orjson.loads(text)
        age = max(0, now - int(heartbeat["at"])) / 1000
        return Host(name.decode(errors="replace"), age, age <= float(heartbeat["lease"]), heartbeat)
    except (ValueError, TypeError, KeyError):
        return None  # not ours, or of a version whose heartbeats look different
