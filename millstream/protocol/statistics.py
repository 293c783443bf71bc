"""What was done by minute and by hour: added by maintenance, read by people and dashboards, bounded both ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

import orjson

from millstream.protocol.call import Argument, Call
from millstream.protocol.errors import InvalidJob
from millstream.protocol.keys import QueueKeys
from millstream.protocol.runner import Runner
from millstream.protocol.scripts import script
from millstream.protocol.spread import DURATIONS, WAITS, Spread

OUTCOMES = ("completed", "retried", "dead", "discarded", "cancelled", "expired", "released")
"""What may have become of a job whose run ended."""

DURATION, WAIT = "t", "w"
"""Under which letters durations and waits are counted."""

LONGEST = 30 * 86400
"""Seconds that can be looked back."""

Counts = Mapping[str, int]
"""Runs by outcome; also, of their durations (``t``) and waits (``w``): the sum in microseconds under the letter, and
how many there were in each bucket under the letter and the bucket's upper bound in seconds, as in ``t0.025``."""


class Resolution(Enum):
    """By what is counted: the seconds of one place, how many places a hash has, and how far back they go."""

    MINUTES = ("minutes", 60, 60, 86400)
    HOURS = ("hours", 3600, 24, LONGEST)

    def __init__(self, key: str, step: int, places: int, longest: int) -> None:
        self.key = key
        self.step = step
        self.places = places
        self.longest = longest


class Added(NamedTuple):
    """The number of the last batch of an instance, and whether this call has added it."""

    number: int
    new: bool


@dataclass(frozen=True)
class Point:
    """Runs that ended in one minute or hour, from ``at`` on, by outcome."""

    at: datetime
    outcomes: Counts


@dataclass(frozen=True)
class Statistics:
    """What was counted from ``since`` until ``until``, of one job or (``job`` None) of all jobs of a queue.

    ``step`` is the length of a point in seconds; points in which nothing ended are left out.
    """

    queue: str
    job: str | None
    since: datetime
    until: datetime
    step: int
    outcomes: Counts = field(default_factory=dict)
    duration: Spread = field(default_factory=lambda: Spread(DURATIONS))
    wait: Spread = field(default_factory=lambda: Spread(WAITS))
    points: tuple[Point, ...] = ()

    @property
    def processed(self) -> int:
        """Runs that counted: all but those that were given back."""
        return processed(self.outcomes)

    @property
    def failed(self) -> int:
        """Runs that failed, whether the job runs again or is dead."""
        return failed(self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """As the command line and the API print it: ISO 8601 UTC times, durations in seconds."""
        return {
            "queue": self.queue,
            "job": self.job,
            "since": _iso(self.since),
            "until": _iso(self.until),
            "step": self.step,
            **_counted(self.outcomes),
            "duration": self.duration.to_dict(),
            "wait": self.wait.to_dict(),
            "points": [{"at": _iso(point.at), **_counted(point.outcomes)} for point in self.points],
        }


def processed(outcomes: Counts) -> int:
    """How many of these runs counted."""
    return sum(outcomes.values()) - outcomes.get("released", 0)


def failed(outcomes: Counts) -> int:
    """How many of these runs failed."""
    return outcomes.get("retried", 0) + outcomes.get("dead", 0)


def _counted(outcomes: Counts) -> dict[str, int]:
    given = {name: outcomes.get(name, 0) for name in OUTCOMES}
    succeeded = given.pop("completed")
    return {"processed": processed(outcomes), "succeeded": succeeded, "failed": failed(outcomes), **given}


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def add(keys: QueueKeys, instance: str, number: int, jobs: Mapping[str, Counts]) -> Call[Added]:
    """Add batch *number* of what an instance has counted; a batch that was added before changes nothing."""
    args: list[Argument] = [instance, number]
    for job, counts in jobs.items():
        args += (job, orjson.dumps(counts))
    return Call(script("statistics_add"), (keys.statistics,), args, lambda reply: Added(reply[0], bool(reply[1])))


Row = tuple[str, int, dict[str, int]]
"""A job, when (seconds of the Unix epoch), and what was counted of it."""


def read(keys: QueueKeys, resolution: Resolution, number: int, job: str | None = None) -> Call[list[Row]]:
    """What was counted in hour *number* by minutes, or in day *number* by hours."""
    begin = number * resolution.step * resolution.places
    return Call(
        script("statistics_read"),
        (keys.statistics,),
        (resolution.key, number, job or ""),
        lambda reply: list(_rows(reply, begin, resolution.step)),
    )


def _rows(flat: Sequence[bytes], begin: int, step: int) -> Iterator[Row]:
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        place, _, job = name.decode(errors="replace").partition(":")
        yield job, begin + int(place) * step, {what: int(count) for what, count in orjson.loads(text).items()}


def read_statistics(
    runner: Runner,
    keys: QueueKeys,
    since: float,
    *,
    job: str | None = None,
    resolution: Resolution | None = None,
) -> list[Statistics]:
    """What was counted in the last *since* seconds: of the whole queue first, then of each job by name.

    With *job* of that one only; empty where nothing was counted. By minutes up to 24 hours, else by hours; the first
    minute or hour is taken whole. Raises :class:`InvalidJob` for more than 30 days, :class:`Unavailable`.
    """
    resolution = resolution or next((one for one in Resolution if since <= one.longest), Resolution.HOURS)
    if not 0 < since <= resolution.longest:
        raise InvalidJob(f"{resolution.key} are kept for {resolution.longest} s: cannot look back {since:g} s")
    now = int(runner.execute("TIME")[0])
    first = int(now - since) // resolution.step * resolution.step
    span = resolution.step * resolution.places
    gathered: dict[str, list[tuple[int, dict[str, int]]]] = {}
    for number in range(first // span, now // span + 1):  # one hash at a time: each may be large
        for name, at, counts in runner.run(read(keys, resolution, number, job)):
            if first <= at <= now:
                gathered.setdefault(name, []).append((at, counts))
    window = (_instant(first), _instant(now), resolution.step)
    found = [_statistics(keys.queue, name, window, rows) for name, rows in sorted(gathered.items())]
    if job is None and found:
        found.insert(0, _statistics(keys.queue, None, window, [row for rows in gathered.values() for row in rows]))
    return found


def _statistics(
    queue: str, job: str | None, window: tuple[datetime, datetime, int], rows: Iterable[tuple[int, dict[str, int]]]
) -> Statistics:
    total: Counter[str] = Counter()
    points: dict[int, Counter[str]] = {}
    for at, counts in rows:
        total.update(counts)
        points.setdefault(at, Counter()).update({name: counts[name] for name in OUTCOMES if name in counts})
    return Statistics(
        queue,
        job,
        *window,
        outcomes={name: total[name] for name in OUTCOMES if name in total},
        duration=Spread.of(DURATIONS, total, DURATION),
        wait=Spread.of(WAITS, total, WAIT),
        points=tuple(Point(_instant(at), dict(outcomes)) for at, outcomes in sorted(points.items()) if outcomes),
    )


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
