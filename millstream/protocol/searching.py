"""Find jobs by what is known of them; :func:`list_jobs` looks at them one by one, and says at how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from millstream.protocol.info import JobInfo
from millstream.protocol.inspect import surveys
from millstream.protocol.keys import QueueKeys
from millstream.protocol.listing import Wanted
from millstream.protocol.runner import Runner


@dataclass(frozen=True)
class Query(Wanted):
    """Which jobs are looked for: those that have all of this.

    ``metadata`` by name, each value as a text or as JSON. ``since`` and ``until`` are aware datetimes, for when a job
    was enqueued. ``error`` is a part of what made it fail: cause, type and message, in any case of letters.
    """

    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None

    @property
    def selective(self) -> bool:
        return super().selective or any((self.tags, self.metadata, self.since, self.until, self.error))

    def matches(self, info: JobInfo) -> bool:
        return (
            super().matches(info)
            and set(self.tags) <= set(info.tags)
            and all(name in info.metadata and _is(info.metadata[name], text) for name, text in self.metadata.items())
            and self._in_time(info.enqueued_at)
            and (self.error is None or self.error.casefold() in _failure(info))
        )

    def _in_time(self, at: datetime | None) -> bool:
        if self.since is None and self.until is None:
            return True
        return at is not None and (self.since or at) <= at <= (self.until or at)


def _is(value: Any, text: str) -> bool:
    """Whether a value is what somebody has typed: a text as it is, another one as JSON."""
    if isinstance(value, str):
        return value == text
    try:
        return bool(value == orjson.loads(text))
    except orjson.JSONDecodeError:
        return False


def _failure(info: JobInfo) -> str:
    error = info.error
    return f"{error.cause} {error.type}: {error.message}".casefold() if error else ""


def extent(runner: Runner, queues: Sequence[QueueKeys]) -> int:
    """How many jobs wait, run, are due or dead; up to 1,000 of each queue that ended come besides.

    Raises :class:`Unavailable`.
    """
    counted = surveys(runner, queues)
    return sum(one.waiting + one.running + one.due + one.dead for one in counted)
