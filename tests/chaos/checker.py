"""Whether a history keeps the promises: nothing lost or unexpected, no overlap, no stale settle accepted.

What our own faults excuse is as narrow as the promise allows: the run that a killed process was in, the deliveries
that the server still had out to a host when that was killed or stopped, and what a server forgot that lost its data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.evidence import Mark, Run

CRASH_LIMIT = 3
KILL_SLACK = 100_000_000  # ns: a process may end this long after its killing was decided
OUTBOX_SLACK = 50_000_000  # ns: between a handler's last line and its outcome in shared memory, at most
COUNT_SLACK = 1_000_000_000  # ns: until a crash is counted, at most, while its supervisor lives
SETTLE_SLACK = 200_000_000  # ns: between the end of a run and its settle, at most, while the server is there
NOTICE_SLACK = 1_000_000_000  # ns: until a worker hears, with the next renewal, that its batch is no longer its own
FINAL = ("completed", "dead")
KILLED = ("stuck", "hung", "glutton")  # kinds of jobs that are killed for taking too long, or too much memory: attempts
DEADLY = ("poison", *KILLED)  # kinds of jobs whose process dies
DOOMED = ("poison", "failing", "garbage", *KILLED)  # kinds of jobs that never complete


@dataclass(frozen=True)
class Acknowledged:
    """A job that was acknowledged: its kind, and when the call returned (monotonic ns)."""

    kind: str
    at: int


@dataclass(frozen=True)
class Loss:
    """The server forgot what was written from `since` until `until` (monotonic ns); since 0: everything.

    With `jobs` it may have forgotten jobs, else only what it knew of deliveries.
    """

    since: int
    until: int
    jobs: bool = True

    def covers(self, run: Run) -> bool:
        """Whether what became of this run may be forgotten, or that it was delivered at all."""
        return run.lasted(self.since - SETTLE_SLACK) and run.begin <= self.until + NOTICE_SLACK


@dataclass
class History:
    """All that is known when everything has ended."""

    acknowledged: dict[str, Acknowledged]  # by id
    tried: dict[str, str]  # id -> kind of job, also of what was not acknowledged
    runs: list[Run]
    states: dict[str, str]  # id -> state in its record, for every record
    stored: int  # entries in streams, held and due
    counters: dict[str, int]
    attempts: dict[str, int]  # kind -> limit of attempts
    killed: dict[int, int] = field(default_factory=dict)  # pid -> when (monotonic ns)
    supervisors: dict[int, int] = field(default_factory=dict)  # the same, of supervisors
    taken: set[tuple[str, int]] = field(default_factory=set)  # id and run that a killed or stopped host still held
    losses: list[Loss] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)

    def excused(self, run: Run) -> bool:
        """Whether our own doing took this run's outcome: its process was killed in it, or its delivery was taken."""
        return self._killed_in(run) or self.given_away(run)

    def _killed_in(self, run: Run) -> bool:
        # Outcomes of earlier runs are in shared memory: they outlive the process.
        at = self.killed.get(run.pid)
        return at is not None and run.last and run.begin <= at + KILL_SLACK and run.lasted(at - OUTBOX_SLACK)

    def given_away(self, run: Run) -> bool:
        """Whether the job may have been given to somebody else while this run was on: its lease was over, or lost."""
        return (run.id, run.run) in self.taken or self.forgotten(run)

    def forgotten(self, run: Run) -> bool:
        """Whether the server may have lost what it knew of this run: the job's history begins anew before it."""
        return any(loss.covers(run) for loss in self.losses)

    def uncounted(self, run: Run) -> bool:
        """Whether the supervisor was killed before it could have this run's crash counted."""
        at = self.supervisors.get(run.supervisor)
        return run.end is None and at is not None and run.begin <= at <= run.begin + COUNT_SLACK

    def may_be_lost(self, job: Acknowledged) -> bool:
        """Whether the server was made to forget this job."""
        return any(loss.jobs and loss.since <= job.at and job.at <= loss.until for loss in self.losses)


def check(history: History) -> list[str]:
    """Describe each broken promise; empty when all is well."""
    by_id: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: (run.run, run.begin)):
        by_id[run.id].append(run)
    known = {job_id: [run for run in runs if not history.forgotten(run)] for job_id, runs in by_id.items()}
    return [
        *history.contradictions,
        *_lost(history),
        *_unexpected(history, by_id),
        *_settled_once(history),
        *_outcomes(history, by_id),
        *_overlaps(history, known),
        *_repeated(history, known),
        *_limits(history, by_id),
        *_deaths(history),
    ]


def _lost(history: History) -> list[str]:
    problems = [f"{history.stored} jobs are still stored after the drain"] if history.stored else []
    for job_id, job in history.acknowledged.items():
        state = history.states.get(job_id)
        if state not in FINAL and not history.may_be_lost(job):
            problems.append(f"{job_id} ({job.kind}): acknowledged, now {state or 'unknown'}")
    return problems


def _unexpected(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    seen = by_id.keys() | history.states.keys()
    return [f"{job_id}: exists, and nobody enqueued it" for job_id in sorted(seen - history.tried.keys())]


def _settled_once(history: History) -> list[str]:
    # Each accepted final settle counts once; more of them than jobs means that a stale one was accepted.
    states = Counter(history.states.values())
    return [
        f"{states[state]} jobs are {state}, but {history.counters.get(state, 0)} such settles were accepted"
        for state in FINAL
        if states[state] != history.counters.get(state, 0)
    ]


def _outcomes(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    problems = []
    for job_id, state in history.states.items():
        kind, runs = history.tried.get(job_id, ""), by_id.get(job_id, [])
        if state == "completed" and not any(run.completed for run in runs):
            problems.append(f"{job_id} ({kind}): completed without a run that returned")
        elif state == "completed" and kind in DOOMED:
            problems.append(f"{job_id} ({kind}): completed")
        elif state == "dead" and kind not in DOOMED and _crashes(runs) < CRASH_LIMIT:
            problems.append(f"{job_id} ({kind}): dead after {len(runs)} runs, {_crashes(runs)} of them crashes")
    return problems


def _crashes(runs: list[Run]) -> int:
    return sum(run.mark is Mark.BEGIN for run in runs)


def _overlaps(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    problems = []
    for job_id, runs in by_id.items():
        for earlier, later in pairwise(runs):
            if history.given_away(earlier):
                continue
            if later.run == earlier.run:
                problems.append(f"{job_id}: run {later.run} began twice (pids {earlier.pid} and {later.pid})")
            if later.begin < earlier.begin:
                problems.append(f"{job_id}: run {later.run} began before run {earlier.run}")
            if later.begin < _ended(history, earlier):
                problems.append(f"{job_id}: run {later.run} began while run {earlier.run} held a valid lease")
    return problems


def _ended(history: History, run: Run) -> int:
    if run.end is None and history.tried.get(run.id) != "poison":
        return history.killed.get(run.pid, run.begin)
    return run.end or run.begin


def _repeated(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    return [
        f"{job_id}: run {earlier.run} returned in process {earlier.pid}, yet run {later.run} followed"
        for job_id, runs in by_id.items()
        for earlier, later in pairwise(runs)
        if earlier.completed and not history.excused(earlier)
    ]


def _deaths(history: History) -> list[str]:
    return [
        f"{run.id}: process {run.pid} died in run {run.run}, and nobody had killed it"
        for run in history.runs
        if run.end is None
        and run.pid not in history.killed
        and history.tried.get(run.id) not in DEADLY
        and not history.given_away(run)
    ]


def _limits(history: History, by_id: dict[str, list[Run]]) -> list[str]:
    problems = []
    for job_id, runs in by_id.items():
        kind = history.tried.get(job_id, "")
        own = [run for run in runs if not history.excused(run) and not history.uncounted(run)]
        failed = sum(run.mark is Mark.FAILED or (run.end is None and kind in KILLED) for run in own)
        limit = history.attempts.get(kind, 4)
        if failed > limit:
            problems.append(f"{job_id} ({kind}): failed {failed} times, the limit is {limit}")
        if kind == "poison" and _crashes(own) > CRASH_LIMIT:
            problems.append(f"{job_id}: crashed {_crashes(own)} processes, the limit is {CRASH_LIMIT}")
    return problems
