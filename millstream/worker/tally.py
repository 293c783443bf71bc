"""What a worker counts: the runs whose ends were accepted, once each, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from millstream.protocol.registry import Job
from millstream.protocol.scoreboard import Record, Word
from millstream.protocol.transitions import Kind, Outcome, Verdict
from millstream.worker import metrics
from millstream.worker.cells import Counter
from millstream.worker.execution import Run
from millstream.worker.metrics import Fact, JobSeries
from millstream.worker.spec import WorkerSpec

Verdicts = Sequence[tuple[Verdict, str]]

_REFUSED = -1.0
"""The wait of what did not run at all."""


class Uncounted:
    """The tally where nothing is served that could show it."""

    def note(self, number: int, outcome: Outcome, run: Run | None) -> None:
        """Keep what is to be counted of a run (None: of a refusal) when its end is accepted."""

    def judged(self, queue: str, outcomes: Sequence[Outcome], verdicts: Verdicts, *, resent: bool) -> None:
        """Count what was accepted. *resent*: it may have been accepted before, and the reply lost."""

    def forget(self) -> None:
        """The batch is over; what is left of it was settled, and counted, by maintenance."""

    def redis_failed(self) -> None:
        """An exchange failed."""


class Tally(Uncounted):
    """Counts in the files of this worker's record."""

    def __init__(self, spec: WorkerSpec, record: Record, jobs: Iterable[Job[..., object]]) -> None:
        self._record = record
        self._noted: dict[str, tuple[int, Fact]] = {}
        self._series = JobSeries()
        self._busy = Counter(metrics.BUSY, spec.group)
        self._cpu = Counter(metrics.CPU, spec.group)
        self._stale = Counter(metrics.STALE)
        self._errors = Counter(metrics.REDIS_ERRORS, "exchange")
        self._cpu_counted = _cpu_seconds()
        self._prepare(spec, list(jobs))

    def _prepare(self, spec: WorkerSpec, jobs: list[Job[..., object]]) -> None:
        """Let every series of the group exist; one worker does it for all, so that files stay small."""
        mark = Path(spec.metrics, f"prepared-{spec.group}")
        if mark.exists():
            return
        for queue in spec.queues:
            self._series.prepare(queue, [job.name for job in jobs if job.queue == queue])
        mark.touch()

    def note(self, number: int, outcome: Outcome, run: Run | None) -> None:
        if run is None:
            fact = Fact(metrics.UNKNOWN, outcome.kind, 0.0, _REFUSED, 0.0, 0)
        else:
            entry, started = run.entry, run.started_at
            ready = int(entry.ref[1 : entry.ref.index("-")])
            wait, total = (started - ready) / 1000, (started - entry.enqueued_at) / 1000 + run.duration
            # A producer's clock, and ours as far as we guess the server's, may be off: no time is below 0.
            fact = Fact(
                entry.name,
                outcome.kind,
                run.duration,
                wait if wait > 0 else 0.0,
                total if total > 0 else 0.0,
                run.attempt,
            )
        self._noted[outcome.ref] = (number, fact)

    def judged(self, queue: str, outcomes: Sequence[Outcome], verdicts: Verdicts, *, resent: bool) -> None:
        accepted: list[Fact] = []
        last, busy, noted = 0, 0.0, self._noted
        for outcome, (verdict, _) in zip(outcomes, verdicts, strict=True):
            if verdict is Verdict.ERROR or outcome.ref not in noted:
                continue
            last, fact = noted.pop(outcome.ref)
            busy += fact.duration
            if verdict is Verdict.OK or (resent and verdict is Verdict.ALREADY):
                accepted.append(fact)
                if outcome.kind == Kind.RELEASE and outcome.number == 0:  # interrupted, not snoozed
                    self._series.redelivered(queue, "shutdown")
            elif verdict is Verdict.STALE:
                self._stale.add()
        self._series.count(queue, accepted)
        self._note_time(busy)
        if last:
            self._record.words[Word.COUNTED] = last

    def _note_time(self, busy: float) -> None:
        self._busy.add(busy)
        cpu = _cpu_seconds()
        self._cpu.add(cpu - self._cpu_counted)
        self._cpu_counted = cpu

    def forget(self) -> None:
        self._noted.clear()

    def redis_failed(self) -> None:
        self._errors.add()


def _cpu_seconds() -> float:
    """CPU time of this process and of its subprocesses that have ended."""
    return sum(os.times()[:4])
