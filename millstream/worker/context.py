"""What a handler may ask about the job it runs for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from millstream.protocol.errors import MillstreamError

_current: ContextVar[CurrentJob | None] = ContextVar("millstream_current_job", default=None)


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """The job that is running. ``run`` is a number that grows with every delivery of the job: a fence token."""

    id: str
    name: str
    queue: str
    attempt: int
    run: int
    headers: dict[str, str]

    def log(self, line: str) -> None:
        """Write a line to the log; as any line that a handler logs, it carries the job's id, name and run."""
        structlog.get_logger("millstream.job").info("job.log", line=line)


def running_job() -> CurrentJob | None:
    """The job that this code runs for, None outside of one."""
    return _current.get()


def current_job() -> CurrentJob:
    """The job that this code runs for. Raises :class:`MillstreamError` outside of one."""
    job = _current.get()
    if job is None:
        raise MillstreamError("current_job() works only inside a running job")
    return job


def set_current_job(job: CurrentJob | None) -> None:
    """Say which job is running; the execution calls it around each handler."""
    _current.set(job)
