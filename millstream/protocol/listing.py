"""Lists of jobs by state, queue and name: bounded pages, each job as :class:`JobInfo`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from millstream.protocol import transitions
from millstream.protocol.errors import InvalidJob, JobNotFound
from millstream.protocol.info import FINAL, JobInfo, State, job_info
from millstream.protocol.inspect import browse
from millstream.protocol.keys import QueueKeys
from millstream.protocol.runner import Runner

PLACES: dict[str, frozenset[State]] = {
    "running": frozenset({State.RUNNING}),
    "queued": frozenset({State.QUEUED}),
    "due": frozenset({State.SCHEDULED, State.RETRYING}),
    "dead": frozenset({State.DEAD}),
    "history": frozenset({State.COMPLETED, State.CANCELLED, State.EXPIRED, State.DISCARDED}),
}
"""Where jobs of a state are found, in the order in which lists show them."""

FINISHED = "finished"
"""The place of all jobs that ended, however: those of one name, where a name is wanted."""

STATES_OF = {**PLACES, FINISHED: FINAL}

STEP = 100
"""Jobs that one round trip reads."""

MAX_LOOKED_AT = 5000
"""Jobs that one page looks at, at most, when a name filters most of them out."""


@dataclass(frozen=True)
class Page:
    """Some jobs, the cursor that continues the list (None at its end), and how many jobs were looked at for it."""

    jobs: list[JobInfo]
    cursor: str | None
    looked_at: int = 0


@dataclass(frozen=True)
class Wanted:
    """Which jobs a list shows: all *states* and names where None.

    *finished*: those that ended, newest first; of a name the last 100 whose runs ended, however many others did since.
    """

    states: Collection[State] | None = None
    name: str | None = None
    finished: bool = False

    def places(self) -> list[str]:
        if self.finished:
            return [FINISHED]
        return [place for place, states in PLACES.items() if self.states is None or states & set(self.states)]

    @property
    def selective(self) -> bool:
        """Whether many of the jobs in a place may be left out."""
        return self.name is not None

    def matches(self, info: JobInfo) -> bool:
        if self.name is not None and info.job != self.name:
            return False
        return self.states is None or info.state in self.states


@dataclass
class _Walk:
    """A position in (place, queue) order, and how much was read so far."""

    runner: Runner
    stops: list[tuple[str, QueueKeys]]
    stop: int = 0
    position: str = ""
    looked_at: int = 0
    seen: set[tuple[str, str]] = field(default_factory=set)

    def cursor(self) -> str | None:
        if self.stop >= len(self.stops):
            return None
        place, keys = self.stops[self.stop]
        return f"{place}/{keys.queue}/{self.position}"

    def next_step(self, wanted: Wanted, missing: int) -> list[JobInfo]:
        """Read on: up to *missing* jobs, without those that left their place since they were found."""
        place, keys = self.stops[self.stop]
        count = STEP if wanted.selective else min(STEP, missing)
        look = partial(browse, keys, place, name=wanted.name)
        found = self.runner.run(look(self.position, count))
        infos = [info for info in infos_of(self.runner, keys, found.ids) if info.state in STATES_OF[place]]
        matching = [info for info in infos if wanted.matches(info)]
        if len(matching) > missing:
            # More than fits: the cursor has to stand behind the last job that is shown.
            shown = found.ids.index(matching[missing - 1].id) + 1
            found = self.runner.run(look(self.position, shown))
        self.looked_at += len(found.ids)
        self.position = found.position
        if not found.position:
            self.stop += 1
        return list(self._first_seen(matching[:missing]))

    def _first_seen(self, infos: Sequence[JobInfo]) -> Iterator[JobInfo]:
        # A job that died, was retried and then completed is twice in the history.
        for info in infos:
            if (info.queue, info.id) not in self.seen:
                self.seen.add((info.queue, info.id))
                yield info


def list_jobs(
    runner: Runner,
    queues: Sequence[QueueKeys],
    wanted: Wanted,
    *,
    limit: int = 50,
    cursor: str | None = None,
    scan: int = MAX_LOOKED_AT,
) -> Page:
    """One page of jobs: running ones first, then queued, due, dead and ended ones.

    Ended jobs are those of the queues' bounded histories. The page ends when about *scan* jobs were looked at.
    Raises :class:`InvalidJob` for a cursor of another list, :class:`Unavailable` without Redis.
    """
    walk = _Walk(runner, [(place, keys) for place in wanted.places() for keys in queues])
    if cursor:
        _go_to(walk, cursor)
    jobs: list[JobInfo] = []
    while walk.stop < len(walk.stops) and len(jobs) < limit and walk.looked_at < scan:
        jobs += walk.next_step(wanted, limit - len(jobs))
    return Page(jobs, walk.cursor(), walk.looked_at)


def _go_to(walk: _Walk, cursor: str) -> None:
    place, _, rest = cursor.partition("/")
    queue, _, position = rest.partition("/")
    for index, (stop, keys) in enumerate(walk.stops):
        if (stop, keys.queue) == (place, queue):
            walk.stop, walk.position = index, position
            return
    raise InvalidJob(f"the cursor {cursor!r} is not of this list: pass one that it printed")


def infos_of(runner: Runner, keys: QueueKeys, ids: Sequence[str]) -> list[JobInfo]:
    """What is known of these jobs, in one round trip per :data:`STEP`; without those that are unknown."""
    infos: list[JobInfo] = []
    for first in range(0, len(ids), STEP):
        step = ids[first : first + STEP]
        facts = runner.run_many([transitions.inspect(keys, job_id) for job_id in step])
        known = ((job_id, fact) for job_id, fact in zip(step, facts, strict=True) if fact.record)
        infos += (job_info(keys.queue, job_id, fact) for job_id, fact in known)
    return infos


def find_job(runner: Runner, queues: Sequence[QueueKeys], job_id: str) -> tuple[QueueKeys, JobInfo]:
    """Find a job by its id in any of *queues*. Raises :class:`JobNotFound`, :class:`Unavailable`."""
    facts = runner.run_many([transitions.inspect(keys, job_id) for keys in queues])
    for keys, fact in zip(queues, facts, strict=True):
        if fact.record:
            return keys, job_info(keys.queue, job_id, fact)
    where = f"queue {queues[0].queue!r}" if len(queues) == 1 else f"any of {len(queues)} queues"
    raise JobNotFound(f"there is no job {job_id!r} in {where}: it never existed, or its record has expired")
