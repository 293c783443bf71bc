"""Rules: how runs end, are given back, and are recovered from the dead."""

from __future__ import annotations

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import rule

from millstream.protocol import transitions
from millstream.protocol.keys import STREAMS, split_ref_stream
from millstream.protocol.states import State, Transition
from millstream.protocol.transitions import Kind, Outcome, Verdict
from tests.fuzz.jobs import HOUR, LETTERS, Job
from tests.fuzz.subject import BY, CONSUMERS, IDS, OLD, Subject, row, same

CONSUMER = st.sampled_from(CONSUMERS)
LATER = st.sampled_from([0, HOUR])
ENDS = {
    Kind.COMPLETED: Transition.COMPLETE,
    Kind.DISCARDED: Transition.DISCARD,
    Kind.CANCELLED: Transition.CANCEL,
    Kind.EXPIRED: Transition.EXPIRE,
}
AGAIN = {Kind.RETRY: "attempt", Kind.TIMEOUT: "timeouts", Kind.MEMORY: "memory"}
"""Runs that failed, and what counts them."""
TTL = 2 * HOUR
ROW = orjson.dumps({"a": 0, "w": "", "c": "lease_expired"})  # of a host that has vanished


def meant(kind: Kind, delay: int) -> Transition:
    """What a settle of this kind is to do to its job."""
    if kind in ENDS:
        return ENDS[kind]
    if kind in (Kind.DEAD, Kind.CRASHED):
        return Transition.DIE
    if kind in AGAIN or (kind is Kind.CRASH and delay):
        return Transition.RETRY
    return Transition.SNOOZE if delay or kind is Kind.UNKNOWN else Transition.GIVE_BACK


def _is_too_late(job: Job, kind: Kind, delay: int) -> bool:
    """Whether it would run again after its deadline. One that was cancelled would not."""
    return (kind in AGAIN or kind is Kind.CRASH) and job.life is not None and not job.cancel and delay >= job.life


class Running(Subject):
    """Settle, begin, renew, give back, retire, recover."""

    @rule(
        job_id=IDS,
        kind=st.sampled_from(Kind),
        delay=LATER,
        by=BY,
        old=OLD,
        over=st.booleans(),
        holds=st.booleans(),
        lost=st.booleans(),
    )
    def settle(
        self, job_id: str, kind: Kind, delay: int, by: str, old: int, over: bool, holds: bool = True, lost: bool = False
    ) -> None:
        """End a run; *over*: the time in which some worker may learn an unknown job's name is over.

        *lost*: the reply was lost, and the worker says it again.
        *holds* is False where a worker did not see that the job holds a unique key: it keeps nobody away all the same.
        """
        transition = Transition.DIE if kind is Kind.UNKNOWN and over else meant(kind, delay)
        job, ref, consumer = self.tries(job_id, transition), self.ref(job_id, old), self.who(job_id, by)
        holds = holds or bool(job and job.key)
        number = TTL if kind in ENDS else 0 if kind in (Kind.DEAD, Kind.CRASHED) else delay
        outcome = Outcome(ref, job_id, kind, number, row(job_id), holds)
        call = transitions.settle(self.keys, consumer, [outcome], 0.0 if over else 600.0)
        ((verdict, text),) = self.run(call)
        assert (verdict, text) == (self._settled(job, ref, consumer, kind, number, over, holds), "")
        if lost:
            ((verdict, _),) = self.run(call)
            assert verdict is self._settled(job, ref, consumer, kind, number, over, holds)

    def _settled(
        self, job: Job | None, ref: str, consumer: str, kind: Kind, number: int, over: bool = False, holds: bool = True
    ) -> Verdict:
        """Move the model as settle.lua does; what it answers."""
        if job is None or not (job.holder == consumer and job.entry == ref):
            ended = job and job.entry == ref and job.state not in (State.QUEUED, State.RUNNING)
            if job and (ref in job.settled or ended):
                return Verdict.ALREADY
            self.model.stats["stale"] += 1
            return Verdict.STALE
        if kind in ENDS:
            self.model.end(job, ENDS[kind], number, holds)
            self.model.stats[kind] += 1
        elif _is_too_late(job, kind, number):
            counter = AGAIN.get(kind, "crashes")
            setattr(job, counter, getattr(job, counter) + 1)
            self.model.bury(job)
            self.model.stats["dead"] += 1
            self.coverage.seen[f"{kind}: too late"] += 1
        elif kind in (Kind.DEAD, Kind.CRASHED):
            self._died(job, kind, number)
        else:
            self._moved(job, ref, kind, number, over)
        return Verdict.OK

    def _died(self, job: Job, kind: Kind, number: int) -> None:
        if kind is Kind.CRASHED:
            job.crashes += 1
        elif number == 0:
            job.attempt += 1
        elif number == 1:
            job.payload, job.run, job.crashes = False, 1, 0
        self.model.bury(job)
        self.model.stats["dead"] += 1

    def _moved(self, job: Job, ref: str, kind: Kind, delay: int, over: bool) -> None:
        job.settled = (ref, *job.settled[:2])
        job.run += 1
        counted = "dead" if kind is Kind.UNKNOWN and over else Kind.RETRY if kind in AGAIN else kind
        self.model.stats[counted] += 1
        if kind in AGAIN:
            setattr(job, AGAIN[kind], getattr(job, AGAIN[kind]) + 1)
            self.model.postpone(job, Transition.RETRY, delay)
            self.model.note_retry(job)
        elif kind is Kind.CRASH:
            job.crashes, job.alone = job.crashes + 1, True
            self._later_or_again(job, Transition.RETRY, delay)
            self.model.note_retry(job)
        elif kind is Kind.RELEASE:
            self._later_or_again(job, Transition.SNOOZE, delay)
        elif over:
            self.model.bury(job)
        else:
            self.model.postpone(job, Transition.SNOOZE, delay)

    def _later_or_again(self, job: Job, transition: Transition, delay: int) -> None:
        if delay:
            self.model.postpone(job, transition, delay)
        else:
            self.model.place(job, Transition.GIVE_BACK, "a")

    @rule(job_id=IDS, number=st.sampled_from([1, 2, 3]))
    def refuse(self, job_id: str, number: int) -> None:
        """Its worker buries what is no job (1), what it must not run (2), or what has used up a budget apart (3)."""
        job, ref, consumer = self.tries(job_id, Transition.DIE), self.ref(job_id, 0), self.who(job_id, "")
        outcome = Outcome(ref, job_id, Kind.DEAD, number, row(job_id))
        ((verdict, _),) = self.run(transitions.settle(self.keys, consumer, [outcome]))
        assert verdict is self._settled(job, ref, consumer, Kind.DEAD, number)

    @rule(consumer=CONSUMER, kinds=st.lists(st.sampled_from([Kind.COMPLETED, Kind.DEAD, Kind.RETRY]), max_size=6))
    def settle_batch(self, consumer: str, kinds: list[Kind]) -> None:
        """What a consumer holds, in one call; the history has those that ended well last."""
        jobs = list(zip(self.model.held_by(consumer), kinds, strict=False))
        numbers = [TTL if kind is Kind.COMPLETED else 0 for _, kind in jobs]
        outcomes = [
            Outcome(job.entry or "", job.id, kind, number, row(job.id), True)
            for (job, kind), number in zip(jobs, numbers, strict=True)
        ]
        verdicts = self.run(transitions.settle(self.keys, consumer, outcomes)) if outcomes else []
        assert verdicts == [(Verdict.OK, "")] * len(jobs)
        for (job, kind), number in sorted(zip(jobs, numbers, strict=True), key=lambda end: end[0][1] is Kind.COMPLETED):
            self._settled(job, job.entry or "", consumer, kind, number)

    @rule(job_id=IDS, by=BY, old=OLD, alone=st.booleans())
    def begin_run(self, job_id: str, by: str, old: int, alone: bool) -> None:
        job, ref, consumer = self.model.jobs.get(job_id), self.ref(job_id, old), self.who(job_id, by)
        holds = job is not None and job.holder == consumer and job.entry == ref
        begun = self.run(transitions.begin(self.keys, job_id, ref, consumer, alone=alone))
        if job is None or not holds:
            assert begun == ("stale", 0)
        elif job.life == 0:
            assert begun == ("expired", 1)
            self.coverage.seen["begin: expired"] += 1
        else:
            assert begun == ("ok", job.expires or 0)
            job.started = ref if alone else job.started
            if job.started_frees:
                self.model.unlock(job)
                self.coverage.seen["begin: frees a unique key"] += 1

    @rule(job_id=IDS, by=BY, old=OLD)
    def renew(self, job_id: str, by: str, old: int) -> None:
        job, ref, consumer = self.model.jobs.get(job_id), self.ref(job_id, old), self.who(job_id, by)
        holds = job is not None and job.holder == consumer and job.entry == ref
        assert self.run(transitions.renew(self.keys, consumer, [ref])) == ([] if holds else [ref])
        if job and holds:
            job.lease_over = False

    @rule(job_id=IDS, by=BY, old=OLD)
    def give_back(self, job_id: str, by: str, old: int) -> None:
        job, ref, consumer = self.tries(job_id, Transition.GIVE_BACK), self.ref(job_id, old), self.who(job_id, by)
        holds = job is not None and job.holder == consumer and job.entry == ref
        assert self.run(transitions.give_back(self.keys, consumer, [ref])) == int(holds)
        if job and holds:
            self._given_back(job)
            self.model.stats["release"] += 1

    def _given_back(self, job: Job) -> None:
        job.run += 1
        self.model.place(job, Transition.GIVE_BACK, "a")

    @rule(consumer=CONSUMER, delete=st.booleans(), spare=st.none() | IDS)
    def retire(self, consumer: str, delete: bool, spare: str | None) -> None:
        held = self.model.held_by(consumer)
        spared = [job for job in held if job.id == spare]
        refs = [job.entry or "" for job in spared]
        reply = self.run(transitions.retire(self.keys, consumer, delete=delete, spare=refs))
        released = [job for job in held if job not in spared]
        assert reply == (len(released), 2 * len(spared)), (
            "one that is spared is counted twice, and only looked at for 0"
        )
        for job in released:
            self._given_back(job)
        self.model.stats["release"] += len(released)

    @rule(consumer=CONSUMER)
    def lease_ends(self, consumer: str) -> None:
        """Nobody has renewed for longer than the lease; the server's clock is left alone, the delivery is aged."""
        for job in self.model.held_by(consumer):
            stream = self.keys.stream(split_ref_stream(job.entry or ""))
            aged = ("IDLE", 2 * 24 * HOUR, "JUSTID")
            self.link.execute("XCLAIM", stream, "millstream", consumer, 0, (job.entry or "")[1:], *aged)
            job.lease_over = True

    @rule(letter=st.sampled_from(LETTERS), gone=st.sampled_from(["", "b-000001"]), limit=st.integers(1, 3))
    def recover(self, letter: str, gone: str, limit: int) -> None:
        name = STREAMS[LETTERS.index(letter)]
        call = transitions.recover(self.keys, name, "", row=ROW, gone=gone, crash_limit=limit, crash_delay=HOUR / 1000)
        found = self.run(call)
        held = self.model.held_by(None, letter)
        taken = [job for job in held if job.lease_over or (gone and (job.holder or "").startswith(gone + ":"))]
        ends = [(self._recovered(job, limit), job.name, job.id, job.run - 1) for job in taken]
        ended = [end for end in ends if end[0]]
        died = sum(kind == "crashed" for kind, *_ in ended)
        same("cursor, recovered, dead", (found.cursor, found.recovered, found.dead), ("", len(taken), died))
        same("runs that counted", [tuple(run) for run in found.ended], ended)
        self.model.stats["recovered"] += len(taken)
        self.model.stats["dead"] += died

    def _recovered(self, job: Job, limit: int) -> str:
        """Only a run that was marked counts; how it ended, "" where it did not count."""
        counts = job.started == job.entry
        job.run, job.alone = job.run + 1, True
        if not counts:
            self.model.place(job, Transition.GIVE_BACK, "a")
            return ""
        job.crashes += 1
        if job.crashes >= limit:
            self.model.bury(job)
            return "crashed"
        if job.crashes == 1:
            self.model.place(job, Transition.GIVE_BACK, "a")
        else:
            self.model.postpone(job, Transition.RETRY, HOUR * 2 ** (job.crashes - 2))
        self.model.note_retry(job)
        return "cancelled" if job.state is State.CANCELLED else "crash"
