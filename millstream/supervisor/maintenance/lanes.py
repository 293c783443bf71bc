"""Leases of what the coroutines of one process hold: renewed together, judged one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import structlog

from millstream.protocol import transitions
from millstream.protocol.link import Link
from millstream.protocol.scoreboard import Header, Record, Scoreboard, Word
from millstream.supervisor.maintenance.journal import run_facts
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

TOGETHER = 200
"""Leases that are renewed in one call."""

Held = tuple[Record, str, int, int]
"""A lane, the entry that it holds, the batch that this entry is, and the run that is on (0: not started)."""


class Lanes:
    """Renews on the urgent loop's connection."""

    def __init__(self, plan: Plan, board: Scoreboard, link: Link) -> None:
        self._plan = plan
        self._board = board
        self._link = link

    def renew(self, process: Record, now: float) -> None:
        """Renew what the lanes of a live process hold. Raises :class:`Unavailable`."""
        killed = process.words[Word.KILLED] / 1e9
        if killed and now > killed + self._plan.lease:
            return  # it hangs in the kernel and runs nothing any more
        for queue, some in self._held(process):
            self._board.header[Header.MAINTENANCE_TICK] = time.monotonic_ns()
            self._renew(process, queue, some)

    def _held(self, process: Record) -> Iterator[tuple[int, list[Held]]]:
        """What the lanes hold, by queue, not too much at once."""
        by_queue: dict[int, list[Held]] = {}
        for lane in self._board.lanes_of(process):
            batch, run, refs = lane.words[Word.BATCH], lane.running, lane.held  # the run first: it can only be over
            if refs:
                by_queue.setdefault(lane.words[Word.QUEUE], []).append((lane, refs[0], batch, run))
        for queue, held in by_queue.items():
            yield from ((queue, held[at : at + TOGETHER]) for at in range(0, len(held), TOGETHER))

    def _renew(self, process: Record, queue: int, held: Sequence[Held]) -> None:
        group, words = self._plan.group_of(process), process.words
        keys = self._plan.keys.queue(group.queues[queue])
        consumer = group.spec(words[Word.SLOT], words[Word.INCARNATION]).consumer
        sent = time.monotonic_ns()
        lost = self._link.run(transitions.renew(keys, consumer, [ref for _, ref, _, _ in held]))
        for lane, ref, batch, run in held:
            if lane.words[Word.BATCH] != batch:
                continue  # it holds another one by now
            lane.words[Word.RENEWED] = sent
            if ref not in lost:
                continue
            if not run:
                lane.words[Word.LOST_BATCH] = batch
            elif lane.running == run:
                log.warning("lease.lost", **run_facts(lane, group))
                lane.words[Word.LOST_RUN] = run
