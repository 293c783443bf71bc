"""What maintenance says in the log of jobs whose workers cannot: one line a fact."""

from __future__ import annotations

from typing import Any

import structlog

from millstream.protocol.scoreboard import Record, Word
from millstream.protocol.transitions import Kind, Outcome, RecoveredRun
from millstream.supervisor.endings import Ending
from millstream.supervisor.plan import GroupPlan

log = structlog.get_logger("millstream.maintenance")


def run_facts(record: Record, group: GroupPlan) -> dict[str, Any]:
    """The run that a record is about."""
    words = record.words
    queue = words[Word.QUEUE]
    return {
        "worker": f"{group.name}/{words[Word.SLOT]}",
        "job": record.job_id,
        "name": record.job_name,
        "queue": group.queues[queue] if queue < len(group.queues) else None,
        "attempt": words[Word.ATTEMPT] + 1,
        "run": words[Word.RUN_TOKEN],
    }


def tell_of_death(record: Record, group: GroupPlan, ending: Ending, outcome: Outcome | None) -> None:
    """Say what became of the job that was running when its worker died; None: it goes back uncounted."""
    facts = {**run_facts(record, group), "cause": ending.cause, "signal": ending.signal, "exit_code": ending.exit_code}
    if outcome is None:
        log.info("job.released", **facts)
    elif outcome.kind in (Kind.RETRY, Kind.TIMEOUT, Kind.MEMORY, Kind.CRASH):
        log.warning("job.failed", **facts, retry_in=outcome.number / 1000)
    elif outcome.kind == Kind.CANCELLED:
        log.info("job.cancelled", **facts)
    elif outcome.kind == Kind.DISCARDED:
        log.info("job.discarded", **facts)
    else:
        log.error("job.dead", **facts)


def tell_of_recovery(queue: str, run: RecoveredRun, cause: str) -> None:
    """Say what became of a job that was really running when its host vanished."""
    facts = {"job": run.id, "name": run.name, "queue": queue, "run": run.number, "cause": cause}
    match run.kind:
        case Kind.CRASHED:
            log.error("job.dead", **facts)
        case Kind.CANCELLED:
            log.info("job.cancelled", **facts)
        case _:
            log.warning("job.failed", **facts)
