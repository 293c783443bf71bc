"""A queue filled by hand: jobs are enqueued, taken and ended by script calls, without any worker."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from millstream.protocol import transitions
from millstream.protocol.envelope import Entry, encode_envelope, parse_entry
from millstream.protocol.inspect import Survey, survey
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.protocol.transitions import Kind, NewJob, Outcome
from tests.support.acl import as_role

CONSUMER = "host-1a2b3c:default/0:1"


class Filled:
    """One queue of one server, and a connection to it."""

    def __init__(self, url: str, prefix: str, queue: str = "q") -> None:
        self.link = Link(as_role(url, "admin"))
        self.all_keys = Keys(prefix)
        self.keys = self.all_keys.queue(queue)
        self._numbers = itertools.count(1)

    def add(
        self, count: int = 1, *, name: str = "count", band: str = "normal", delay: float | None = None
    ) -> list[str]:
        """Enqueue jobs (ids j1, j2 ...) and return their ids; *delay* in seconds."""
        self.link.execute("SADD", self.all_keys.queues, self.keys.queue)
        wait = None if delay is None else int(delay * 1000)
        ids = [f"j{next(self._numbers)}" for _ in range(count)]
        new = [NewJob(job_id, band, self._envelope(name, job_id, band), wait, "") for job_id in ids]
        for first in range(0, count, 500):
            self.link.run(transitions.enqueue(self.keys, new[first : first + 500]))
        return ids

    def _envelope(self, name: str, job_id: str, band: str) -> bytes:
        now = time.time_ns() // 1_000_000
        return encode_envelope(name, [job_id], {}, queue=self.keys.queue, enqueued_at=now, priority=band)

    def take(self, count: int = 1) -> list[Entry]:
        """Fetch jobs as a worker does."""
        self.link.run(transitions.join(self.keys, CONSUMER.split(":")[0], 30.0))
        fetched = self.link.run(transitions.fetch(self.keys, CONSUMER, count))
        return [parse_entry(letter, entry, fields, self.keys.queue) for letter, entry, fields in fetched.entries]

    def end(self, entries: Iterable[Entry], kind: Kind = Kind.COMPLETED, **row: Any) -> None:
        """Settle what was taken; *row* adds to what is kept of the run."""
        outcomes = [self.outcome(entry, kind, row) for entry in entries]
        self.link.run(transitions.settle(self.keys, CONSUMER, outcomes))

    def outcome(self, entry: Entry, kind: Kind, row: dict[str, Any], number: int | None = None) -> Outcome:
        """How a run ended, to be settled."""
        ran = {"n": entry.name, "t": entry.enqueued_at, "a": entry.attempt + 1, "x": 4, "w": CONSUMER}
        ran |= {"s": time.time_ns() // 1_000_000, "d": 0.25, "u": 0.2} | row
        # The TTL of what ended, the delay of a retry; a first crash runs again at once.
        number = (0 if kind in (Kind.CRASH, Kind.DEAD) else 60_000) if number is None else number
        return Outcome(entry.ref, entry.id, kind, number, orjson.dumps(ran), entry.holds)

    def die(self, count: int = 1, **row: Any) -> list[str]:
        """Enqueue jobs that become dead letters; their ids."""
        ids = self.add(count)
        error = {"type": "ValueError", "message": "no luck", "traceback": "Traceback", "cause": "error"}
        self.end(self.take(count), Kind.DEAD, **{"c": "error", "e": error, **row})
        return ids

    def drain(self) -> list[str]:
        """Take and complete everything that waits; the ids in the order in which they came."""
        return list(self._drained())

    def _drained(self) -> Iterator[str]:
        while entries := self.take(100):
            yield from (entry.id for entry in entries)
            self.end(entries)

    def survey(self) -> Survey:
        """How many jobs are where."""
        return self.link.run(survey(self.keys))
