"""Rules: what operators and time do to a queue: cancel, pause, resume, purge, dead letters, records that expire."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from millstream.protocol import control, ended, transitions
from millstream.protocol.control import Held, Resuming, Retried
from millstream.protocol.states import FINAL, State, Transition
from tests.fuzz.jobs import DAY, LETTERS, Job
from tests.fuzz.rooms import PARKED
from tests.fuzz.subject import IDS, Subject

STEP = st.sampled_from([1, 2, 200])
ALL = 200


class Operating(Subject):
    """What is asked for, and what time does."""

    @rule(job_id=IDS)
    def cancel(self, job_id: str) -> None:
        job, state = self.tries(job_id, Transition.CANCEL), self.model.state(job_id)
        reply = self.run(transitions.cancel(self.keys, job_id, DAY / 1000))
        if job is None or state is None:
            assert reply == ("absent", "")
        elif state is State.RUNNING:
            assert reply == ("running", "running")
            job.cancel = True
        elif state in FINAL:
            assert reply == ("ended", state)
        else:
            assert reply == ("ok", state)
            self.coverage.seen["cancel: parked"] += job.room is not None
            self.model.walk_out(job)
            self.model.end(job, Transition.CANCEL, DAY)
            self.model.stats["cancelled"] += 1

    @rule()
    def pause(self) -> None:
        assert self.run(control.pause(self.keys)) is (self.model.paused != "1")
        self.model.paused = "1"

    @rule(count=STEP, begin=st.booleans())
    def resume(self, count: int, begin: bool) -> None:
        reply = self.run(control.resume(self.keys, begin=begin, count=count))
        if not self.model.paused or (self.model.paused == "1" and not begin):
            assert reply == (Resuming.PAUSED if self.model.paused else Resuming.OPEN, 0)
            return
        step, self.model.held = self.model.held[:count], self.model.held[count:]
        assert reply == (Resuming.MORE if self.model.held else Resuming.DONE, len(step))
        self.model.paused, after = "", "resuming" if self.model.held else ""
        for name, letter in step:
            self.model.put(self.model.jobs[name], letter)
        self.model.paused = after

    @rule(job_id=IDS)
    def resume_with_a_stray(self, job_id: str) -> None:
        """An entry of a job that is elsewhere stands among what is held: it goes, and nothing is moved for it."""
        job = self.model.jobs.get(job_id)
        if job and self.model.paused:
            fields = ("id", job_id, "env", self.envelope(job_id, job.band), "band", job.band)
            self.link.execute("XADD", self.keys.held, "*", *fields)
            self.resume(ALL, True)

    @rule(count=STEP, due=st.booleans())
    def purge(self, count: int, due: bool) -> None:
        """What is in rooms, what waits, in the order of the streams, then what is held, then what is due."""
        reply = self.run(control.purge(self.keys, due=due, count=count))
        removed = self._purged(self.model.parked, count)
        for letter in LETTERS:
            removed += self._purged(self.model.streams[letter], count - removed)
        removed += self._purged([name for name, _ in self.model.held], count - removed)
        scheduled = sorted(filter(self.model.is_due, self.model.jobs.values()), key=lambda job: (job.due, job.id))
        removed += self._purged([job.id for job in scheduled] if due else [], count - removed)
        assert reply == (removed, removed >= count)
        self.model.stats["purged"] += removed

    def _purged(self, names: list[str], count: int) -> int:
        """Remove the first of these that are still where they were when it began."""
        found = [(name, self.model.jobs[name].place) for name in names[:count]]
        removed = 0
        for name, place in found:
            if self.model.jobs[name].place == place:
                self.coverage.seen["purge: parked"] += place == PARKED
                self._removed(name, Transition.PURGE)
                removed += 1
        return removed

    @rule(job_id=IDS)
    def purge_a_stray(self, job_id: str) -> None:
        """A job that is not due stands among what is due: a purge removes it from there, and nothing else of it."""
        job = self.tries(job_id, Transition.PURGE)
        if not job or job.state in (State.RUNNING, *FINAL):
            self.purge(ALL, True)
            self.link.execute("ZADD", self.keys.due, 0, job_id)
            assert self.run(control.purge(self.keys, due=True)).removed == 1
            self.model.stats["purged"] += 1

    def _removed(self, name: str, transition: Transition) -> None:
        job = self.model.jobs[name]
        self.model.walk_out(job)
        self.model.release(job)
        self.model.step(job, transition)
        self.model.notify(name)

    @rule(job_id=IDS)
    def retry_dead(self, job_id: str) -> None:
        job = self.tries(job_id, Transition.REVIVE)
        (reply,) = self.run(control.dead_retry(self.keys, [job_id]))
        dead = job is not None and job.state is State.DEAD
        if not job or not dead:
            assert reply is Retried.NOT_DEAD
            self.model.dead.discard(job_id)
        elif not job.payload:
            assert reply is Retried.MALFORMED
        elif holder := self.model.relock(job):
            assert reply == Held(holder)
        else:
            assert reply is Retried.QUEUED
            self.model.dead.remove(job.id)
            job.settled = ()
            self._revived(job)

    def _revived(self, job: Job) -> None:
        job.fresh()
        self.model.place(job, Transition.REVIVE, job.band[0])
        self.model.came[f"retry:{job.name}"] += 1

    @rule(job_id=IDS)
    def retry_ended(self, job_id: str) -> None:
        """Cancelled and expired jobs; the dead have `retry_dead`."""
        job, state = self.tries(job_id, Transition.REVIVE), self.model.state(job_id)
        (reply,) = self.run(ended.retry(self.keys, [job_id]))
        if job and state in (State.CANCELLED, State.EXPIRED):
            holder = self.model.relock(job)
            assert reply == (f"held by {holder}" if holder else "queued")
            if not holder:
                self._revived(job)
        else:
            waiting = state in (State.QUEUED, State.RUNNING)
            assert reply == ("waiting" if waiting else str(state or "absent"))

    @rule(job_id=IDS)
    def delete_ended(self, job_id: str) -> None:
        job, state = self.tries(job_id, Transition.DELETE), self.model.state(job_id)
        (reply,) = self.run(ended.delete(self.keys, [job_id]))
        if job and state in FINAL:
            assert reply == "deleted"
            self.model.dead.discard(job_id)
            self.model.step(job, Transition.DELETE)
        else:
            assert reply == ("queued" if state is State.RUNNING else str(state or "absent"))

    @rule(job_id=IDS)
    def delete_dead(self, job_id: str) -> None:
        job = self.tries(job_id, Transition.DELETE)
        assert self.run(control.dead_delete(self.keys, [job_id])) == [job_id in self.model.dead]
        self.model.dead.discard(job_id)
        if job and job.state is State.DEAD:
            self.model.step(job, Transition.DELETE)

    @rule(job_id=IDS)
    def record_expires(self, job_id: str) -> None:
        """The time to keep an ended job is over: what the server does to a key then. Others are kept: see `compare`."""
        job = self.tries(job_id, Transition.FORGET)
        if job and job.state in FINAL:
            self.link.execute("DEL", self.keys.job(job_id))
            self.model.step(job, Transition.FORGET)

    @rule()
    def prune(self) -> None:
        """Nobody else beats: owners without deliveries are forgotten, and no job is touched."""
        self.run(transitions.prune(self.keys, "z-000001", [], []))
        self.join()
