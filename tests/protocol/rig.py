"""One queue driven by script calls alone: no worker, no supervisor, every step in the test's hand."""

from __future__ import annotations

from typing import Any

import orjson

from millstream.protocol import transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.protocol.transitions import Fetched, Inspected, Kind, NewJob, Outcome, Placed, Verdict
from tests.support.acl import as_role

A, B = "a-000001:g/0:1", "b-000001:g/0:1"
"""Two consumers, of two instances."""


class Rig:
    """A queue `q`, a connection, and short names for what is done to it."""

    def __init__(self, url: str, prefix: str) -> None:
        self.keys = Keys(prefix).queue("q")
        self.link = Link(as_role(url, "admin"))
        self.run = self.link.run

    def join(self, consumer: str = A, lease: float = 30.0) -> int:
        return self.run(transitions.join(self.keys, consumer.split(":")[0], lease))

    def new(self, job_id: str, band: str = "normal", delay: int | None = None, nonce: str = "") -> NewJob:
        envelope = encode_envelope("work", [job_id], {}, queue="q", enqueued_at=1_700_000_000_000, priority=band)
        return NewJob(job_id, band, envelope, delay, nonce)

    def add(self, *ids: str, band: str = "normal", delay: int | None = None, nonce: str = "") -> list[Placed]:
        return self.run(transitions.enqueue(self.keys, [self.new(job_id, band, delay, nonce) for job_id in ids]))

    def fetch(self, count: int = 10, consumer: str = A) -> list[str]:
        """References of what was delivered."""
        return refs_of(self.run(transitions.fetch(self.keys, consumer, count)))

    def take(self, job_id: str = "j", consumer: str = A) -> str:
        """Enqueue one job and deliver it; its reference."""
        self.join(consumer)
        self.add(job_id)
        (ref,) = self.fetch(1, consumer)
        return ref

    def settle(self, ref: str, kind: Kind, number: int = 60_000, *, job_id: str = "j", consumer: str = A) -> Verdict:
        row = orjson.dumps({"n": "work", "a": 1, "w": "w", "s": 1_700_000_000_000, "d": 0.1})
        outcome = Outcome(ref, job_id, kind, number, row)
        return self.run(transitions.settle(self.keys, consumer, [outcome]))[0][0]

    def record(self, job_id: str = "j") -> dict[str, Any]:
        flat = self.link.execute("HGETALL", self.keys.job(job_id))
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def state(self, job_id: str = "j") -> str | None:
        return self.record(job_id).get("state")

    def ttl(self, job_id: str = "j") -> int:
        """Milliseconds; -1 for none."""
        return int(self.link.execute("PTTL", self.keys.job(job_id)))

    def inspect(self, job_id: str = "j") -> Inspected:
        return self.run(transitions.inspect(self.keys, job_id))

    def counters(self) -> dict[str, int]:
        flat = self.link.execute("HGETALL", self.keys.stats)
        return {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def lengths(self) -> dict[str, int]:
        """How many entries each stream holds, by letter; those that hold none are left out."""
        sizes = {name.rpartition(":")[2][0]: int(self.link.execute("XLEN", name)) for name in self.keys.streams}
        return {letter: size for letter, size in sizes.items() if size}

    def pending(self, consumer: str = "") -> int:
        """How many entries are pending, of one consumer or of all."""
        found = 0
        for name in self.keys.streams:
            arguments = ("-", "+", 1000, consumer) if consumer else ("-", "+", 1000)
            found += len(self.link.execute("XPENDING", name, "millstream", *arguments))
        return found

    def age(self, ref: str, milliseconds: int, consumer: str = A) -> None:
        """Make a delivery look as if it had not been renewed for so long."""
        stream = self.keys.stream({"a": "again", "n": "normal"}[ref[0]])
        self.link.execute("XCLAIM", stream, "millstream", consumer, 0, ref[1:], "IDLE", milliseconds, "JUSTID")

    def recover(self, stream: str = "normal", **options: Any) -> tuple[int, int]:
        """One sweep; how many were recovered, and how many of them are dead."""
        step = self.run(transitions.recover(self.keys, stream, "", row=b'{"c":"lease_expired"}', **options))
        assert step.cursor == ""
        return step.recovered, step.dead


def refs_of(fetched: Fetched) -> list[str]:
    return [letter + entry.decode() for letter, entry, _ in fetched.entries]
