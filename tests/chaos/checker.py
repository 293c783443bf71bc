"""Whether a history keeps the promises: nothing lost or unexpected, no overlap, no stale settle accepted."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.evidence import Mark, Run

CRASH_LIMIT = 3
KILL_SLACK = 100_000_000  # ns: a process may end this long after its killing was decided
OUTBOX_SLACK = 50_000_000  # ns: between a handler's last line and its outcome in shared memory, at most
SETTLE_SLACK = 1_000_000_000  # ns: until an outcome in shared memory is settled, at most


@dataclass(frozen=True)
class Killing:
    """When a process was killed (monotonic ns), and how long before that its outcomes may be lost with it."""

    at: int
    slack: int


@dataclass
class Window:
    """Processes that were stopped for a time long enough to lose their leases; monotonic ns.

    It begins with the first run whose outcome may not have been settled when they were stopped.
    """

    pids: frozenset[int]
    begin: int
    end: int


@dataclass
class History:
    """All that is known when everything has ended."""

    acknowledged: dict[str, str]  # id -> kind of job
    tried: dict[str, str]  # the same, and what was not acknowledged
    runs: list[Run]
    states: dict[str, str]  # id -> state in its record, for every record
    stored: int  # entries in streams, held and due
    counters: dict[str, int]
    attempts: dict[str, int]  # kind -> limit of attempts
    killed: dict[int, Killing] = field(default_factory=dict)  # by pid
    windows: list[Window] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)

    def excused(self, run: Run) -> bool:
        """Whether our own doing took this run's outcome: its process was killed, or lost its leases."""
        killing = self.killed.get(run.pid)
        if killing is not None and run.begin <= killing.at + KILL_SLACK and run.lasted(killing.at - killing.slack):
            return True
        end = run.end if run.end is not None else run.begin
        return any(run.pid in w.pids and run.begin <= w.end and end >= w.begin for w in self.windows)

    def uncounted(self, run: Run) -> bool:
        """Whether the host may have been killed before it could count this run's crash."""
        trees = (killing.at for killing in self.killed.values() if killing.slack >= SETTLE_SLACK)
        return run.end is None and any(run.begin <= at <= run.begin + SETTLE_SLACK for at in trees)


def check(history: History) -> list[str]:
    """Describe each broken promise; empty when all is well."""
    by_id: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: run.run):
        by_id[run.id].append(run)
    return [
        *history.contradictions,
        *_lost(history),
        *_unexpected(history, by_id),
        *_settled_once(history),
        *_outcomes(history, by_id),
        *_overlaps(history, by_id),
        *_repeated(history, by_id),
        *_limits(history, by_id),
    ]


def _lost(history: History) -> list[str]:
    problems = [f"{history.stored} jobs are still stored after the drain"] if history.stored else []
    for job_id, kind in history.acknowledged.items():
        state = history.states.get(job_id)
        if state not in ("completed", "dead"):
            problems.append(f"{job_id} ({kind}): acknowledged, now {state or 'unknown'}")
    return problems


def _unexpected(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    seen = by_id.keys() | history.states.keys()
    return [f"{job_id}: exists, and nobody enqueued it" for job_id in sorted(seen - history.tried.keys())]


def _settled_once(history: History) -> list[str]:
    # Each accepted final settle counts once; more of them than jobs means that a stale one was accepted.
    states = Counter(history.states.values())
    return [
        f"{states[state]} jobs are {state}, but {history.counters.get(state, 0)} such settles were accepted"
        for state in ("completed", "dead")
        if states[state] != history.counters.get(state, 0)
    ]


def _outcomes(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    problems = []
    for job_id, state in history.states.items():
        kind, runs = history.tried.get(job_id, ""), by_id.get(job_id, [])
        if state == "completed" and not any(run.completed for run in runs):
            problems.append(f"{job_id} ({kind}): completed without a run that returned")
        elif state == "completed" and kind in ("poison", "failing"):
            problems.append(f"{job_id} ({kind}): completed")
        elif state == "dead" and kind not in ("poison", "failing") and _crashes(runs) < CRASH_LIMIT:
            problems.append(f"{job_id} ({kind}): dead after {len(runs)} runs, {_crashes(runs)} of them crashes")
    return problems


def _crashes(runs: list[Run]) -> int:
    return sum(run.mark is Mark.BEGIN for run in runs)


def _overlaps(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    problems = []
    for job_id, runs in by_id.items():
        for earlier, later in pairwise(runs):
            if later.begin < earlier.begin and not history.excused(earlier):
                problems.append(f"{job_id}: run {later.run} began before run {earlier.run}")
            if later.begin < _ended(history, earlier) and not history.excused(earlier):
                problems.append(f"{job_id}: run {later.run} began while run {earlier.run} held a valid lease")
    return problems


def _ended(history: History, run: Run) -> int:
    if run.end is not None:
        return run.end
    killing = history.killed.get(run.pid)
    return killing.at if killing else run.begin


def _repeated(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    return [
        f"{job_id}: run {earlier.run} returned in process {earlier.pid}, yet run {later.run} followed"
        for job_id, runs in by_id.items()
        for earlier, later in pairwise(runs)
        if earlier.completed and not history.excused(earlier)
    ]


def _limits(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    problems = []
    for job_id, runs in by_id.items():
        kind = history.tried.get(job_id, "")
        own = [run for run in runs if not history.excused(run) and not history.uncounted(run)]
        failed = sum(run.mark is Mark.FAILED for run in own)
        if failed > history.attempts.get(kind, 4):
            problems.append(f"{job_id} ({kind}): failed {failed} times")
        if kind == "poison" and _crashes(own) > CRASH_LIMIT:
            problems.append(f"{job_id}: crashed {_crashes(own)} processes, the limit is {CRASH_LIMIT}")
    return problems
