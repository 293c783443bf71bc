"""What maintenance counts: the runs that it settles for workers, and how workers ended."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import orjson

from millstream.protocol.scoreboard import Cause, Header, Scoreboard
from millstream.protocol.transitions import Kind, Outcome, RecoveredRun, Verdict
from millstream.supervisor.endings import Ending
from millstream.supervisor.plan import Plan
from millstream.worker import cells, metrics
from millstream.worker.cells import Counter, Histogram
from millstream.worker.metrics import Ended, JobSeries

OWNER = "m"
"""The name of maintenance's files."""

REASONS = ("clean", "crash", "exit", *(cause.name.lower() for cause in Cause if cause is not Cause.NONE))
"""Every reason that a worker's end may have."""

OPERATIONS = ("urgent", "duties")

_NOT_REGISTERED = ("unknown_job", "malformed")


class Uncounted:
    """The counts where nothing is served that could show them."""

    def settled(self, queue: str, outcomes: Sequence[Outcome], verdicts: Sequence[bool | None]) -> None:
        """Count runs that were settled: accepted (True), refused as stale (False), or neither (None)."""

    def exited(self, group: str, ending: Ending) -> None:
        """Count a worker's end."""

    def redelivered(self, queue: str, reason: str, count: int = 1) -> None:
        """Count runs that started, did not end, and are delivered again."""

    def recovered(self, queue: str, ended: Sequence[RecoveredRun]) -> None:
        """Count runs whose lease was over and that counted."""

    def redis_failed(self, operation: str) -> None:
        """Count a failed round of the urgent loop or of the duties."""

    def redis_answered(self, operation: str, seconds: float) -> None:
        """Observe how long a round of the urgent loop or of the duties waited for Redis."""

    def collector_failed(self) -> None:
        """Count that what is known of queues and hosts could not be asked or kept."""


class Counting(Uncounted):
    """Counts in maintenance's own files."""

    def __init__(self, plan: Plan, board: Scoreboard) -> None:
        board.header[Header.UNCOUNTED] = 0
        cells.install(plan.metrics, OWNER, partial(board.header.__setitem__, Header.UNCOUNTED))
        self._series = JobSeries()
        self._both = threading.Lock()  # both loops count jobs: a series that each makes for itself would lose counts
        self._busy = {name: Counter(metrics.BUSY, name) for name in plan.group_names}
        self._exits = {
            (name, reason): Counter(metrics.EXITS, name, reason) for name in plan.group_names for reason in REASONS
        }
        self._errors = {name: Counter(metrics.REDIS_ERRORS, name) for name in OPERATIONS}
        self._rounds = {name: Histogram(metrics.REDIS_DURATION, name) for name in OPERATIONS}
        for rounds in self._rounds.values():
            rounds.prepare()
        self._collector_errors = Counter(metrics.COLLECTOR_ERRORS)
        self._stale = Counter(metrics.STALE)
        for queue in plan.queues:
            for reason in metrics.REASONS:
                self._series.redelivered(queue, reason, 0)

    def settled(self, queue: str, outcomes: Sequence[Outcome], verdicts: Sequence[bool | None]) -> None:
        accepted: dict[tuple[str, str], Ended] = {}
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            if verdict:
                _add(accepted, outcome)
                if outcome.kind == Kind.CRASH:
                    self._series.redelivered(queue, "crash")
                elif outcome.kind == Kind.RELEASE and outcome.number == 0:  # interrupted, not snoozed
                    self._series.redelivered(queue, "shutdown")
            elif verdict is False:
                self._stale.add()
        with self._both:
            self._series.count(queue, accepted)

    def exited(self, group: str, ending: Ending) -> None:
        self._exits[group, ending.cause].add()

    def redelivered(self, queue: str, reason: str, count: int = 1) -> None:
        self._series.redelivered(queue, reason, count)

    def recovered(self, queue: str, ended: Sequence[RecoveredRun]) -> None:
        counted: dict[tuple[str, str], Ended] = {}
        for run in ended:
            counted.setdefault((run.name, run.kind), Ended()).count += 1
        with self._both:
            self._series.count(queue, counted)

    def redis_failed(self, operation: str) -> None:
        self._errors[operation].add()

    def redis_answered(self, operation: str, seconds: float) -> None:
        self._rounds[operation].add((seconds,))

    def collector_failed(self) -> None:
        self._collector_errors.add()


def accepted(verdict: Verdict, run: int, counted: int) -> bool | None:
    """Whether a settle is to be counted: one that was accepted before is, unless its worker came to count it."""
    if verdict is Verdict.ALREADY:
        return True if run > counted else None
    return {Verdict.OK: True, Verdict.STALE: False}.get(verdict)


def _add(ended: dict[tuple[str, str], Ended], outcome: Outcome) -> None:
    """Add what the row of a run tells; a release has none."""
    row = orjson.loads(outcome.row) if outcome.row else {}
    ran = "n" in row and row.get("c") not in _NOT_REGISTERED
    runs = ended.setdefault((row["n"] if ran else metrics.UNKNOWN, str(outcome.kind)), Ended())
    runs.count += 1
    if ran:
        started, duration = row["s"], row["d"]
        wait = max(0, started - int(outcome.ref[1:].partition("-")[0])) / 1000
        runs.durations.append(duration)
        runs.waits.append(wait)
        runs.totals.append(max(0.0, (started - row["t"]) / 1000 + duration) if "t" in row else wait + duration)
        runs.attempts.append(row["a"])
