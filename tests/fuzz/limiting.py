"""Rules: limits of the queue, names that are paused, and looks at what waits."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from millstream.protocol import limits, transitions
from millstream.protocol.inspect import browse
from millstream.protocol.limits import Limit, Rate
from millstream.protocol.states import Transition
from tests.fuzz.jobs import LETTERS, Job
from tests.fuzz.subject import CONSUMERS, NAMES, Subject, same
from tests.protocol.rig import refs_of

NAME = st.sampled_from(["work", "play"])
NEVER_FULL = Rate(1_000_000, 1)  # more jobs in a millisecond than there are: a gate at which nobody waits for its time


class Limiting(Subject):
    """Limit, take, pause and resume names, tend, browse."""

    @rule(most=st.sampled_from([None, 1, 2]), rate=st.booleans())
    def limit(self, most: int | None, rate: bool) -> None:
        model = self.model
        new = Limit(most, NEVER_FULL if rate else None, 1000 if rate else None)
        changed = (most, rate) != (model.limit, model.rate)
        assert self.run(limits.set_limit(self.keys, new)) is changed
        model.limit, model.rate = most, rate
        if changed:
            model.gated = most is not None or rate or bool(model.rooms.get("gate"))

    @rule(consumer=st.sampled_from(CONSUMERS), count=st.integers(1, 4))
    def take(self, consumer: str, count: int) -> None:
        """What fetch does where there are rules, and no more than may start."""
        model = self.model
        taken = self.run(transitions.take(self.keys, consumer, count))
        if model.paused == "1":
            assert (taken.entries, taken.paused, taken.ruled) == ([], True, True)
            return
        names = [name for name in model.paused_jobs if name not in model.resuming_jobs]
        most = count if model.limit is None else min(1, count, model.limit - len(model.held_by(None)))
        chosen: list[Job] = []
        for letter in LETTERS:
            chosen += self._take_of(letter, min(1 if letter == "a" else most, most - len(chosen)), names)
            if chosen and (letter == "a" or len(chosen) >= most):
                break
        for name in NAMES:
            if model.jobs.get(name) not in chosen:
                self.tries(name, Transition.FETCH)
        same("taken", [ref[0] for ref in refs_of(taken)], [job.place for job in chosen])
        for job, ref in zip(chosen, refs_of(taken), strict=True):
            if job.entry is None:  # it passed the gate in this step
                self.refs[job.id].append(ref)
                self.coverage.seen["take: let in"] += 1
            assert job.entry in (None, ref)
            model.step(job, Transition.FETCH)
            job.entry, job.holder = ref, consumer
        if model.gated and model.limit is None and not model.rate and not model.rooms.get("gate"):
            model.gated = False
        assert (taken.paused, taken.ruled) == (model.gated, model.gated or bool(model.paused_jobs))
        if model.limit is not None:
            self.coverage.seen["take: full"] += most <= 0

    def _take_of(self, letter: str, most: int, names: list[str]) -> list[Job]:
        """Of one band: what stands in its stream, then who passes the gate; a job of a paused name is set aside."""
        chosen: list[Job] = []
        while len(chosen) < most:
            stream, wanted = self.model.streams[letter], most - len(chosen)
            found, stream[:] = [self.model.jobs[name] for name in stream[:wanted]], stream[wanted:]
            if not found and not self._admit(letter, wanted, names):
                break
            for job in found:
                if job.name in names:
                    self.coverage.seen["take: set aside"] += 1
                    self.model.set_aside(job, letter)
                else:
                    chosen.append(job)
        return chosen

    def _admit(self, letter: str, count: int, names: list[str]) -> bool:
        gate = self.model.rooms.get("gate", [])
        jobs = [self.model.jobs[name] for name in gate if self.model.jobs[name].letter == letter][:count]
        for job in jobs:
            gate.remove(job.id)
            if job.name in names:
                self.model.set_aside(job, letter)
            else:
                self.model.enter(job, letter)
        return self.model.gated and bool(jobs)

    @rule(name=NAME)
    def pause_job(self, name: str) -> None:
        model = self.model
        open_now = name not in model.paused_jobs or name in model.resuming_jobs
        assert self.run(limits.pause_job(self.keys, name)) is open_now
        if name in model.resuming_jobs:
            model.resuming_jobs.remove(name)
        elif open_now:
            model.paused_jobs.append(name)

    @rule(name=NAME | st.just(""), count=st.sampled_from([1, 200]))
    def resume_job(self, name: str, count: int) -> None:
        """A step of it; without a name, of what somebody began to resume."""
        model = self.model
        reply = self.run(limits.resume_job(self.keys, name, count=count))
        name = name or next(iter(model.resuming_jobs), "")
        if name not in model.paused_jobs:
            assert reply == ("open", 0)
            return
        if name not in model.resuming_jobs:
            model.resuming_jobs.append(name)
        room = model.rooms.setdefault("job:" + name, [])
        jobs, room[:] = [model.jobs[job_id] for job_id in room[:count]], room[count:]
        for job in jobs:
            model.put(job, job.letter, resumed=True)
            self.coverage.seen["resume_job: moved"] += 1
        assert reply == ("more" if room else "done", len(jobs))
        if not room:
            model.resuming_jobs.remove(name)
            model.paused_jobs.remove(name)

    @rule()
    def tend(self) -> None:
        """Nobody has a place who may not have it, and nobody waits for a place that is free: there is nothing to do."""
        tended = self.run(limits.tend(self.keys))
        assert tended == ("0", 0, bool(self.model.resuming_jobs))

    @rule(count=st.sampled_from([1, 3, 100]))
    def browse(self, count: int) -> None:
        """All that waits is on some page, once."""
        model = self.model
        streams = [name for letter in LETTERS for name in model.streams[letter]]
        expected = [*streams, *(name for name, _ in model.held), *model.parked]
        same("queued", self._pages("queued", count), expected)
        same("running", self._pages("running", count), [job.id for job in model.held_by(None)])

    def _pages(self, place: str, count: int) -> list[str]:
        ids: list[str] = []
        position = ""
        for _ in range(20):
            page = self.run(browse(self.keys, place, position, count))
            ids, position = ids + page.ids, page.position
            if not position:
                return ids
        raise AssertionError("it has no end")
