"""Dead letters: what they died of, in bounded pages; which of them are meant; groups of those that are alike."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from millstream.protocol.call import Call
from millstream.protocol.errors import InvalidJob
from millstream.protocol.info import instant
from millstream.protocol.keys import QueueKeys
from millstream.protocol.policy import LONGEST_TTL
from millstream.protocol.runner import Runner
from millstream.protocol.scripts import script
from millstream.protocol.transitions import all_keys

STEP = 100
"""Dead jobs that one call looks at: bounds the time that it holds the server."""

PATTERN = 200
"""Characters of a normalised message."""

_VARYING = re.compile(
    r"""(?P<text>(?<!\w)(?:'[^']*'|"[^"]*")(?!\w))
    |(?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
    |(?P<hex>\b0[xX][0-9a-fA-F]+\b|\b(?=\w*\d)(?=\w*[a-fA-F])[0-9a-fA-F]{8,}\b)
    |(?P<number>\d+(?:\.\d+)*)""",
    re.VERBOSE,
)


def normalised(message: str) -> str:
    """A message without what differs from one job to the next: quoted texts, UUIDs, hexadecimal numbers, numbers."""
    text = _VARYING.sub(lambda found: f"<{found.lastgroup}>", message)
    return " ".join(text.split())[:PATTERN]


class DeadJob(NamedTuple):
    """What killed one job; ``died_at`` in milliseconds by the server's clock."""

    id: str
    died_at: int
    job: str
    cause: str
    type: str
    message: str

    @property
    def group(self) -> str:
        """The key of its group: the same for jobs of one name with one error, whatever differs in its message."""
        alike = orjson.dumps([self.job, self.type, normalised(self.message)])
        return hashlib.sha256(alike).hexdigest()[:10]


class Scanned(NamedTuple):
    """One page: the server's time (ms), how many are dead in all, where to go on ("" at the end), and the jobs."""

    now: int
    total: int
    position: str
    jobs: list[DeadJob]


def dead_scan(keys: QueueKeys, position: str = "", *, until: int | None = None, count: int = STEP) -> Call[Scanned]:
    """What dead jobs died of, newest first; only those that were dead *until* an instant in ms."""
    args = (position, count, "" if until is None else until)
    return Call(script("dead_scan"), all_keys(keys), args, _parse_scanned)


def _parse_scanned(reply: list[Any]) -> Scanned:
    now, total, position, flat = reply
    texts = [part.decode(errors="replace") for part in flat]
    rows = (texts[first : first + 6] for first in range(0, len(texts), 6))
    jobs = [DeadJob(row[0], int(float(row[1])), *row[2:]) for row in rows]
    return Scanned(int(now), int(total), position.decode(errors="replace"), jobs)


def dead_prune(keys: QueueKeys, ttl: float, cap: int, count: int = 500) -> Call[tuple[int, bool]]:
    """Set how long (s) and how many dead jobs are kept, and delete some of those beyond; whether there may be more."""
    args = (int(min(ttl, LONGEST_TTL) * 1000), cap, count)
    return Call(script("dead_prune"), all_keys(keys), args, lambda reply: (int(reply[0]), bool(reply[1])))


@dataclass(frozen=True)
class Which:
    """Which dead jobs are meant: those that fit all that is given. ``older_than`` in seconds since their death."""

    name: str | None = None
    error: str | None = None
    cause: str | None = None
    group: str | None = None
    older_than: float | None = None

    @property
    def anything(self) -> bool:
        """Whether it leaves none out."""
        return self == Which()

    def matches(self, one: DeadJob, now: int) -> bool:
        """``error`` is a part of the error's type and message, as lists show them; case does not matter."""
        return (
            self.name in (None, one.job)
            and self.cause in (None, one.cause)
            and (self.older_than is None or one.died_at <= now - self.older_than * 1000)
            and (self.error is None or self.error.casefold() in f"{one.type}: {one.message}".casefold())
            and (self.group is None or self.group == one.group)
        )


class Found(NamedTuple):
    """The dead jobs of one page that are meant, and the page."""

    keys: QueueKeys
    jobs: list[DeadJob]
    page: Scanned


def walk(
    runner: Runner, queues: Sequence[QueueKeys], which: Which, *, until: int | None = None, cursor: str | None = None
) -> Iterator[Found]:
    """All pages of these queues, one after the other, newest first in each. Raises :class:`Unavailable`.

    Jobs may be retried or deleted on the way: none is left out for it, and none is met twice but by a death anew.
    *cursor* is ``<queue>/<position>``; raises :class:`InvalidJob` where it is of none of them.
    """
    first, position = _start(queues, cursor)
    for keys in queues[first:]:
        while True:
            page = runner.run(dead_scan(keys, position, until=until))
            yield Found(keys, [one for one in page.jobs if which.matches(one, page.now)], page)
            position = page.position
            if not position:
                break


def _start(queues: Sequence[QueueKeys], cursor: str | None) -> tuple[int, str]:
    if not cursor:
        return 0, ""
    queue, _, position = cursor.partition("/")
    for index, keys in enumerate(queues):
        if keys.queue == queue:
            return index, position
    raise InvalidJob(f"the cursor {cursor!r} is not of this list: pass one that it printed")


@dataclass
class Group:
    """Dead jobs that are alike: one job name, one type of error, one message but for what differs in it."""

    key: str
    job: str
    type: str
    message: str
    count: int = 0
    first: int = 0
    last: int = 0
    example: str = ""
    causes: set[str] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)

    def add(self, one: DeadJob, queue: str) -> None:
        """Count one more."""
        if not self.count or one.died_at > self.last:
            self.last, self.example = one.died_at, one.id
        self.first = min(self.first, one.died_at) if self.count else one.died_at
        self.count += 1
        self.causes.add(one.cause)
        self.queues.add(queue)

    def to_dict(self) -> dict[str, Any]:
        """As the command line prints it; instants are ISO 8601 in UTC, ``example`` is the job that died last."""
        row = {
            "group": self.key,
            "job": self.job,
            "type": self.type,
            "message": self.message,
            "causes": sorted(self.causes),
            "queues": sorted(self.queues),
            "count": self.count,
            "first_seen": instant(self.first),
            "last_seen": instant(self.last),
            "example": self.example,
        }
        return orjson.loads(orjson.dumps(row))  # type: ignore[no-any-return]


class Grouped(NamedTuple):
    """Groups, the largest first; how many dead jobs were looked at, and how many there are."""

    groups: list[Group]
    looked_at: int
    total: int


def group_dead(runner: Runner, queues: Sequence[QueueKeys], which: Which, *, scan: int = 10_000) -> Grouped:
    """Group the newest dead jobs of each queue, *scan* at most in each. Raises :class:`Unavailable`."""
    groups: dict[str, Group] = {}
    looked_at = total = 0
    for keys in queues:
        seen = 0
        for found in walk(runner, [keys], which):
            for one in found.jobs:
                group = groups.setdefault(one.group, Group(one.group, one.job, one.type, normalised(one.message)))
                group.add(one, keys.queue)
            seen += len(found.page.jobs)
            if seen >= scan or not found.page.position:
                total += found.page.total
                break
        looked_at += seen
    return Grouped(sorted(groups.values(), key=lambda one: (-one.count, -one.last)), looked_at, total)
