"""Promotion: delayed jobs and retries go into their streams when their time has come."""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from millstream.protocol import transitions
from millstream.protocol.link import Link
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

LOOK_AGAIN = 5.0
"""Seconds after which `due` is looked at again, whatever was said of the next job: a message may get lost."""

NOTHING_DUE = 1.0
"""Seconds until the next look where nothing is due at all."""


class Promotion:
    """Knows when the next job of each queue is due, so that Redis is not asked in vain."""

    def __init__(self, plan: Plan, link: Link) -> None:
        self._plan = plan
        self._link = link
        self._next: dict[str, float] = {}

    @property
    def moments(self) -> Iterable[float]:
        """When there is something to do, in monotonic seconds."""
        return self._next.values()

    def wake(self, queue: str) -> None:
        """A job has come that is due before all others."""
        self._next[queue] = 0.0

    def forget(self) -> None:
        """Look at every queue again."""
        self._next.clear()

    def promote(self) -> None:
        """Queue what is due. Raises :class:`Unavailable`."""
        now = time.monotonic()
        asked = [keys for keys in self._plan.queue_keys if self._next.get(keys.queue, 0.0) <= now]
        if not asked:
            return
        self._next.update((keys.queue, now + LOOK_AGAIN) for keys in asked)  # should one of them fail
        replies = self._link.run_many([transitions.promote(keys) for keys in asked])
        for keys, (promoted, wait, broken) in zip(asked, replies, strict=True):
            self._next[keys.queue] = now + (min(wait / 1000, LOOK_AGAIN) if wait >= 0 else NOTHING_DUE)
            if promoted:
                log.debug("jobs.promoted", queue=keys.queue, count=promoted)
            if broken:
                log.error("due.malformed", queue=keys.queue, count=broken)
