"""What is counted of jobs and workers: the metrics, and the series of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from millstream.protocol.spread import DURATIONS, WAITS
from millstream.protocol.transitions import Kind
from millstream.worker.cells import Counter, Histogram, Metric

ROUND_TRIPS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

FINISHED = Metric(
    "millstream_jobs_finished_total",
    ("queue", "job", "outcome"),
    "Runs of jobs whose end was accepted, by what became of the job.",
)
DURATION = Metric(
    "millstream_job_duration_seconds", ("queue", "job"), "How long runs of jobs took in their handler.", DURATIONS
)
WAIT = Metric(
    "millstream_job_wait_seconds", ("queue",), "From when a job could run to when it started.", WAITS, kept=("job",)
)
END_TO_END = Metric(
    "millstream_job_end_to_end_seconds", ("queue",), "From the first enqueue of a job to its final outcome.", WAITS
)
ATTEMPTS = Metric(
    "millstream_job_attempts", ("queue",), "Counted runs of jobs that reached a final outcome.", (1, 2, 3, 5, 10)
)
REDELIVERED = Metric(
    "millstream_jobs_redelivered_total",
    ("queue", "reason"),
    "Started runs that did not end, so that the job runs again.",
)
STALE = Metric(
    "millstream_stale_settles_total", (), "Ends of runs that were refused because the delivery had been taken."
)
BUSY = Metric(
    "millstream_worker_busy_seconds_total", ("group",), "Time that workers spent in handlers, of runs that ended."
)
CPU = Metric(
    "millstream_worker_cpu_seconds_total",
    ("group",),
    "CPU time of workers and their subprocesses, up to their last settle.",
)
EXITS = Metric("millstream_worker_exits_total", ("group", "reason"), "Worker processes that ended, by the cause.")
REDIS_ERRORS = Metric(
    "millstream_redis_errors_total", ("op",), "Operations that failed because Redis did not answer as it should."
)
REDIS_DURATION = Metric(
    "millstream_redis_command_duration_seconds", ("op",), "How long rounds of commands to Redis took.", ROUND_TRIPS
)
COLLECTOR_ERRORS = Metric(
    "millstream_collector_errors_total", (), "How often it failed to ask Redis about queues and hosts, or to keep it."
)

COUNTED = (
    FINISHED,
    DURATION,
    WAIT,
    END_TO_END,
    ATTEMPTS,
    REDELIVERED,
    STALE,
    BUSY,
    CPU,
    EXITS,
    REDIS_ERRORS,
    REDIS_DURATION,
    COLLECTOR_ERRORS,
)
"""All metrics that are kept in files."""

ENQUEUED = Metric(
    "millstream_jobs_enqueued_total",
    ("queue", "job", "kind"),
    "Jobs that came into a queue, from producers anywhere; retries are runs to come after one that counted.",
)
"""Counted in Redis, by the scripts (``_enqueued.lua``)."""

ARRIVALS = ("immediate", "delayed", "retry")
"""What the label ``kind`` says of how jobs come."""

UNKNOWN = "(unknown)"
"""The label for jobs whose name is not registered: names that anybody may have enqueued are no labels."""

OUTCOMES: dict[str, str] = {
    Kind.COMPLETED: "completed",
    Kind.DISCARDED: "discarded",
    Kind.CANCELLED: "cancelled",
    Kind.EXPIRED: "expired",
    Kind.DEAD: "dead",
    Kind.CRASHED: "dead",
    Kind.RETRY: "retried",
    Kind.TIMEOUT: "retried",
    Kind.MEMORY: "retried",
    Kind.CRASH: "retried",
    Kind.RELEASE: "released",
    Kind.UNKNOWN: "released",
}
"""What the label ``outcome`` says of the kinds of outcomes."""

FINAL: frozenset[str] = frozenset(
    {Kind.COMPLETED, Kind.DISCARDED, Kind.CANCELLED, Kind.EXPIRED, Kind.DEAD, Kind.CRASHED}
)

REASONS = ("crash", "idle", "shutdown")
"""Why runs are delivered again: the worker died, the lease expired, the worker was to end."""


@dataclass(slots=True)
class Ended:
    """Runs of one job that ended in one way, as columns. What was refused did not run: it is only counted.

    Seconds; ``totals`` are from the enqueue to the end of the run.
    """

    count: int = 0
    durations: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)


class JobSeries:
    """The series of all jobs, made when they are first needed.

    *complete* names, by queue, the jobs whose series exist in full in the files of some process: then ours hold only
    what we have counted.
    """

    def __init__(self, complete: Mapping[str, frozenset[str]] | None = None) -> None:
        self._complete = complete or {}
        self._finished: dict[tuple[str, str, str], Counter] = {}
        self._of_jobs: dict[tuple[Metric, str, str], Histogram] = {}
        self._of_queue: dict[tuple[Metric, str], Histogram] = {}
        self._redelivered: dict[tuple[str, str], Counter] = {}

    def prepare(self, queue: str, jobs: Iterable[str]) -> None:
        """Let the series of a queue and its jobs exist, at 0."""
        for job in jobs:
            self._of_job(DURATION, queue, job).prepare()
            self._of_job(WAIT, queue, job).prepare()
            for outcome in OUTCOMES.values():
                self._counter(queue, job, outcome)
        for metric in (END_TO_END, ATTEMPTS):
            self._histogram(metric, queue).prepare()

    def count(self, queue: str, ended: Mapping[tuple[str, str], Ended]) -> None:
        """Count runs of one queue whose ends were accepted, by job and kind; each series is written once."""
        self.count_ends(queue, ended)
        self.observe(queue, ended)

    def count_ends(self, queue: str, ended: Mapping[tuple[str, str], Ended]) -> None:
        """The first half of :meth:`count`: how many ended how."""
        for (job, kind), runs in ended.items():
            self._counter(queue, job, OUTCOMES[kind]).add(runs.count)

    def observe(self, queue: str, ended: Mapping[tuple[str, str], Ended]) -> None:
        """The second half: how long it took."""
        for (job, kind), runs in ended.items():
            if not runs.durations:
                continue
            self._of_job(DURATION, queue, job).add(runs.durations)
            self._of_job(WAIT, queue, job).add(runs.waits)
            if kind in FINAL:
                self._histogram(END_TO_END, queue).add(runs.totals)
                self._histogram(ATTEMPTS, queue).add(runs.attempts)

    def redelivered(self, queue: str, reason: str, count: int = 1) -> None:
        """Count runs that started, did not end, and are delivered again; 0 makes the series exist."""
        series = self._redelivered.get((queue, reason))
        if series is None:
            series = self._redelivered[queue, reason] = Counter(REDELIVERED, queue, reason)
        if count:
            series.add(count)

    def _counter(self, queue: str, job: str, outcome: str) -> Counter:
        series = self._finished.get((queue, job, outcome))
        if series is None:
            series = self._finished[queue, job, outcome] = Counter(FINISHED, queue, job, outcome)
        return series

    def _of_job(self, metric: Metric, queue: str, job: str) -> Histogram:
        series = self._of_jobs.get((metric, queue, job))
        if series is None:
            series = self._of_jobs[metric, queue, job] = Histogram(metric, queue, job)
            if job not in self._complete.get(queue, ()):
                series.prepare()
        return series

    def _histogram(self, metric: Metric, queue: str) -> Histogram:
        series = self._of_queue.get((metric, queue))
        if series is None:
            series = self._of_queue[metric, queue] = Histogram(metric, queue)
            if queue not in self._complete:
                series.prepare()
        return series
