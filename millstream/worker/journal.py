"""What a worker says of its jobs in the log: one line a fact, each with the job's id, name, queue, attempt and run.

Arguments and results are never among it. The worker and its pid are bound to every line of the process.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

from millstream.worker.rows import text_of

if TYPE_CHECKING:
    from millstream.worker.execution import Run

log = structlog.get_logger("millstream.worker")

LONG = 1.0
"""Seconds from which on the end of a run is said at level ``info``."""

ERROR_LIMIT = 200
"""Characters of an error's text in a line; the job's record has more."""


class Journal:
    """Words what became of runs. What would be said of every tiny job is said at level ``debug`` only."""

    def __init__(self) -> None:
        self.says_each = logging.getLogger().isEnabledFor(logging.DEBUG)

    def tells_of(self, run: Run) -> bool:
        """Whether to say that it completed: always of a long one."""
        return run.duration >= LONG or self.says_each

    def started(self, run: Run) -> None:
        """Its handler is about to be called."""
        log.debug("job.started", **_facts(run))

    def completed(self, run: Run) -> None:
        """It returned."""
        level = logging.INFO if run.duration >= LONG else logging.DEBUG
        log.log(level, "job.completed", **_facts(run), duration=round(run.duration, 6))

    def failed(self, run: Run, cause: str, delay: float) -> None:
        """It runs again *delay* seconds later."""
        log.warning("job.failed", **_facts(run), **_error(run, cause), retry_in=round(delay, 3))

    def backoff_failed(self, run: Run, problem: str) -> None:
        """Its policy could not say when it runs again."""
        log.error("job.backoff_failed", **_facts(run), error=problem[:ERROR_LIMIT])

    def dead(self, run: Run, cause: str) -> None:
        """It does not run again."""
        log.error("job.dead", **_facts(run), **_error(run, cause))

    def discarded(self, run: Run, cause: str) -> None:
        """It ended quietly, by ``Discard`` or its policy's ``discard_on``."""
        log.info("job.discarded", **_facts(run), **_error(run, cause))

    def cancelled(self, run: Run) -> None:
        """It heeded its cancellation."""
        log.info("job.cancelled", **_facts(run), cause="cancelled")

    def released(self, run: Run, cause: str, delay: float = 0.0) -> None:
        """It goes back uncounted: the worker drains, or it snoozed."""
        log.info("job.released", **_facts(run), cause=cause, retry_in=round(delay, 3))

    def lease_lost(self, run: Run) -> None:
        """Its delivery was taken from us; nothing is recorded."""
        log.warning("job.lease_lost", **_facts(run))


def _facts(run: Run) -> dict[str, Any]:
    entry = run.entry
    return {"job": entry.id, "name": entry.name, "queue": entry.queue, "attempt": run.attempt, "run": entry.run}


def _error(run: Run, cause: str) -> dict[str, str]:
    error = run.error
    return {"cause": cause, "error": f"{type(error).__name__}: {text_of(error)}"[:ERROR_LIMIT] if error else ""}
