"""One queue as it should be: what the scripts do, in plain Python. It moves jobs by the table only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from millstream.protocol.keys import STREAMS
from millstream.protocol.states import FINAL, TABLE, State, Transition
from tests.fuzz.coverage import Coverage

LETTERS = tuple(name[0] for name in STREAMS)
HOUR = 3_600_000  # milliseconds, as all times here
DAY = 24 * HOUR
HELD = "x"


@dataclass
class Job:
    """One job's record. `place` is its stream's letter, HELD, or "" where it is in none.

    What only the server knows is learnt after each step: `entry`, `due`.
    """

    id: str
    band: str
    name: str = "work"
    state: State | None = None
    place: str = ""
    run: int = 1
    attempt: int = 0
    crashes: int = 0
    timeouts: int = 0
    memory: int = 0
    alone: bool = False
    entry: str | None = None
    holder: str | None = None
    started: str | None = None
    settled: tuple[str, ...] = ()
    cancel: bool = False
    lease_over: bool = False
    due: float | None = None
    delay: int = 0
    ttl: int | None = None
    payload: bool = True
    nonce: str = ""
    unique: str = ""
    started_frees: bool = False
    life: int | None = None
    expires: int | None = None
    key: str = ""

    @property
    def counted(self) -> bool:
        """Whether its run number, attempts and crashes are still kept."""
        return self.state not in FINAL or self.state is State.DEAD

    def fresh(self) -> None:
        """Somebody retries it after its end."""
        self.run, self.attempt, self.crashes, self.timeouts, self.memory = self.run + 1, 0, 0, 0, 0
        self.alone, self.started, self.life, self.expires = False, None, None, None


@dataclass
class Model:
    """A queue. `streams` are the ids that were not delivered, `held` those of a pause with the stream they wait for.

    `locks` are the ids that stand at unique keys, whether or not they still hold them.
    """

    coverage: Coverage
    jobs: dict[str, Job] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=lambda: {letter: [] for letter in LETTERS})
    held: list[tuple[str, str]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    history: list[str] = field(default_factory=list)
    stats: Counter[str] = field(default_factory=Counter)
    came: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    locks: dict[str, str] = field(default_factory=dict)
    paused: str = ""

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
        """Into a stream, or into what is held."""
        if self._cancelled(job):
            return
        self.step(job, transition)
        job.entry, job.due, job.ttl = None, None, None
        job.place = HELD if self.paused else letter
        if self.paused:
            self.held.append((job.id, letter))
        else:
            self.streams[letter].append(job.id)

    def postpone(self, job: Job, transition: Transition, delay: int) -> None:
        """Among what is due, so many milliseconds from now."""
        if self._cancelled(job):
            return
        self.step(job, transition)
        job.entry, job.place, job.due, job.delay, job.ttl = None, "", None, delay, None

    def leave(self, job: Job) -> None:
        """Out of the streams, or of what is held; a job that is due, or delivered, is in neither."""
        for waiting in self.streams.values():
            if job.id in waiting:
                waiting.remove(job.id)
        self.held = [(job_id, letter) for job_id, letter in self.held if job_id != job.id]
        job.place = ""

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
