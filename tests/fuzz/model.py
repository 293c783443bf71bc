"""One queue as it should be: what the scripts do, in plain Python. It moves jobs by the table only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from millstream.protocol.states import FINAL, TABLE, State, Transition
from tests.fuzz.coverage import Coverage
from tests.fuzz.jobs import DAY, LETTERS, Job
from tests.fuzz.rooms import Rooms


@dataclass
class Model(Rooms):
    """A queue. `locks` are the ids that stand at unique keys, whether or not they still hold them."""

    coverage: Coverage = field(default_factory=Coverage)
    dead: set[str] = field(default_factory=set)
    history: list[str] = field(default_factory=list)
    stats: Counter[str] = field(default_factory=Counter)
    came: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    locks: dict[str, str] = field(default_factory=dict)

    def state(self, job_id: str) -> State | None:
        """The state of a job; None where there is none."""
        job = self.jobs.get(job_id)
        return job.state if job else None

    def step(self, job: Job, transition: Transition) -> None:
        """Move a job by the table."""
        self.coverage.made[job.state, transition] += 1
        job.state = TABLE[job.state, transition]
        job.holder, job.lease_over = None, False
        if job.state is None:
            del self.jobs[job.id]

    def place(self, job: Job, transition: Transition, letter: str) -> None:
        """Into a stream, or where it has to wait."""
        if self._cancelled(job):
            return
        self.step(job, transition)
        job.entry, job.due, job.ttl = None, None, None
        self.put(job, letter)

    def postpone(self, job: Job, transition: Transition, delay: int) -> None:
        """Among what is due, so many milliseconds from now."""
        if self._cancelled(job):
            return
        self.step(job, transition)
        job.entry, job.place, job.due, job.delay, job.ttl = None, "", None, delay, None
        self.give_up_place(job)

    def end(self, job: Job, transition: Transition, ttl: int, holds: bool = True) -> None:
        """It is over, and its record kept for so long; *holds*: what it holds is freed."""
        self.step(job, transition)
        job.place, job.due, job.ttl = "", None, ttl
        self.history.insert(0, job.id)
        self.notify(job.id)
        if holds:
            self.release(job)

    def holder(self, unique: str) -> str | None:
        """The living job that holds a unique key."""
        state = self.state(self.locks.get(unique, ""))
        return None if state is None or state in FINAL else self.locks[unique]

    def unlock(self, job: Job) -> None:
        """Free its unique key, where it is this job that has it."""
        if job.unique and self.locks.get(job.unique) == job.id:
            del self.locks[job.unique]

    def relock(self, job: Job) -> str | None:
        """An ended job is to run again: take its unique key anew; the id of who has it now, if any."""
        holder = self.holder(job.unique) if job.unique else None
        self.coverage.seen[f"retry: {'held' if holder else 'unique' if job.unique else 'plain'}"] += 1
        if job.unique and not holder:
            self.locks[job.unique] = job.id
        return holder

    def release(self, job: Job) -> None:
        """It has ended, or goes: free what it holds."""
        self.unlock(job)
        self.give_up_place(job)

    def bury(self, job: Job) -> None:
        """Into the dead letters."""
        self.end(job, Transition.DIE, 7 * DAY)
        job.cancel = False
        self.dead.add(job.id)

    def note_retry(self, job: Job) -> None:
        """It runs again after a run that counted, unless it was cancelled."""
        if job.state is not State.CANCELLED:
            self.came[f"retry:{job.name}"] += 1

    def notify(self, job_id: str) -> None:
        """Nobody waits for it any more."""
        del self.waiting[job_id]

    def is_due(self, job: Job) -> bool:
        """Whether it is among what is due, now or later."""
        return job.state in (State.SCHEDULED, State.RETRYING)

    def due_now(self) -> list[Job]:
        """What may be promoted, in its order."""
        found = [job for job in self.jobs.values() if self.is_due(job) and not job.delay]
        return sorted(found, key=lambda job: (job.due or 0, job.id))

    def held_by(self, consumer: str | None, letter: str | None = None) -> list[Job]:
        """What was delivered to a consumer (None: to any), of one stream or in the order of all."""
        running = [job for job in self.jobs.values() if job.holder and consumer in (None, job.holder)]
        wanted = [job for job in running if letter in (None, job.place)]
        return sorted(wanted, key=lambda job: (LETTERS.index(job.place), position(job.entry)))

    def _cancelled(self, job: Job) -> bool:
        if not job.cancel:
            return False
        job.cancel = False
        self.end(job, Transition.CANCEL, DAY)
        self.stats["cancelled"] += 1
        job.entry = None
        return True


def position(ref: str | None) -> tuple[int, int]:
    """Where an entry stands in its stream, as a pair that can be compared."""
    milliseconds, _, number = (ref or "?0-0")[1:].partition("-")
    return int(milliseconds), int(number)
