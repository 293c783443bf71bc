"""Rules: how jobs come into a queue, wait, and are delivered."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from millstream.protocol import transitions
from millstream.protocol.keys import BANDS
from millstream.protocol.states import State, Transition
from millstream.protocol.transitions import NewJob
from tests.fuzz.jobs import DAY, HOUR, LETTERS, Job
from tests.fuzz.rooms import PLACES
from tests.fuzz.subject import CONSUMERS, IDS, JOBS, NAMES, UNIQUES, Subject, same
from tests.protocol.rig import refs_of

BAND = st.sampled_from(BANDS)
DELAY = st.sampled_from([None, 0, HOUR])
NONCE = st.sampled_from(["", "one", "two"])
UNIQUE = st.sampled_from(["", "u1", *UNIQUES])
KEY = st.sampled_from(["", "k1", *PLACES])
LIFE = st.sampled_from([None, None, HOUR // 2, 100 * DAY])


class Entering(Subject):
    """Enqueue, promote, fetch."""

    @rule(
        job_id=IDS,
        band=BAND,
        delay=DELAY,
        nonce=NONCE,
        unique=UNIQUE,
        started_frees=st.booleans(),
        life=LIFE,
        key=KEY,
        lost=st.booleans(),
    )
    def enqueue(
        self,
        job_id: str,
        band: str,
        delay: int | None,
        nonce: str,
        unique: str = "",
        started_frees: bool = False,
        life: int | None = None,
        key: str = "",
        lost: bool = False,
    ) -> None:
        """*life*: milliseconds after which it is not started any more; *lost*: the reply was, and it is sent again."""
        transition = Transition.ENQUEUE if delay is None else Transition.DELAY
        known, holder = self.tries(job_id, transition), self.model.holder(unique)
        extras: dict[str, Any] = {"expires": life} if life else {}
        if key:
            extras |= {"key": key, "places": PLACES[key]}
        if unique:
            until = "started" if started_frees else "finished"
            extras |= {"unique": unique, "unique_for": DAY, "until": until}
        new = NewJob(job_id, band, self.envelope(job_id, band, key), delay, nonce, extras or None)
        call = transitions.enqueue(self.keys, [new])
        (placed,) = self.run(call)
        if known or holder:
            self.coverage.seen["enqueue: held"] += not known
            replayed = known is not None and bool(nonce) and known.nonce == nonce
            same("what became of it", placed, replayed if known else holder)
            return
        assert placed is True
        if lost:
            assert self.run(call) == [bool(nonce)]
        job = Job(job_id, band, JOBS[job_id], nonce=nonce, unique=unique, started_frees=started_frees)
        job.life, job.key = life, key
        self.model.jobs[job_id] = job
        if unique:
            self.model.locks[unique] = job_id
        if delay is None:
            self.model.place(job, transition, band[0])
            self.model.came[f"immediate:{job.name}"] += 1
        else:
            self.model.postpone(job, transition, delay)
            self.model.came[f"delayed:{job.name}"] += 1

    @rule(unique=st.sampled_from(UNIQUES))
    def lock_expires(self, unique: str) -> None:
        """A unique key was held for as long as it may be: what the server does to it then."""
        self.link.execute("DEL", self.keys.uniques + unique)
        self.model.locks.pop(unique, None)

    @rule(job_id=IDS)
    def deadline_passes(self, job_id: str) -> None:
        """A job's deadline is over; the server's clock is left alone, the instant is moved."""
        job = self.model.jobs.get(job_id)
        if job and job.life is not None:
            self.link.execute("HSET", self.keys.job(job_id), "expires", 1)
            job.life, job.expires = 0, 1

    @rule(consumer=st.sampled_from(CONSUMERS), count=st.integers(1, 4))
    def fetch(self, consumer: str, count: int) -> None:
        ruled = self.model.gated or bool(self.model.paused_jobs)
        expected = [] if self.model.paused == "1" or ruled else self._next(count)
        for name in NAMES:
            if name not in expected:
                self.tries(name, Transition.FETCH)
        fetched = self.run(transitions.fetch(self.keys, consumer, count))
        assert fetched.paused is (self.model.paused == "1" or ruled)
        assert fetched.ruled is (ruled and self.model.paused != "1")
        jobs = [self.model.jobs[name] for name in expected]
        assert refs_of(fetched) == [job.entry for job in jobs]
        for job in jobs:
            self.model.streams[job.place].remove(job.id)
            self.model.step(job, Transition.FETCH)
            job.holder = consumer

    def _next(self, count: int) -> list[str]:
        """What is delivered next: `again` first and alone, then the bands in strict order."""
        if self.model.streams["a"]:
            return self.model.streams["a"][:1]
        return [name for letter in LETTERS for name in self.model.streams[letter]][:count]

    @rule(consumer=st.sampled_from(CONSUMERS))
    def read_own(self, consumer: str) -> None:
        held = self.model.held_by(consumer)
        assert refs_of(self.run(transitions.own(self.keys, consumer))) == [job.entry for job in held]
        for job in held:
            job.lease_over = False  # the server takes it for a new delivery

    @rule(count=st.sampled_from([1, 200]))
    def promote(self, count: int) -> None:
        jobs = self.model.due_now()[:count]
        promoted = self.run(transitions.promote(self.keys, count))
        for job in jobs:
            job.alone = job.crashes > 0
            self.model.place(job, Transition.PROMOTE, "a" if job.alone else job.band[0])
        assert (promoted.jobs, promoted.broken) == (len(jobs), 0)
        assert (promoted.wait == -1) is not any(map(self.model.is_due, self.model.jobs.values()))

    @rule(job_id=IDS)
    def promote_a_stray(self, job_id: str) -> None:
        """A job that is not due stands among what is due: it is not moved, and stands there no more."""
        job = self.tries(job_id, Transition.PROMOTE)
        if job and self.model.is_due(job):
            return
        self.link.execute("ZADD", self.keys.due, 0, job_id)
        self.promote(200)

    @rule(job_id=IDS)
    def time_passes(self, job_id: str) -> None:
        """A job's time has come; the server's clock is left alone, the instant is moved."""
        job = self.model.jobs.get(job_id)
        if job and self.model.is_due(job):
            self.link.execute("ZADD", self.keys.due, 0, job_id)
            job.due, job.delay = 0.0, 0

    @rule(job_id=IDS, waiters=st.sampled_from([1, 0, -1]))
    def wait_for_the_end(self, job_id: str, waiters: int) -> None:
        job, waiting = self.model.jobs.get(job_id), self.model.waiting
        stored = State.QUEUED if job and job.state is State.RUNNING else job.state if job else None
        assert self.run(transitions.await_end(self.keys, job_id, waiters)) == (stored or "")
        if stored not in (State.QUEUED, State.SCHEDULED, State.RETRYING):
            return
        waiting[job_id] = waiting[job_id] + waiters if waiters else max(waiting[job_id], 1)
        if waiting[job_id] <= 0:
            del waiting[job_id]

    @rule()
    def forget_the_scripts(self) -> None:
        self.link.execute("SCRIPT", "FLUSH")
