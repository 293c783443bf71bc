"""What is known of the queues and of other hosts, for metrics and health checks, in a small file.

The web child reads the file, so that a scrape never waits for Redis, and Redis is asked at the same pace however many
ask us.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog

from millstream.protocol.errors import MillstreamError
from millstream.protocol.inspect import Host, hosts, known_queues, survey
from millstream.protocol.keys import QueueKeys
from millstream.protocol.link import Link
from millstream.supervisor.maintenance.counting import Uncounted
from millstream.supervisor.plan import Plan
from millstream.worker.metrics import ARRIVALS, UNKNOWN
from millstream.worker.names import read_names

log = structlog.get_logger("millstream.maintenance")

EVERY = 3.0
"""Seconds between two collections."""

AT_ONCE = 25
"""Queues that are counted in one round trip."""

MOST = 1000
"""Queues that are counted at all: our own first."""

FILE = "facts.json"


class Collector:
    """Collects again and again; no other duty is to suffer for a disk that is full."""

    def __init__(self, plan: Plan, counts: Uncounted) -> None:
        self._plan = plan
        self._counts = counts
        self._registered: dict[str, str] = {}
        self._lost = False

    def collect(self, link: Link) -> None:
        """Ask Redis and replace the file; where that fails the age of the facts tells. Raises :class:`Unavailable`."""
        self._registered = read_names(self._plan.metrics) or self._registered
        try:
            _collect(link, self._plan, self._registered)
        except OSError as error:
            self._counts.collector_failed()
            if not self._lost:
                log.warning("facts.not_written", error=str(error))
            self._lost = True
        except MillstreamError:
            self._counts.collector_failed()
            raise
        else:
            self._lost = False


def _collect(link: Link, plan: Plan, registered: Mapping[str, str]) -> None:
    """Collect once; *registered* has the queue of each job. Raises :class:`Unavailable`, :class:`OSError`."""
    began = time.monotonic()
    own = plan.queue_keys
    served = {keys.queue for keys in own}
    found = [*own, *(keys for keys in known_queues(link, plan.keys) if keys.queue not in served)][:MOST]
    queues: list[dict[str, Any]] = []
    for start in range(0, len(found), AT_ONCE):
        queues += _count(link, found[start : start + AT_ONCE])
    alive = [host for host in hosts(link, plan.keys) if host.alive]
    facts = {
        "at": time.time(),
        "duration": round(time.monotonic() - began, 6),
        "queues": queues,
        "consumers": _consumers(alive),
        "instances": len(alive),
        "enqueued": _enqueued(link, own, registered) if registered else [],
    }
    write(Path(plan.metrics, FILE), orjson.dumps(facts))


def _count(link: Link, queues: Sequence[QueueKeys]) -> list[dict[str, Any]]:
    surveys = link.run_many([survey(keys) for keys in queues])
    now = time.time()
    return [
        {
            "queue": one.queue,
            "paused": one.paused,
            "ready": one.waiting - one.held - one.parked,
            "held": one.held,
            "parked": one.parked,
            "running": one.running,
            "delayed": one.due,
            "dead": one.dead,
            # A moment instead of an age: it stays right while nobody looks.
            "oldest": None if one.oldest is None else round(now - one.oldest, 3),
        }
        for one in surveys
    ]


def _consumers(alive: Sequence[Host]) -> list[dict[str, Any]]:
    """How many workers of all hosts serve each queue, by what they are doing."""
    counts: Counter[tuple[str, str]] = Counter()
    for host in alive:
        groups = host.heartbeat.get("groups", {})
        for worker in host.heartbeat.get("workers", ()):
            for queue in groups.get(worker.get("group"), {}).get("queues", ()):
                counts[str(queue), str(worker.get("state"))] += 1
    return [{"queue": queue, "state": state, "count": count} for (queue, state), count in sorted(counts.items())]


def _enqueued(link: Link, queues: Sequence[QueueKeys], registered: Mapping[str, str]) -> list[dict[str, Any]]:
    """How many jobs came into our own queues: only who knows the jobs of a queue can say which names are some."""
    replies = link.execute_many([("HGETALL", keys.enqueued) for keys in queues])
    samples: list[dict[str, Any]] = []
    for keys, reply in zip(queues, replies, strict=True):
        counts = Counter({(job, kind): 0 for job, of in registered.items() if of == keys.queue for kind in ARRIVALS})
        fields = [] if isinstance(reply, Exception) else reply
        for field, count in zip(fields[::2], fields[1::2], strict=True):
            kind, _, job = field.decode(errors="replace").partition(":")
            if kind in ARRIVALS:
                counts[job if job in registered else UNKNOWN, kind] += int(count)
        samples += [{"queue": keys.queue, "job": job, "kind": kind, "count": n} for (job, kind), n in counts.items()]
    return samples


def write(path: Path, text: bytes) -> None:
    """Replace a file at once: who reads it sees the old text or the new one. Raises :class:`OSError`."""
    part = path.with_suffix(".part")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part.write_bytes(text)
    os.replace(part, path)
