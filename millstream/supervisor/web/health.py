"""Is the process tree sane (liveness), and does it work (readiness)? With the reasons where not.

What another process would not mend makes nothing unhealthy: while Redis is away, a restart would only lose what the
workers are doing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from millstream.protocol.scoreboard import Header, Order, Phase, RecordState, Scoreboard, Word
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.web.facts import Snapshot

SUPERVISOR_SILENT = 5.0
"""Seconds without a tick after which the supervisor is taken to hang; it ticks every 0.1 s."""

REDIS_SILENT = 5.0
"""Seconds after maintenance's last good round at which Redis is taken to be away; there is one every second."""

FETCH_SILENT = 10.0
"""Seconds after which an idle worker is taken not to fetch; it does so every 2 s."""

DOWN = 30.0
"""Seconds without a worker that is ready after which its group is told of: most applications start sooner."""


class Status(StrEnum):
    """What a report comes to."""

    OK = "ok"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    READY = "ready"
    UNREADY = "unready"


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong: a name for programs, the words for people, and whether the check fails for it."""

    name: str
    text: str
    fatal: bool


@dataclass(frozen=True)
class Report:
    """The answer of one check."""

    status: Status
    reasons: list[Reason]

    @property
    def passed(self) -> bool:
        """Whether the answer is 200."""
        return self.status in (Status.OK, Status.DEGRADED, Status.READY)

    def to_dict(self) -> dict[str, Any]:
        """As the endpoint answers it."""
        return {
            "status": str(self.status),
            "reasons": [{"name": reason.name, "text": reason.text} for reason in self.reasons],
        }


def healthy(plan: Plan, board: Scoreboard, facts: Snapshot) -> Report:
    """Whether the process tree is sane."""
    reasons = [
        *_processes(plan, board),
        *_groups(plan, board),
        *_redis(board, fatal=False),
        *_backlog(plan, facts),
        *_metrics(plan, board),
    ]
    if any(reason.fatal for reason in reasons):
        return Report(Status.UNHEALTHY, reasons)
    return Report(Status.DEGRADED if reasons else Status.OK, reasons)


def ready(plan: Plan, board: Scoreboard) -> Report:
    """Whether jobs are fetched and run."""
    reasons = [*_phase(board), *_redis(board, fatal=True), *_fetching(plan, board)]
    return Report(Status.UNREADY if reasons else Status.READY, reasons)


def _age(nanoseconds: int) -> float:
    """Seconds since a moment on the monotonic clock."""
    return time.monotonic() - nanoseconds / 1e9


def _processes(plan: Plan, board: Scoreboard) -> Iterator[Reason]:
    silent = _age(board.header[Header.SUPERVISOR_TICK])
    if board.header[Header.SUPERVISOR_TICK] and silent > SUPERVISOR_SILENT:
        yield Reason("supervisor", f"the supervisor has not ticked for {silent:.0f} s", True)
    tick = board.header[Header.MAINTENANCE_TICK]
    # The supervisor replaces it after this time; only if that does not help something is wrong.
    patience = 3 * max(1.0, plan.lease / 6)
    if tick and _age(tick) > patience:
        yield Reason("maintenance", f"maintenance has not ticked for {_age(tick):.0f} s", True)


def _groups(plan: Plan, board: Scoreboard) -> Iterator[Reason]:
    degraded = [group for group in plan.groups if board.header[Header.DEGRADED + group.index]]
    for group in degraded:
        all_of_them = len(degraded) == len(plan.groups)
        yield Reason("group", f"the workers of group {group.name} keep dying", all_of_them)
    for group in plan.groups:
        since = board.header[Header.DOWN_SINCE + group.index]
        if since and _age(since) > DOWN:
            yield Reason("workers", f"no worker of group {group.name} was ready for {_age(since):.0f} s", False)


def _redis(board: Scoreboard, *, fatal: bool) -> Iterator[Reason]:
    seen = board.header[Header.REDIS_SEEN]
    if not seen:
        yield Reason("redis", "Redis has not answered maintenance yet", fatal)
    elif _age(seen) > REDIS_SILENT:
        yield Reason("redis", f"Redis has not answered maintenance for {_age(seen):.0f} s", fatal)


def _backlog(plan: Plan, facts: Snapshot) -> Iterator[Reason]:
    for queue in facts.queues:
        name, oldest = queue["queue"], queue["oldest"]
        limit = plan.max_backlog_age.get(name, plan.max_backlog_age.get("*"))
        if limit is None or oldest is None or queue["paused"] or name not in plan.queues:
            continue
        age = time.time() - oldest
        if age > limit:
            yield Reason(
                "backlog", f"the oldest job in queue {name} waits for {age:.0f} s, more than {limit:g} s", False
            )


def _metrics(plan: Plan, board: Scoreboard) -> Iterator[Reason]:
    """Jobs run on where they cannot be counted: on a full disk, or where somebody has emptied the temporary folder."""
    workers = [record for record in board.in_state(RecordState.ALIVE) if record.words[Word.READY]]
    codes = [board.header[Header.UNCOUNTED], *(record.words[Word.UNCOUNTED] for record in workers)]
    lost = [code for code in codes if code]
    if lost:
        yield Reason(
            "metrics",
            f"{len(lost)} of {len(codes)} processes cannot count in {plan.metrics}: {os.strerror(lost[0])}",
            False,
        )
        return
    counting = [str(record.index) for record in workers]
    if board.header[Header.MAINTENANCE_TICK]:
        counting.append("m")
    gone = [owner for owner in counting if not os.path.exists(os.path.join(plan.metrics, f"counter_{owner}.db"))]
    if gone:
        yield Reason(
            "metrics", f"the files of {len(gone)} of {len(counting)} processes are gone from {plan.metrics}", False
        )


def _phase(board: Scoreboard) -> Iterator[Reason]:
    phase = Phase(board.header[Header.PHASE])
    if phase is not Phase.RUNNING:
        yield Reason(phase.name.lower(), f"the supervisor is {phase.name.lower()}", True)


def _fetching(plan: Plan, board: Scoreboard) -> Iterator[Reason]:
    for group in plan.groups:
        if not any(_fetches(plan, board, group)):
            yield Reason("workers", f"no worker of group {group.name} is ready and fetches", True)


def _fetches(plan: Plan, board: Scoreboard, group: GroupPlan) -> Iterator[bool]:
    """For each worker of the group, whether it works: it runs a job, or has fetched lately."""
    for record in board.in_state(RecordState.ALIVE):
        words = record.words
        if plan.group_of(record).name == group.name:
            fetched = bool(words[Word.LAST_FETCH]) and _age(words[Word.LAST_FETCH]) < FETCH_SILENT
            yield (
                bool(words[Word.READY])
                and words[Word.ORDER] in (Order.WORK, Order.HALT)
                and (bool(record.running or words[Word.BUSY_LANES]) or fetched)
            )
