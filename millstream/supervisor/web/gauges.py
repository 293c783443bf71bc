"""What the scoreboard, the facts about queues and the process table say at this moment: gauges, and Redis's count."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import redis

import millstream
from millstream.protocol.scoreboard import ACTIVITIES, Header, Phase, Record, RecordState, Scoreboard, Word
from millstream.supervisor.plan import Plan
from millstream.supervisor.web.exposition_format import Labels
from millstream.supervisor.web.facts import Snapshot
from millstream.supervisor.web.resident import Resident
from millstream.worker import metrics

Samples = Iterator[tuple[Labels, float]]


class View(NamedTuple):
    """What a scrape looks at."""

    plan: Plan
    board: Scoreboard
    facts: Snapshot
    resident: Resident


class Gauge(NamedTuple):
    """One metric: its name, labels, help, and what makes its samples."""

    name: str
    labels: tuple[str, ...]
    help: str
    samples: Callable[[View], Samples]
    kind: str = "gauge"


def _one(value: float) -> Samples:
    yield (), value


def _alive(view: View) -> Iterator[tuple[str, Record]]:
    """Every live worker's group and record."""
    for record in view.board.in_state(RecordState.ALIVE):
        yield view.plan.group_of(record).name, record


def _workers(view: View) -> Samples:
    counts = Counter((group, record.activity) for group, record in _alive(view))
    for group in view.plan.group_names:
        for state in ACTIVITIES:
            yield (("group", group), ("state", state)), counts[group, state]


def _of_groups(word: Header) -> Callable[[View], Samples]:
    """One word of the header for each group."""

    def samples(view: View) -> Samples:
        for group in view.plan.groups:
            yield (("group", group.name),), view.board.header[word + group.index]

    return samples


def _backoff(view: View) -> Samples:
    now = time.monotonic()
    for group in view.plan.groups:
        yield (("group", group.name),), max(0.0, view.board.header[Header.RESTART_AT + group.index] / 1e9 - now)


def _memory(view: View) -> Samples:
    sums: Counter[str] = Counter()
    for group, record in _alive(view):
        sums[group] += view.resident.size(record.words[Word.PID])
    for name in view.plan.group_names:
        yield (("group", name),), sums[name]


def _oldest_running(view: View) -> Samples:
    """Absent where no job runs: an alert on the age must not see a 0."""
    oldest: dict[str, int] = {}
    for group, process in _alive(view):
        for record in view.board.holders(process):
            if record.running:
                oldest[group] = min(record.words[Word.STARTED], oldest.get(group, 1 << 63))
    for group, started in oldest.items():
        yield (("group", group),), _wall(started)


def _blocked(view: View) -> Samples:
    """Also while a worker is so busy that it logs nothing."""
    longest = dict.fromkeys(view.plan.group_names, 0)
    now = time.monotonic_ns()
    for group, record in _alive(view):
        if record.words[Word.STEP]:
            longest[group] = max(now - record.words[Word.STEP_SINCE], longest[group])
    for group, nanoseconds in longest.items():
        yield (("group", group),), round(nanoseconds / 1e9, 3)


def _wall(nanoseconds: int) -> float:
    """A moment on the monotonic clock as seconds of the Unix epoch."""
    return round(time.time() - (time.monotonic_ns() - nanoseconds) / 1e9, 3)


def _draining(view: View) -> Samples:
    return _one(int(view.board.header[Header.PHASE] in (Phase.DRAINING, Phase.STOPPING)))


def _heartbeat(view: View) -> Samples:
    tick = view.board.header[Header.SUPERVISOR_TICK]
    return _one(_wall(tick) if tick else 0)


def _build(view: View) -> Samples:
    yield (
        (
            ("version", millstream.__version__),
            ("python", platform.python_version()),
            ("redis_py", redis.__version__),
        ),
        1,
    )


_PLACES = ("ready", "held", "parked", "running", "delayed", "dead")


def _queue_jobs(view: View) -> Samples:
    for queue in view.facts.queues:
        for place in _PLACES:
            yield (("queue", queue["queue"]), ("state", place)), queue.get(place, 0)


def _oldest_ready(view: View) -> Samples:
    for queue in view.facts.queues:
        if queue["oldest"] is not None:
            yield (("queue", queue["queue"]),), queue["oldest"]


def _paused(view: View) -> Samples:
    for queue in view.facts.queues:
        yield (("queue", queue["queue"]),), int(queue["paused"])


def _consumers(view: View) -> Samples:
    for one in view.facts.consumers:
        yield (("queue", one["queue"]), ("state", one["state"])), one["count"]


def _enqueued(view: View) -> Samples:
    for one in view.facts.enqueued:
        yield (("queue", one["queue"]), ("job", one["job"]), ("kind", one["kind"])), one["count"]


def _age(view: View) -> Samples:
    if view.facts.at:
        yield (), round(max(0.0, time.time() - view.facts.at), 3)


GAUGES = (
    Gauge("millstream_workers", ("group", "state"), "Workers of this supervisor, by what they do.", _workers),
    Gauge("millstream_workers_target", ("group",), "How many workers there should be.", _of_groups(Header.TARGETS)),
    Gauge(
        "millstream_group_degraded",
        ("group",),
        "1 from too many deaths on until its workers live again.",
        _of_groups(Header.DEGRADED),
    ),
    Gauge(
        "millstream_worker_restart_backoff_seconds", ("group",), "Until the last empty slot is filled again.", _backoff
    ),
    Gauge("millstream_worker_resident_memory_bytes", ("group",), "Resident memory of the workers, added up.", _memory),
    Gauge(
        "millstream_oldest_running_job_start_timestamp_seconds",
        ("group",),
        "When the run started that is on for the longest; absent where none is.",
        _oldest_running,
    ),
    Gauge(
        "millstream_event_loop_blocked_seconds",
        ("group",),
        "For how long one coroutine has kept all others of its process waiting; 0 where jobs run one at a time.",
        _blocked,
    ),
    Gauge("millstream_heartbeat_timestamp_seconds", (), "When the supervisor's loop last ticked.", _heartbeat),
    Gauge("millstream_draining", (), "1 while the supervisor drains or stops.", _draining),
    Gauge("millstream_build_info", ("version", "python", "redis_py"), "Versions; always 1.", _build),
    Gauge("millstream_queue_jobs", ("queue", "state"), "Jobs of a queue, by where they are.", _queue_jobs),
    Gauge(
        "millstream_queue_oldest_ready_job_timestamp_seconds",
        ("queue",),
        "Since when the job waits that has waited longest; absent where none waits.",
        _oldest_ready,
    ),
    Gauge("millstream_queue_paused", ("queue",), "1 while the queue is paused.", _paused),
    Gauge("millstream_consumers", ("queue", "state"), "Workers of all hosts that serve a queue.", _consumers),
    Gauge(metrics.ENQUEUED.name, metrics.ENQUEUED.labels, metrics.ENQUEUED.help, _enqueued, "counter"),
    Gauge("millstream_fleet_instances", (), "Live supervisors.", lambda view: _one(view.facts.instances)),
    Gauge("millstream_collector_age_seconds", (), "Age of what is said of queues and other hosts.", _age),
    Gauge(
        "millstream_collector_duration_seconds",
        (),
        "How long it took to ask Redis for that.",
        lambda view: _one(view.facts.duration),
    ),
)
"""All of them, in the order in which they are exported."""
