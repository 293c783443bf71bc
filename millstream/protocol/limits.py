"""Limits of a queue: how many of its jobs run at once, and how many start in a time; and names that are paused.

They hold for all hosts together, because the script that delivers a job (``take.lua``) counts and decides in one step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from millstream.protocol.call import Call
from millstream.protocol.errors import InvalidJob
from millstream.protocol.keys import QueueKeys, checked_name
from millstream.protocol.runner import Runner
from millstream.protocol.scripts import script
from millstream.protocol.transitions import all_keys

PERIODS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
"""Milliseconds of the periods that a rate may name."""

MOST = 1_000_000
"""The largest limit, number of jobs in a period, and burst."""

STEP = 200
"""Jobs that one call moves at most."""

_RATE = re.compile(r"(\d{1,7})/(\d{0,4})([smhd])")


@dataclass(frozen=True)
class Rate:
    """So many jobs per period (milliseconds)."""

    jobs: int
    period: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``10/s``, ``100/m``, ``5/2h``. Raises :class:`InvalidJob`."""
        found = _RATE.fullmatch(text.strip())
        jobs, count = (int(found[1]), int(found[2] or 1)) if found else (0, 0)
        if not found or not 1 <= jobs <= MOST or count < 1:
            raise InvalidJob(f"rate {text!r} is not valid: use jobs per time, for example 10/s, 100/m or 1000/h")
        return cls(jobs, count * PERIODS[found[3]])

    @property
    def per_second(self) -> float:
        """Jobs per second."""
        return 1000 * self.jobs / self.period

    def __str__(self) -> str:
        for unit, length in reversed(PERIODS.items()):
            if self.period % length == 0:
                count = self.period // length
                return f"{self.jobs}/{'' if count == 1 else count}{unit}"
        return f"{self.jobs}/{self.period / 1000:g}s"


@dataclass(frozen=True)
class Limit:
    """What a queue allows; None: any number. ``burst``: how many jobs may start at once after a quiet time."""

    concurrency: int | None = None
    rate: Rate | None = None
    burst: int | None = None

    @classmethod
    def parse(cls, concurrency: bytes | None, rate: bytes | None, burst: bytes | None) -> Limit:
        """Of the fields of the queue's ``meta``; what is not ours counts as none."""
        found = re.fullmatch(rb"([1-9]\d{0,6})/([1-9]\d{0,12})", rate or b"")
        return cls(_number(concurrency), Rate(int(found[1]), int(found[2])) if found else None, _number(burst))

    def to_dict(self) -> dict[str, Any]:
        """As the command line and the API print it."""
        return {
            "concurrency": self.concurrency,
            "rate": None if self.rate is None else str(self.rate),
            "burst": self.burst,
        }

    def __str__(self) -> str:
        parts = [f"{self.concurrency} at once"] if self.concurrency is not None else []
        if self.rate is not None:
            parts.append(f"{self.rate}, bursts of {self.burst}")
        return "; ".join(parts) or "none"


NO_LIMIT = Limit()


def _number(text: bytes | None) -> int | None:
    return int(text) if text and re.fullmatch(rb"[1-9]\d{0,6}", text) else None


def checked_limit(concurrency: int | None = None, rate: str | Rate | None = None, burst: int | None = None) -> Limit:
    """A :class:`Limit` of what somebody asks for; ``burst`` is by default what a second allows, at least 1.

    Raises :class:`InvalidJob`.
    """
    for name, value in (("concurrency", concurrency), ("burst", burst)):
        if value is not None and (type(value) is not int or not 1 <= value <= MOST):
            raise InvalidJob(f"{name} {value!r} is not valid: use an integer from 1 to {MOST:,}")
    if burst is not None and rate is None:
        raise InvalidJob("burst is about a rate: say how many jobs per time as well, for example rate 10/s")
    allowed = Rate.parse(rate) if isinstance(rate, str) else rate
    if allowed is not None and burst is None:
        burst = max(1, int(allowed.per_second))
    return Limit(concurrency, allowed, burst)


def changed(before: Limit, concurrency: int | None, rate: str | None, burst: int | None) -> Limit:
    """*before* with what is given in its place: 0 (as text for a rate) for none. Raises :class:`InvalidJob`."""
    most = before.concurrency if concurrency is None else concurrency or None
    allowed = before.rate if rate is None else None if rate == "0" else Rate.parse(rate)
    if allowed == before.rate and burst is None:
        burst = before.burst
    return checked_limit(most, allowed, burst)


def set_limit(keys: QueueKeys, limit: Limit) -> Call[bool]:
    """Set what a queue allows, in place of what it had; the reply is False where it was so already."""
    rate = "" if limit.rate is None else f"{limit.rate.jobs}/{limit.rate.period}"
    args = (limit.concurrency or "", rate, (limit.burst or 1) if limit.rate else "")
    return Call(script("limit"), all_keys(keys), args, bool)


class ResumedJob(NamedTuple):
    """One step of a resume: ``done``, ``more`` or ``open`` (it was not paused), and how many jobs it moved."""

    state: str
    moved: int


def pause_job(keys: QueueKeys, name: str) -> Call[bool]:
    """Pause one job name of a queue; the reply is False where it was paused already. Raises :class:`InvalidJob`."""
    return Call(script("pause_job"), all_keys(keys), (checked_name("job", name),), _paused)


def _paused(reply: int) -> bool:
    if reply < 0:
        raise InvalidJob("too many names are paused in this queue: pause the whole queue, or resume some")
    return bool(reply)


def resume_job(keys: QueueKeys, name: str, *, count: int = STEP) -> Call[ResumedJob]:
    """One step of a resume of a name; "" for any that somebody began to resume (maintenance does this)."""
    return Call(
        script("resume_job"),
        all_keys(keys),
        (checked_name("job", name) if name else "", count),
        lambda reply: ResumedJob(reply[0].decode(), int(reply[1])),
    )


class Tended(NamedTuple):
    """One step: where to go on ("0" at the end), how many places were freed, whether names are being resumed."""

    cursor: str
    freed: int
    resuming: bool


def tend(keys: QueueKeys, cursor: str = "0", count: int = 50) -> Call[Tended]:
    """Look after some of the rooms of concurrency keys."""
    return Call(
        script("tend"),
        all_keys(keys),
        (cursor, count),
        lambda reply: Tended(reply[0].decode(), int(reply[1]), bool(reply[2])),
    )


def resume_whole_job(runner: Runner, keys: QueueKeys, name: str) -> ResumedJob:
    """Resume a name to the end; the reply counts all that waited. Raises :class:`Unavailable`."""
    moved = 0
    while True:
        step = runner.run(resume_job(keys, name))
        moved += step.moved
        if step.state != "more":
            return ResumedJob(step.state, moved)
