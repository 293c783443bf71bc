"""One typed function per script. Each returns a :class:`Call`; nothing here does any input or output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from millstream.protocol.call import Argument, Call
from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.scripts import script

MAX_ITEMS = 500
"""Runs in one settle and jobs in one enqueue, at most: bounds the time that a script holds the server."""

UNKNOWN_LEASE = 30.0
"""Seconds of lease that an owner has which never said its own."""


class Kind(StrEnum):
    """How a run ends for its job; the words are those of settle.lua."""

    COMPLETED = "completed"
    DISCARDED = "discarded"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"
    CRASHED = "crashed"
    RETRY = "retry"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASH = "crash"
    RELEASE = "release"
    UNKNOWN = "unknown"


ENDS = frozenset({Kind.COMPLETED, Kind.DISCARDED, Kind.CANCELLED, Kind.EXPIRED})
"""The kinds that end a job with nothing but its record left."""

NOT_COUNTED = 3
"""The number of a dead letter whose last run was no attempt: it was counted apart."""


class Outcome(NamedTuple):
    """The end of one run: what settle.lua is told of it.

    ``number`` is in milliseconds: the record's TTL for a final kind, the delay of the next run otherwise.
    ``row`` is the JSON that is kept of the run. ``holds``: the job holds something that its end must free.
    """

    ref: str
    id: str
    kind: str
    number: int
    row: bytes
    holds: bool = False

    def pack(self) -> bytes:
        """As one string of bytes, for the scoreboard's outbox. JSON holds no NUL, nor do the other parts."""
        return b"%b\0%b\0%b\0%d\0%b" % (
            self.ref.encode(),
            self.id.encode(),
            self.kind.encode() + (b"+" if self.holds else b""),
            self.number,
            self.row,
        )

    @classmethod
    def unpack(cls, packed: bytes) -> Outcome:
        """The reverse of :meth:`pack`."""
        ref, job_id, kind, number, row = packed.split(b"\0", 4)
        word = kind.decode()
        return cls(ref.decode(), job_id.decode(), word.removesuffix("+"), int(number), row, word.endswith("+"))


class Verdict(StrEnum):
    """What became of a settled run."""

    OK = "ok"
    ALREADY = "already"
    STALE = "stale"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch delivered: the server's time (ms), whether the queue is paused, and (letter, id, fields) each.

    ``paused`` means that a blocking read would find nothing: the queue is to be asked again after ``wait`` seconds.
    ``ruled``: its jobs are delivered by :func:`take`, because it has a limit or some of its names are paused.
    """

    now: int
    paused: bool
    entries: list[tuple[str, bytes, list[bytes]]]
    ruled: bool = False
    wait: float = 0.1


def all_keys(keys: QueueKeys) -> tuple[str, ...]:
    """The keys of a queue in the order of ``_keys.lua``."""
    return (
        *keys.streams,
        keys.records,
        keys.due,
        keys.dead,
        keys.held,
        keys.events,
        keys.control,
        keys.meta,
        keys.stats,
        keys.history,
        keys.owners,
        keys.waiting,
        keys.waits,
        keys.enqueued,
        keys.uniques,
    )


class NewJob(NamedTuple):
    """One job to enqueue. ``delay`` is in milliseconds, None for now; ``nonce`` is "" for a generated id.

    ``extras`` are those of ``_extras.lua``, without the nonce; None for a plain job.
    """

    id: str
    band: str
    envelope: bytes
    delay: int | None
    nonce: str
    extras: Mapping[str, Any] | None = None

    @property
    def last_argument(self) -> str | bytes:
        """The nonce, or the extras with it."""
        return self.nonce if self.extras is None else orjson.dumps({"nonce": self.nonce, **self.extras})


Placed = bool | str
"""What became of a job that was enqueued: True created, False its id exists, or the id of who holds its unique key."""


def enqueue(keys: QueueKeys, jobs: Sequence[NewJob]) -> Call[list[Placed]]:
    """Enqueue up to :data:`MAX_ITEMS` jobs; the reply says what became of each."""
    bands = keys.streams[1:]
    args: list[Argument] = []
    for job in jobs:
        delay = "" if job.delay is None else job.delay
        args += (job.id, job.band[0], job.envelope, delay, job.nonce if job.extras is None else job.last_argument)
    names = (keys.records, keys.due, keys.held, keys.control, keys.meta, *bands, keys.enqueued, keys.uniques)
    return Call(script("enqueue"), names, args, _parse_placed)


def _parse_placed(reply: list[Any]) -> list[Placed]:
    return [code.decode() if isinstance(code, bytes) else bool(code) for code in reply]


def join(keys: QueueKeys, instance: str, lease: float) -> Call[int]:
    """Make a queue ready to be consumed by this instance; the reply counts the groups that were made."""
    return Call(script("join"), (keys.owners, *keys.streams), (instance, int(lease * 1000)), int)


def fetch(keys: QueueKeys, consumer: str, count: int) -> Call[Fetched]:
    """Deliver up to *count* jobs to this consumer."""
    return Call(script("fetch"), (keys.meta, *keys.streams), (consumer, count), _parse_fetched)


def take(keys: QueueKeys, consumer: str, count: int) -> Call[Fetched]:
    """The same where the queue has a limit, or some of its names are paused: no more than may start now."""
    return Call(script("take"), all_keys(keys), (consumer, count), _parse_taken)


def own(keys: QueueKeys, consumer: str, count: int = 250) -> Call[Fetched]:
    """What this consumer holds already."""
    return Call(script("own"), (keys.meta, *keys.streams), (consumer, count), _parse_fetched)


_RULED = 2
_GATED = 3


def _parse_fetched(reply: list[Any]) -> Fetched:
    return Fetched(reply[0], bool(reply[1]), _entries(reply, 2), ruled=reply[1] == _RULED)


def _parse_taken(reply: list[Any]) -> Fetched:
    code = reply[1]
    return Fetched(reply[0], code in (1, _GATED), _entries(reply, 3), ruled=code != 0, wait=reply[2] / 1000)


def _entries(reply: list[Any], first: int) -> list[tuple[str, bytes, list[bytes]]]:
    entries: list[tuple[str, bytes, list[bytes]]] = []
    for index in range(first, len(reply), 2):
        letter = reply[index].decode()
        entries += [(letter, entry_id, fields) for entry_id, fields in reply[index + 1]]
    return entries


def settle(
    keys: QueueKeys, consumer: str, outcomes: Sequence[Outcome], unknown_grace: float = 600.0
) -> Call[list[tuple[Verdict, str]]]:
    """Record how runs ended; the reply holds a verdict for each, and the text of an error."""
    args: list[Argument] = [consumer, int(unknown_grace * 1000)]
    for ref, job_id, kind, number, row, holds in outcomes:
        args += (ref, job_id, kind + "+" if holds and kind in ENDS else kind, number, row)
    count = len(outcomes)
    return Call(script("settle"), all_keys(keys), args, lambda reply: _parse_verdicts(reply, count))


_OK: tuple[Verdict, str] = (Verdict.OK, "")
_CODES: dict[int, tuple[Verdict, str]] = {2: (Verdict.ALREADY, ""), 0: (Verdict.STALE, "")}


def _parse_verdicts(reply: list[Any], count: int) -> list[tuple[Verdict, str]]:
    verdicts = [_OK] * count
    for index in range(0, len(reply), 2):
        code = reply[index + 1]
        verdicts[int(reply[index]) - 1] = (
            _CODES[code] if isinstance(code, int) else (Verdict.ERROR, code.decode(errors="replace"))
        )
    return verdicts


def retire(keys: QueueKeys, consumer: str, *, delete: bool, spare: Iterable[str] = ()) -> Call[tuple[int, int]]:
    """Take back what a dead consumer holds, but for *spare*; the reply: given back, still pending."""
    return Call(script("retire"), all_keys(keys), (consumer, int(delete), *spare), _pair)


def give_back(keys: QueueKeys, consumer: str, refs: Sequence[str]) -> Call[int]:
    """Give single deliveries back, uncounted; the reply counts them."""
    return Call(script("give_back"), all_keys(keys), (consumer, *refs), int)


def renew(keys: QueueKeys, consumer: str, refs: Sequence[str]) -> Call[list[str]]:
    """Renew leases; the reply names the refs that this consumer holds no more."""
    return Call(script("renew"), keys.streams, (consumer, *refs), lambda reply: [ref.decode() for ref in reply])


class RecoveredRun(NamedTuple):
    """A run that was on when its lease expired: how it ended for its job (a :class:`Kind`), and which job it was."""

    kind: str
    name: str
    id: str
    number: int


class Recovered(NamedTuple):
    """One step of a recovery sweep; ``cursor`` is "" at the end of the stream's pending entries.

    ``ended`` are the runs that counted, because they were on.
    """

    cursor: str
    recovered: int
    dead: int
    ended: list[RecoveredRun]


def recover(
    keys: QueueKeys,
    stream: str,
    cursor: str,
    *,
    row: bytes,
    count: int = 200,
    gone: str = "",
    crash_limit: int = 3,
    crash_delay: float = 10.0,
    not_after: int = 2**52,
    only_gone: bool = False,
) -> Call[Recovered]:
    """Give back what owners hold past their lease; *gone* names an instance that need not be waited for.

    *not_after*: the server's time (ms) after which the call does nothing, should it be held up on its way.
    """
    lease = int(UNKNOWN_LEASE * 1000)
    limits = (crash_limit, int(crash_delay * 1000))
    args = (stream[0], cursor or "-", count, lease, gone, *limits, row, not_after, int(only_gone))
    return Call(
        script("recover"),
        all_keys(keys),
        args,
        _parse_recovered,
    )


def _parse_recovered(reply: list[Any]) -> Recovered:
    parts = iter(reply[3])
    runs = [
        RecoveredRun(kind.decode(), name.decode(), job_id.decode(), int(number))
        for kind, name, job_id, number in zip(parts, parts, parts, parts, strict=True)
    ]
    return Recovered(reply[0].decode(), int(reply[1]), int(reply[2]), runs)


def prune(keys: QueueKeys, instance: str, own: Sequence[str], alive: Sequence[str]) -> Call[int]:
    """Delete the empty consumers of dead processes; the reply counts them.

    *own* are the consumers of *instance* that live, *alive* the other instances that beat.
    """
    return Call(script("prune"), all_keys(keys), (instance, len(own), *own, *alive), int)


class Promoted(NamedTuple):
    """How many jobs were queued, ms until the next one is due (-1 for none), how many entries were no jobs."""

    jobs: int
    wait: int
    broken: int


def promote(keys: QueueKeys, count: int = 200) -> Call[Promoted]:
    """Queue the jobs that are due."""
    return Call(script("promote"), all_keys(keys), (count,), lambda reply: Promoted(*map(int, reply)))


def cancel(keys: QueueKeys, job_id: str, ttl: float = 86400.0) -> Call[tuple[str, str]]:
    """Cancel a job; the reply: ``ok``, ``running``, ``ended`` or ``absent``, and the state it was in."""
    return Call(
        script("cancel"),
        all_keys(keys),
        (job_id, int(ttl * 1000)),
        lambda reply: (reply[0].decode(), reply[1].decode()),
    )


class Inspected(NamedTuple):
    """The raw facts of one job: server time (ms), record, entry fields, the consumer that runs it, idle (ms)."""

    now: int
    record: dict[str, bytes]
    entry: dict[str, bytes]
    consumer: str
    idle: int


def inspect(keys: QueueKeys, job_id: str) -> Call[Inspected]:
    """All that is known of one job."""
    return Call(script("inspect"), (keys.job(job_id), *keys.streams, keys.held), (), _parse_inspected)


def _parse_inspected(reply: list[Any]) -> Inspected:
    now, record, entry, consumer, idle = reply
    return Inspected(now, _fields(record), _fields(entry), consumer.decode(), idle)


def _fields(flat: list[bytes]) -> dict[str, bytes]:
    return {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def await_end(keys: QueueKeys, job_id: str, waiters: int) -> Call[str]:
    """Begin (1), keep up (0) or give up (-1) waiting for a job; the reply is its state, "" where it is unknown."""
    return Call(script("await"), (keys.job(job_id), keys.waiting), (job_id, waiters), lambda reply: reply.decode())


class Begun(NamedTuple):
    """Whether a guarded job may start: ``ok``, ``stale`` or ``expired``; and until when (ms of the epoch; 0: ever)."""

    word: str
    expires: int


_BEGUN = {1: "ok", 0: "stale", 2: "expired"}


def begin(
    keys: QueueKeys,
    job_id: str,
    ref: str,
    consumer: str,
    *,
    alone: bool,
    crash_limit: int | None = None,
    tell: bool = False,
) -> Call[Begun]:
    """Say that a guarded job is about to start, and ask whether it may.

    *crash_limit* is the job's own, *tell* whether its application wants to know of its death: should its host vanish
    while the job runs *alone*.
    """
    return Call(
        script("begin"),
        all_keys(keys),
        (ref, consumer, job_id, int(alone), "" if crash_limit is None else crash_limit, "1" if tell else ""),
        lambda reply: Begun(_BEGUN[reply[0]], int(reply[1])),
    )


def host(keys: Keys, name: str, instance: str, what: str, heartbeat: bytes, gone: str = "") -> Call[bytes]:
    """Claim, beat or leave a supervisor's name; the reply is the heartbeat of another live holder, or empty."""
    return Call(script("host"), (keys.hosts,), (name, instance, what, heartbeat, gone), bytes)


def _pair(reply: list[Any]) -> tuple[int, int]:
    return int(reply[0]), int(reply[1])
