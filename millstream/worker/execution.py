"""Run one job and say how it ended."""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from millstream.protocol.envelope import Entry
from millstream.protocol.errors import (
    CancelRequested,
    Discard,
    Fail,
    JobInterrupted,
    JobTimeout,
    LeaseLost,
    NotJSON,
    PayloadTooLarge,
    RetryLater,
    Snooze,
)
from millstream.protocol.fate import fate_of
from millstream.protocol.labels import labels_of
from millstream.protocol.payload import checked_size, encode
from millstream.protocol.policy import LONGEST, LONGEST_TTL, seconds
from millstream.protocol.registry import Job
from millstream.protocol.scoreboard import Word
from millstream.protocol.transitions import NOT_COUNTED, Kind, Outcome
from millstream.worker.context import CurrentJob, set_current_run
from millstream.worker.coroutines import Coroutines
from millstream.worker.journal import Journal
from millstream.worker.rows import MEASURED, error_of, exit_code_of, run_row
from millstream.worker.signals import Signals

KEEP_GENERATED_ID = 300.0
"""Seconds for which a generated id stays taken after its job's end, so that an enqueue can be sent again."""


@dataclass(slots=True)
class Run:
    """One run of one job: what went in, and what came out so far."""

    number: int
    entry: Entry
    job: Job[..., Any]
    started_at: int
    max_attempts: int
    result: Any = None
    error: BaseException | None = None
    duration: float = 0.0
    cpu: float = 0.0
    current: CurrentJob | None = None

    @property
    def attempt(self) -> int:
        return self.entry.attempt + 1

    def current_job(self) -> CurrentJob:
        """What the handler may ask of this run, made when it asks."""
        if self.current is None:
            entry = self.entry
            self.current = CurrentJob(
                entry.id, entry.name, entry.queue, self.attempt, entry.run, entry.headers, entry.ref
            )
        return self.current


def _is_too_late(run: Run, delay: float) -> bool:
    """Whether the job's deadline is over when it would run again: settling decides the same, later."""
    expires = run.entry.expires
    return bool(expires) and run.started_at + 1000 * (run.duration + delay) >= expires


def keep_of(job: Job[..., Any], entry: Entry) -> int:
    """Milliseconds for which the record outlives the job."""
    options, ttl, keep = entry.options, job.result_ttl, KEEP_GENERATED_ID
    if options:
        ttl, keep = options.get("result_ttl", ttl), options.get("keep", keep)
    return int(1000 * min(LONGEST_TTL, max(ttl, keep)))


def leave_the_run_to_the_parent(error: BaseException | None) -> NoReturn:
    """End a process that a handler has forked and that came out of the handler: there is one worker for a record."""
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if error is None else exit_code_of(error))


def _cpu_of_children() -> int:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((used.ru_utime + used.ru_stime) * 1e9)


class Execution:
    """Calls handlers, and turns what they return or raise into outcomes."""

    def __init__(self, worker: str, signals: Signals, words: memoryview, coroutines: Coroutines | None = None) -> None:
        self._worker = worker
        self._signals = signals
        self._words = words
        words[Word.CHILD_CPU] = _cpu_of_children()
        self._coroutines = coroutines or Coroutines()
        self._journal = Journal()

    def run(self, run: Run) -> Outcome | None:
        """Run the handler; None where nothing is to be recorded because the delivery was taken from us."""
        self._call(run)
        try:
            return self._outcome(run)
        except Exception as error:  # what it raised or returned cannot be carried out as asked
            run.error = error
            return self._dead(run, "error")

    def close(self) -> None:
        """Close the event loop of async handlers, if there was one."""
        self._coroutines.close()

    def _call(self, run: Run) -> None:
        entry, signals = run.entry, self._signals
        set_current_run(run)
        handler = self._async_handler(run.job) if run.job.is_async else run.job.handler
        if self._journal.says_each:
            self._journal.started(run)
        started = time.monotonic()
        cpu = self._words[Word.CPU_BEFORE] = time.process_time_ns()
        try:
            signals.in_handler = run.number  # from here on an interruption may be raised
            try:
                run.result = handler(*entry.args, **entry.kwargs)
            finally:
                signals.in_handler = 0
        except BaseException as error:  # whatever a handler raises ends its job, never the worker
            signals.in_handler = 0  # raised before the inner block was entered
            run.error = error
        if signals.forked:
            leave_the_run_to_the_parent(run.error)
        run.duration, run.cpu = time.monotonic() - started, (time.process_time_ns() - cpu) / 1e9
        if run.duration >= MEASURED:
            run.cpu += self._take_cpu_of_children() / 1e9
        set_current_run(None)

    def _take_cpu_of_children(self) -> int:
        """Nanoseconds that subprocesses have used that were waited for since the last call."""
        before, now = self._words[Word.CHILD_CPU], _cpu_of_children()
        self._words[Word.CHILD_CPU] = now
        return now - before

    def _async_handler(self, job: Job[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._coroutines.run(job.handler(*args, **kwargs))

    def _outcome(self, run: Run) -> Outcome | None:
        error = run.error
        if error is None:
            return self._completed(run)
        match error:
            case LeaseLost():
                self._journal.lease_lost(run)
                return None
            case JobInterrupted():
                self._journal.released(run, "interrupted")
                return self._outcome_of(run, Kind.RELEASE, 0, b"")
            case Snooze():
                delay = seconds(error.seconds)
                self._journal.released(run, "snoozed", delay)
                return self._outcome_of(run, Kind.RELEASE, max(1, int(delay * 1000)), b"")
            case CancelRequested():
                self._journal.cancelled(run)
                return self._final(run, Kind.CANCELLED, "cancelled")
            case Discard():
                return self._discarded(run, "error")
            case Fail():
                return self._dead(run, "error")
            case JobTimeout():
                return self._failed(run, "timeout")
            case SystemExit():
                return self._failed(run, "exit")
            case _:
                return self._failed(run, "error")

    def _completed(self, run: Run) -> Outcome:
        try:
            result = checked_size(encode(run.result, "result"), f"the result of {run.job.name!r}")
        except (NotJSON, PayloadTooLarge) as problem:
            run.error = problem
            return self._dead(run, "result")
        options, ttl = run.entry.options, run.job.result_ttl
        if options:
            ttl = options.get("result_ttl", ttl)
        row = self._row(
            run,
            result=result if ttl > 0 and result != b"null" else None,
            labels=labels_of(options) if options else None,
            not_kept=ttl <= 0,
        )
        if self._journal.tells_of(run):
            self._journal.completed(run)
        return self._outcome_of(run, Kind.COMPLETED, keep_of(run.job, run.entry), row)

    def _failed(self, run: Run, cause: str) -> Outcome:
        error = run.error
        assert error is not None
        fate = fate_of(run.job.retry, run.entry, error, cause)
        if fate.kind is Kind.DISCARDED:
            return self._discarded(run, cause)
        if fate.kind is Kind.DEAD:
            return self._dead(run, cause, counted=fate.counted)
        asked = error.delay if isinstance(error, RetryLater) else None
        delay = fate.wait() if asked is None else seconds(asked)
        if _is_too_late(run, delay):
            return self._dead(run, cause, counted=fate.counted)
        self._journal.failed(run, cause, delay)
        told = error_of(error, cause)
        if fate.problem and asked is None:
            self._journal.backoff_failed(run, fate.problem)
            told["message"] = f"{told['message']} ({fate.problem})"
        tell = run.job.tells and run.entry.expires > 0  # settling may find its deadline over, and bury it
        row = self._row(run, counted=fate.counted, cause=cause, error=told, tell=tell)
        return self._outcome_of(run, fate.kind, max(1, int(delay * 1000)), row)

    def _dead(self, run: Run, cause: str, *, counted: bool = True) -> Outcome:
        assert run.error is not None
        self._journal.dead(run, cause)
        row = self._row(run, counted=counted, cause=cause, error=error_of(run.error, cause), tell=run.job.tells)
        return self._outcome_of(run, Kind.DEAD, 0 if counted else NOT_COUNTED, row)

    def _discarded(self, run: Run, cause: str) -> Outcome:
        self._journal.discarded(run, cause)
        return self._final(run, Kind.DISCARDED, cause)

    def _final(self, run: Run, kind: Kind, cause: str) -> Outcome:
        assert run.error is not None
        row = self._row(run, cause=cause, error=error_of(run.error, cause), labels=labels_of(run.entry.options))
        return self._outcome_of(run, kind, keep_of(run.job, run.entry), row)

    def _row(self, run: Run, *, counted: bool = True, **kept: Any) -> bytes:
        return run_row(
            run.entry,
            attempt=run.attempt if counted else run.entry.attempt,
            max_attempts=run.max_attempts,
            worker=self._worker,
            started_at=run.started_at,
            duration=run.duration,
            cpu=run.cpu,
            **kept,
        )

    def _outcome_of(self, run: Run, kind: Kind, number: int, row: bytes) -> Outcome:
        entry = run.entry
        return Outcome(entry.ref, entry.id, kind, min(number, int(LONGEST * 1000)), row, entry.holds)
