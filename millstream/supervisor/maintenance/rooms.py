"""Rooms: jobs that wait for a place of their key, and names that somebody began to resume."""

from __future__ import annotations

import structlog

from millstream.protocol import limits
from millstream.protocol.link import Link
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

EVERY = 1.0
"""Seconds between two looks: every end of a job lets the next one go on by itself, this is for what was lost."""


class Rooms:
    """Looks after the rooms of our queues, some of them at a time."""

    def __init__(self, plan: Plan, link: Link) -> None:
        self._plan = plan
        self._link = link
        self._cursors: dict[str, str] = {}

    def tend(self) -> None:
        """Free lost places, let go on who waits for them, and go on with resumes. Raises :class:`Unavailable`."""
        every = self._plan.queue_keys
        found = self._link.run_many([limits.tend(keys, self._cursors.get(keys.queue, "0")) for keys in every])
        left = []
        for keys, (cursor, freed, resuming) in zip(every, found, strict=True):
            self._cursors[keys.queue] = cursor
            if freed:
                log.warning("places.freed", queue=keys.queue, count=freed)
            if resuming:
                left.append(keys)
        if left:
            self._link.run_many([limits.resume_job(keys, "") for keys in left])
