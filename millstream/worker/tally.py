"""What a worker counts: the runs whose ends were accepted, once each, a batch at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from millstream.protocol.errors import JobInterrupted
from millstream.protocol.registry import Job
from millstream.protocol.scoreboard import Record, Word
from millstream.protocol.transitions import Kind, Outcome, Verdict
from millstream.worker import metrics
from millstream.worker.cells import Counter, Histogram
from millstream.worker.execution import Run
from millstream.worker.metrics import Ended, JobSeries
from millstream.worker.names import write_names
from millstream.worker.spec import WorkerSpec

Verdicts = Sequence[tuple[Verdict, str]]

PREPARED = "prepared-"
"""Begins the names of files that mark a group whose series all exist."""


class Uncounted:
    """The tally where nothing is served that could show it."""

    def note(self, number: int, outcome: Outcome, run: Run | None) -> None:
        """Keep what is to be counted of a run (None: of a refusal) when its end is accepted."""

    def judged(self, queue: str, outcomes: Sequence[Outcome], verdicts: Verdicts, *, resent: bool) -> None:
        """Count what was accepted. *resent*: it may have been accepted before, and the reply lost."""

    def forget(self) -> None:
        """The batch is over; what is left of it was settled, and counted, by maintenance."""

    def redis_answered(self, seconds: float) -> None:
        """An exchange took so long."""

    def redis_failed(self) -> None:
        """An exchange failed."""


class Tally(Uncounted):
    """Counts in the files of this worker's record."""

    def __init__(self, spec: WorkerSpec, record: Record, jobs: Sequence[Job[..., object]]) -> None:
        self._record = record
        self._noted: dict[str, tuple[int, Run | None]] = {}
        known = {queue: frozenset(job.name for job in jobs if job.queue == queue) for queue in spec.queues}
        self._series = JobSeries(known)
        self._busy = Counter(metrics.BUSY, spec.group)
        self._cpu = Counter(metrics.CPU, spec.group)
        self._stale = Counter(metrics.STALE)
        self._errors = Counter(metrics.REDIS_ERRORS, "exchange")
        self._exchanges = Histogram(metrics.REDIS_DURATION, "exchange")
        self._cpu_counted = _cpu_seconds()
        self._prepare(Path(spec.metrics, f"{PREPARED}{spec.group}"), known)
        with contextlib.suppress(OSError):  # maintenance keeps the names that it has read
            write_names(spec.metrics, {job.name: job.queue for job in jobs}, str(record.index))

    def _prepare(self, mark: Path, known: Mapping[str, Iterable[str]]) -> None:
        """Let every series of the group exist; one worker does it for all, so that files stay small."""
        if not mark.exists():
            for queue, jobs in known.items():
                self._series.prepare(queue, jobs)
            self._exchanges.prepare()
            with contextlib.suppress(OSError):  # then another worker lets them exist, too
                mark.touch()

    def note(self, number: int, outcome: Outcome, run: Run | None) -> None:
        self._noted[outcome.ref] = (number, run)

    def judged(self, queue: str, outcomes: Sequence[Outcome], verdicts: Verdicts, *, resent: bool) -> None:
        accepted: dict[tuple[str, str], list[Run | None]] = {}
        last, busy, noted = 0, 0.0, self._noted
        ok, failed, unknown = Verdict.OK, Verdict.ERROR, metrics.UNKNOWN
        for outcome, (verdict, _) in zip(outcomes, verdicts, strict=True):
            found = None if verdict is failed else noted.pop(outcome.ref, None)
            if found is None:
                continue
            last, run = found
            name = unknown
            if run is not None:
                name, busy = run.entry.name, busy + run.duration
            if verdict is ok or (resent and verdict is Verdict.ALREADY):
                group = accepted.get((name, outcome.kind))
                if group is None:
                    group = accepted[name, outcome.kind] = []
                group.append(run)
            elif verdict is Verdict.STALE:
                self._stale.add()
        interrupted = sum(run is not None and isinstance(run.error, JobInterrupted) for run in _released(accepted))
        if interrupted:
            self._series.redelivered(queue, "shutdown", interrupted)
        ended = {key: _ended(runs, key[1]) for key, runs in accepted.items()}
        self._series.count_ends(queue, ended)
        if last:
            # Now: whoever settles for us when we are killed counts what is not marked. So ends are counted once, while
            # of durations some may be missing.
            self._record.words[Word.COUNTED] = last
        self._series.observe(queue, ended)
        self._note_time(busy)

    def _note_time(self, busy: float) -> None:
        self._busy.add(busy)
        cpu = _cpu_seconds()
        self._cpu.add(cpu - self._cpu_counted)
        self._cpu_counted = cpu

    def forget(self) -> None:
        self._noted.clear()

    def redis_answered(self, seconds: float) -> None:
        self._exchanges.add((seconds,))

    def redis_failed(self) -> None:
        self._errors.add()


def _released(accepted: Mapping[tuple[str, str], list[Run | None]]) -> list[Run | None]:
    """The runs that were given back."""
    return [run for (_, kind), runs in accepted.items() if kind == Kind.RELEASE for run in runs]


def _ended(noted: Sequence[Run | None], kind: str) -> Ended:
    """What is counted of runs; None stands for a refusal, and what has expired did not run either."""
    if kind == Kind.EXPIRED:
        return Ended(len(noted))
    runs = [run for run in noted if run is not None]
    # The id of an entry is the time at which it became ready. A producer's clock, and ours as far as we guess the
    # server's, may be off: nothing takes less than no time.
    waits = [run.started_at - int((ref := run.entry.ref)[1 : ref.index("-")]) for run in runs]
    totals = [(run.started_at - run.entry.enqueued_at) / 1000 + run.duration for run in runs]
    return Ended(
        len(noted),
        [run.duration for run in runs],
        [wait / 1000 if wait > 0 else 0.0 for wait in waits],
        [total if total > 0 else 0.0 for total in totals],
        [run.entry.attempt + 1 for run in runs],
    )


def _cpu_seconds() -> float:
    """CPU time of this process and of its subprocesses that have ended."""
    return sum(os.times()[:4])
