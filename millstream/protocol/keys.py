"""The name of every key, in one place. Each key of a queue carries the queue's hash tag: one slot on a Cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from millstream.protocol.errors import InvalidJob

GROUP = "millstream"
"""The one consumer group of every job stream."""

SCHEMA = 1
"""The version of the key format. What is of the next one is understood too, so that both run during an upgrade."""

BANDS = ("critical", "high", "normal", "low")
"""Priority bands, strict between each other, FIFO inside."""

STREAMS = ("again", *BANDS)
"""The job streams of a queue in the order in which they are served."""

LETTERS = {name[0]: name for name in STREAMS}
"""An entry's reference is its stream's letter and its id, as in ``n1732230000000-0``."""

MAX_NAME = 100
"""Characters of the name of a queue, a job or a group, at most."""

_NAME = re.compile(rf"[A-Za-z0-9_.\-]{{1,{MAX_NAME}}}")
_ID = re.compile(r"[A-Za-z0-9_.:@/+=\-]{1,200}")


def checked_name(kind: str, name: object) -> str:
    """Return *name* if it may name a queue, a job or a group; raise :class:`InvalidJob` otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidJob(f"{kind} name {name!r} is not valid: use 1 to 100 letters, digits, '_', '-' or '.'")
    return name


def checked_id(job_id: object) -> str:
    """Return *job_id* if it may identify a job; raise :class:`InvalidJob` otherwise."""
    if not isinstance(job_id, str) or not _ID.fullmatch(job_id):
        raise InvalidJob(f"job id {job_id!r} is not valid: use 1 to 200 letters, digits or any of _ - . : @ / + =")
    return job_id


def band_of(priority: int | str) -> str:
    """Map a priority to its band: >= 50 critical, 1 to 49 high, 0 normal, < 0 low; a band's name is itself."""
    if isinstance(priority, str):
        if priority not in BANDS:
            raise InvalidJob(f"priority {priority!r} is not valid: use an integer or one of {', '.join(BANDS)}")
        return priority
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidJob(f"priority {priority!r} is not valid: use an integer or one of {', '.join(BANDS)}")
    if priority >= 50:
        return "critical"
    if priority > 0:
        return "high"
    return "normal" if priority == 0 else "low"


@dataclass(frozen=True)
class QueueKeys:
    """The keys of one queue."""

    prefix: str
    queue: str
    tag: str | None = None

    @cached_property
    def base(self) -> str:
        if self.tag is None or self.tag == self.queue:
            return f"{self.prefix}{{{self.queue}}}:"
        return f"{self.prefix}{{{self.tag}}}{self.queue}:"

    @property
    def member(self) -> str:
        """What the registry of queues has of this one: ``name``, or ``name@tag``."""
        return self.queue if self.tag in (None, self.queue) else f"{self.queue}@{self.tag}"

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """The five job streams, in the order in which they are served."""
        return tuple(self.base + "stream:" + name for name in STREAMS)

    def stream(self, name: str) -> str:
        return self.base + "stream:" + name

    @cached_property
    def records(self) -> str:
        """What every job record's key begins with; the job's id follows."""
        return self.base + "job:"

    def job(self, job_id: str) -> str:
        return self.records + job_id

    @cached_property
    def due(self) -> str:
        """Zset: delayed jobs and retries by due time, in milliseconds."""
        return self.base + "due"

    @cached_property
    def dead(self) -> str:
        """Zset: dead letters by the time of their end, in milliseconds."""
        return self.base + "dead"

    @cached_property
    def held(self) -> str:
        """Stream without a group: what waits while the queue is paused."""
        return self.base + "held"

    @cached_property
    def events(self) -> str:
        """Stream: facts for elsewhere, relayed by maintenance."""
        return self.base + "events"

    @cached_property
    def control(self) -> str:
        """Capped stream, read by every maintenance: pause, resume, cancel, wake."""
        return self.base + "control"

    @cached_property
    def meta(self) -> str:
        """Hash: the queue's switches (paused; its limits; names that are paused)."""
        return self.base + "meta"

    @cached_property
    def stats(self) -> str:
        """Hash: counters of what was settled."""
        return self.base + "stats"

    @cached_property
    def enqueued(self) -> str:
        """Hash: ``<kind>:<job>`` -> how many came; kinds are ``immediate``, ``delayed`` and ``retry``. Bounded."""
        return self.base + "enqueued"

    @cached_property
    def history(self) -> str:
        """List: ids of the jobs that ended last, newest first, capped."""
        return self.base + "history"

    def history_of(self, job: str) -> str:
        """List: ids of the jobs of one name whose runs ended last, newest first, capped; ends by itself."""
        return f"{self.history}:{job}"

    @cached_property
    def statistics(self) -> str:
        """What the keys of counts by minute and hour begin with; see ``statistics_add.lua``."""
        return self.base + "stats:"

    @cached_property
    def owners(self) -> str:
        """Hash: instance -> its lease in milliseconds."""
        return self.base + "owners"

    @cached_property
    def waiting(self) -> str:
        """Hash: job id -> how many callers wait for its end."""
        return self.base + "waiting"

    @cached_property
    def waits(self) -> str:
        """What each list that wakes the waiters of one job begins with; the job's id follows."""
        return self.base + "wait:"

    @cached_property
    def uniques(self) -> str:
        """What the lock of each unique key begins with, a string: the id of the job that holds it."""
        return self.base + "unique:"

    @cached_property
    def rooms(self) -> str:
        """What each room's key begins with: zsets of the jobs that may not run now; see ``_rooms.lua``.

        The scripts derive this and the next four from the records' key: they cost a call no argument.
        """
        return self.base + "room:"

    def room(self, name: str) -> str:
        """Zset: the jobs of one room in the order in which they go on: ``gate``, ``job:<name>`` or ``key:<key>``."""
        return self.rooms + name

    @cached_property
    def crowded(self) -> str:
        """Set: the names of the rooms in which somebody waits."""
        return self.base + "rooms"

    @cached_property
    def parked(self) -> str:
        """Zset: every job that waits in a room, by the time since when."""
        return self.base + "parked"

    @cached_property
    def places(self) -> str:
        """What the set of each concurrency key begins with: the ids of the jobs that have a place."""
        return self.base + "key:"

    @cached_property
    def gate(self) -> str:
        """Hash: the last number given in a room, and the bucket of the rate limit."""
        return self.base + "gate"


@dataclass(frozen=True)
class Keys:
    """All keys below one prefix."""

    prefix: str = "ms:"

    @property
    def queues(self) -> str:
        """Set: every queue that was ever used, as ``name`` or ``name@tag``."""
        return self.prefix + "queues"

    @property
    def hosts(self) -> str:
        """Hash: supervisor name -> heartbeat (JSON)."""
        return self.prefix + "hosts"

    @property
    def schema(self) -> str:
        """String: the version of the key format."""
        return self.prefix + "schema"

    def queue(self, name: str, tag: str | None = None) -> QueueKeys:
        return QueueKeys(self.prefix, name, tag)


def split_ref_stream(ref: str) -> str:
    """The name of the stream that an entry's reference points into."""
    return LETTERS[ref[0]]
