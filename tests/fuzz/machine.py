"""All rules together, and ways to bring a job into a state and to try a transition on it.

A new transition is a row of `millstream/protocol/states.py`, a rule in one of the classes below, and a line in
`ATTEMPTS`; a new state a line in `WAYS` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from millstream.protocol.link import Link
from millstream.protocol.states import State, Transition
from millstream.protocol.transitions import Kind
from tests.fuzz.coverage import PLACES, Coverage, Place
from tests.fuzz.entering import Entering
from tests.fuzz.jobs import HOUR
from tests.fuzz.limiting import Limiting
from tests.fuzz.operating import Operating
from tests.fuzz.running import Running
from tests.fuzz.subject import CONSUMERS, NAMES
from tests.support.acl import as_role

A = CONSUMERS[0]
HOLDER = "its holder"


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unique": {"unique": "u1"},
    "until started": {"unique": "u1", "started_frees": True},
    "late": {"life": HOUR // 2},
    "keyed": {"key": "k1"},
    "pair": {"key": "k2"},
    "all": {"unique": "u2", "life": HOUR // 2, "key": "k1"},
}
"""What a job may have beyond what every job has: as :meth:`Machine.enqueue` takes it."""


class Machine(Entering, Running, Operating, Limiting):
    """Every rule."""

    def __init__(self) -> None:
        super().__init__()
        self.born: dict[str, dict[str, Any]] = {}

    @initialize(
        places=st.lists(st.sampled_from(PLACES), min_size=len(NAMES), max_size=len(NAMES)),
        kinds=st.lists(st.sampled_from(list(KINDS)), min_size=len(NAMES), max_size=len(NAMES)),
    )
    def begin(self, places: list[Place], kinds: list[str]) -> None:
        """Some jobs are somewhere already; those that wait come last, so that no fetch takes them."""
        waiting = (State.QUEUED, State.SCHEDULED)
        jobs = zip(NAMES, places, kinds, strict=False)
        for name, place, kind in sorted(jobs, key=lambda job: job[1] in waiting):
            self.born[name] = KINDS[kind]
            for step in WAYS[place]:
                step(self, name)
                self.compare()
            if kind == "late":
                self.deadline_passes(name)

    def bring(self, job_id: str, place: Place) -> None:
        """Bring a job that does not exist into a state."""
        for step in WAYS[place]:
            step(self, job_id)
            self.compare()
        assert self.model.state(job_id) is place

    def attempt(self, job_id: str, transition: Transition) -> None:
        """Try a transition on a job in whatever state it is; what comes of it is compared with the model."""
        ATTEMPTS[transition](self, job_id)
        self.compare()


Step = Callable[[Machine, str], None]


def _settle(kind: Kind, delay: int = 0) -> Step:
    return lambda machine, job_id: machine.settle(job_id, kind, delay, HOLDER, 0, False)


def _enqueue(delay: int | None = None) -> Step:
    return lambda machine, job_id: machine.enqueue(job_id, "normal", delay, "", **machine.born.get(job_id, {}))


def _fetch(machine: Machine, _job_id: str) -> None:
    machine.fetch(A, 10)


TAKEN: tuple[Step, ...] = (_enqueue(), _fetch)
WAYS: dict[Place, tuple[Step, ...]] = {
    None: (),
    State.SCHEDULED: (_enqueue(HOUR),),
    State.QUEUED: (_enqueue(),),
    State.RUNNING: TAKEN,
    State.RETRYING: (*TAKEN, _settle(Kind.RETRY, HOUR)),
    State.COMPLETED: (*TAKEN, _settle(Kind.COMPLETED)),
    State.DEAD: (*TAKEN, _settle(Kind.DEAD)),
    State.CANCELLED: (*TAKEN, _settle(Kind.CANCELLED)),
    State.EXPIRED: (*TAKEN, _settle(Kind.EXPIRED)),
    State.DISCARDED: (*TAKEN, _settle(Kind.DISCARDED)),
}


def _promote(machine: Machine, job_id: str) -> None:
    machine.time_passes(job_id)
    machine.promote_a_stray(job_id)
    machine.promote(200)


def _cancel(machine: Machine, job_id: str) -> None:
    machine.cancel(job_id)
    machine.compare()
    machine.settle(job_id, Kind.CANCELLED, 0, HOLDER, 0, False)


def _purge(machine: Machine, job_id: str) -> None:
    machine.purge(200, True)
    machine.compare()
    machine.purge_a_stray(job_id)


def _revive(machine: Machine, job_id: str) -> None:
    machine.retry_ended(job_id)
    machine.compare()
    machine.retry_dead(job_id)


def _delete(machine: Machine, job_id: str) -> None:
    machine.delete_dead(job_id)
    machine.compare()
    machine.delete_ended(job_id)


ATTEMPTS: dict[Transition, Step] = {
    Transition.ENQUEUE: _enqueue(),
    Transition.DELAY: _enqueue(HOUR),
    Transition.PROMOTE: _promote,
    Transition.FETCH: _fetch,
    Transition.GIVE_BACK: lambda machine, job_id: machine.give_back(job_id, HOLDER, 0),
    Transition.SNOOZE: _settle(Kind.RELEASE, HOUR),
    Transition.RETRY: _settle(Kind.RETRY, HOUR),
    Transition.COMPLETE: _settle(Kind.COMPLETED),
    Transition.DISCARD: _settle(Kind.DISCARDED),
    Transition.EXPIRE: _settle(Kind.EXPIRED),
    Transition.CANCEL: _cancel,
    Transition.DIE: _settle(Kind.DEAD),
    Transition.REVIVE: _revive,
    Transition.DELETE: _delete,
    Transition.PURGE: _purge,
    Transition.FORGET: lambda machine, job_id: machine.record_expires(job_id),
}


def machine_on(url: str, coverage: Coverage) -> type[Machine]:
    """The machine for one server; its coverage is counted there. The caller closes its `link`."""
    link = Link(as_role(url, "admin"), timeout=60.0)
    return type("Machine", (Machine,), {"link": link, "coverage": coverage})
