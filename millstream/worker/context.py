"""What a handler may ask about the job it runs for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Protocol

import structlog

from millstream.protocol.errors import MillstreamError
from millstream.worker.reporting import Report, installed


class Running(Protocol):
    """A run, which makes its :class:`CurrentJob` only for a handler that asks."""

    def current_job(self) -> CurrentJob: ...


_current: ContextVar[Running | None] = ContextVar("millstream_current_job", default=None)


class _Reporting:
    """Room for a run's report, which is made when the run has something to report."""

    __slots__ = ("_report",)
    _report: Report | None


@dataclass(frozen=True, slots=True)
class CurrentJob(_Reporting):
    """The job that is running. ``run`` is a number that grows with every delivery of the job: a fence token.

    ``entry`` names this delivery; no other one, of any job of the queue, has the same.
    """

    id: str
    name: str
    queue: str
    attempt: int
    run: int
    headers: dict[str, str]
    entry: str = ""

    def progress(self, percent: float, message: str | None = None) -> None:
        """Report how far the job is: *percent* from 0 to 100, and what it is doing.

        It costs next to nothing and never waits: the newest word is sent four times a second, and before the job
        ends. An outage of Redis is not noticed. Raises :class:`ValueError`.
        """
        if type(percent) not in _NUMBERS:
            percent = _number(percent)
        if not 0 <= percent <= 100:
            raise ValueError(f"progress {percent!r} is not valid: use a number from 0 to 100")
        if message is not None and not isinstance(message, str):
            raise ValueError(f"the message of progress {message!r} is not valid: use a text")
        try:
            report = self._report
        except AttributeError:
            report = self._begin()
        if report is not None:
            report.progress((percent, message))

    def log(self, line: str) -> None:
        """Keep a line with the job, as one of the newest that fit in 16 KiB, and write it to the log.

        As any line that a handler logs, it carries the job's id, name and run there. It is sent as progress is.
        """
        structlog.get_logger("millstream.job").info("job.log", line=line)
        try:
            report = self._report
        except AttributeError:
            report = self._begin()
        if report is not None:
            report.log(str(line))

    def _begin(self) -> Report | None:
        reporter = installed()
        report = reporter.report(self.queue, self.id, self.entry, self.run) if reporter else None
        object.__setattr__(self, "_report", report)
        return report


_NUMBERS = (int, float)


def _number(percent: object) -> float:
    """What is a number of another type (Decimal, numpy) as a float."""
    if not isinstance(percent, bool) and isinstance(percent, (Real, Decimal)):
        return float(percent)
    raise ValueError(f"progress {percent!r} is not valid: use a number from 0 to 100")


def running_job() -> CurrentJob | None:
    """The job that this code runs for, None outside of one."""
    run = _current.get()
    return run.current_job() if run is not None else None


def current_job() -> CurrentJob:
    """The job that this code runs for. Raises :class:`MillstreamError` outside of one."""
    job = running_job()
    if job is None:
        raise MillstreamError("current_job() works only inside a running job")
    return job


def set_current_run(run: Running | None) -> None:
    """Say which run is on; the execution calls it around each handler."""
    _current.set(run)
