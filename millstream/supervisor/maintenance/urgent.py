"""The urgent loop: leases first, then the dead, then what busy workers cannot do themselves.

It ticks many times a second, and the supervisor replaces us when it does not; so nothing here may wait for long.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import structlog

from millstream.protocol import transitions
from millstream.protocol.call import Call
from millstream.protocol.errors import MillstreamError
from millstream.protocol.keys import GROUP, QueueKeys
from millstream.protocol.link import NoGroup
from millstream.protocol.scoreboard import Cause, Header, Phase, Record, RecordState, Scoreboard, Word
from millstream.protocol.transitions import Outcome, Verdict
from millstream.supervisor.deadlines import PATIENCE
from millstream.supervisor.endings import describe
from millstream.supervisor.maintenance.counting import Uncounted, accepted
from millstream.supervisor.maintenance.journal import run_facts, tell_of_death
from millstream.supervisor.maintenance.lanes import Lanes
from millstream.supervisor.maintenance.post_mortem import outcome_of_death
from millstream.supervisor.maintenance.timed import TimedLink
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.worker.fetcher import BLOCK

log = structlog.get_logger("millstream.maintenance")

TICK = 0.025
"""Seconds between two looks at the scoreboard."""

BUSY = 0.05
"""Seconds that a run may take before we settle what its worker ended before it."""

SUPERVISOR_SILENT = 2.0
"""Seconds without a tick of the supervisor after which its leases are not renewed: nobody enforces deadlines."""

EXECUTING = 10.0
"""The same once it has said that it executes itself for a reload: importing takes its time on a busy machine."""

COUNTING = 0.5
"""Seconds that a worker has to count what it has settled, before we take that for ours."""

REJOIN_PAUSE = 0.1
"""Seconds until the next try after groups were missing: where they cannot be made, that is not tried all the time."""

Runs = Sequence[tuple[int, Outcome]]
"""Outcomes, each with the number of its run in its worker."""

Verdicts = list[tuple[Verdict, str]]

TOGETHER = 200
"""Lanes that are settled in one call."""


class Remains(NamedTuple):
    """What a dead process has left in one record: ``runs`` to settle, the run that was on, and its outcome if any."""

    record: Record
    runs: list[tuple[int, Outcome]]
    running: int
    last: Outcome | None


def _together(remains: Sequence[Remains]) -> Iterator[list[Remains]]:
    """Those that one call can settle: of one queue, not too many."""
    queues = {one.record.words[Word.QUEUE] for one in remains}
    for queue in sorted(queues):
        of_queue = [one for one in remains if one.record.words[Word.QUEUE] == queue]
        yield from (of_queue[at : at + TOGETHER] for at in range(0, len(of_queue), TOGETHER))


class Urgent:
    """Renews, settles and hands back, on a connection of its own."""

    def __init__(self, plan: Plan, board: Scoreboard, wake: int, parent: int, counts: Uncounted) -> None:
        self._plan = plan
        self._board = board
        self._wake = wake
        self._parent = parent
        self._counts = counts
        # Shorter than the supervisor's patience with us: a server that hangs must not look like us hanging.
        self._link = TimedLink(plan.url, timeout=0.6, connect_timeout=0.6)
        self._renewed = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._second_looks: list[tuple[float, Sequence[str], str]] = []  # when, at which queues, at whom
        self._remembered = False
        self._already: tuple[tuple[int, int, int], float] = ((0, 0, 0), 0.0)
        self._lanes = Lanes(plan, board, self._link)
        self.orphaned = False
        self.came_to_renew = threading.Event()

    def run(self) -> None:
        """Tick until the supervisor says that it stops, or is gone."""
        header = self._board.header
        while not self._should_leave():
            header[Header.MAINTENANCE_TICK] = time.monotonic_ns()
            if time.monotonic() >= self._retry_at:
                self._attempt()
                if waited := self._link.take_spent():
                    self._counts.redis_answered("urgent", waited)
            self._sleep()
        with contextlib.suppress(MillstreamError):
            self.settle_dead()

    def _attempt(self) -> None:
        try:
            self._renew_leases()
            self.came_to_renew.set()
            self.settle_dead()
            self._tell_of_stuck()
            self._hand_back()
            self._settle_busy()
            self._remember()
            self._look_again()
        except NoGroup:
            self._rejoin()
        except MillstreamError as error:
            if self._failures == 0:
                log.warning("redis.lost", error=str(error))
            self._failures += 1
            self._counts.redis_failed("urgent")
            self._retry_at = time.monotonic() + random.uniform(0.05, min(1.0, 0.1 * 2**self._failures))
        else:
            if self._failures:
                log.info("redis.back")
            self._failures = 0

    def _should_leave(self) -> bool:
        self.orphaned = os.getppid() != self._parent
        return self.orphaned or self._board.header[Header.PHASE] == Phase.STOPPING

    def _sleep(self) -> None:
        select.select([self._wake], [], [], TICK)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 512):
                pass

    # Leases.

    def _renew_leases(self) -> None:
        """Renew what live workers hold, a quarter of the lease after the last time."""
        now = time.monotonic()
        if now - self._renewed < self._plan.lease / 4:
            return
        if not self._is_supervised(now):
            return
        for record in self._board.in_state(RecordState.ALIVE):
            self._board.header[Header.MAINTENANCE_TICK] = time.monotonic_ns()
            if record.words[Word.LANES]:
                self._lanes.renew(record, now)
            else:
                self._renew(record, now)
        self._renewed = now

    def _is_supervised(self, now: float) -> bool:
        """Whether the supervisor ticks, or will do so again in a moment."""
        header = self._board.header
        if now - header[Header.SUPERVISOR_TICK] / 1e9 <= SUPERVISOR_SILENT:
            return True
        executing = header[Header.EXECUTING]
        return bool(executing) and now - executing / 1e9 <= EXECUTING

    def _renew(self, record: Record, now: float) -> None:
        run, refs, index = record.running, record.held, record.words[Word.INDEX]  # the run first: it can only be over
        killed = record.words[Word.KILLED] / 1e9
        if not refs or (killed and now > killed + self._plan.lease):
            # It was killed and does not die: it hangs in the kernel and runs nothing any more. Deadlines are not
            # compared here: only the supervisor knows by how much they moved while the whole tree was stopped.
            return
        group = self._group(record)
        sent = time.monotonic_ns()
        lost = self._link.run(transitions.renew(self._keys(record), self._consumer(record), refs))
        batch = record.words[Word.BATCH]
        if record.words[Word.REVOKED] != batch and not set(lost).isdisjoint(refs[index + 1 :]) and record.held == refs:
            record.words[Word.LOST_BATCH] = batch
        record.words[Word.RENEWED] = sent
        if run and index < len(refs) and refs[index] in lost and record.running == run:
            log.warning("lease.lost", **run_facts(record, group))
            record.words[Word.LOST_RUN] = run

    # The dead.

    def settle_dead(self, *, uncounted: bool = False) -> None:
        """Settle what dead workers left: outcomes, the run that was on, and what they had not started."""
        for record in self._board.in_state(RecordState.DEAD):
            words = record.words
            if words[Word.SETTLED] != words[Word.INCARNATION]:
                self._board.header[Header.MAINTENANCE_TICK] = time.monotonic_ns()
                self._settle_death(record, uncounted=uncounted)
                words[Word.SETTLED] = words[Word.INCARNATION]

    def _settle_death(self, record: Record, *, uncounted: bool) -> None:
        group, consumer = self._group(record), self._consumer(record)
        remains = [self._remains(one, uncounted=uncounted) for one in self._board.holders(record)]
        judged = [(one, verdicts) for some in _together(remains) for one, verdicts in self._settle_remains(some)]
        # Not in the same round trip: this gives back what is not settled, and where the server has forgotten its
        # scripts it may know the second of two calls and not the first.
        keys = map(self._plan.keys.queue, group.queues)
        self._link.run_many([transitions.retire(one, consumer, delete=False) for one in keys])
        ending = describe(record.words[Word.EXIT], Cause(record.words[Word.CAUSE]))
        for (holder, runs, running, last), verdicts in judged:
            if runs:
                self._count(holder, runs, verdicts)
            if running and last is None:
                self._counts.redelivered(self._queue(holder), "shutdown")
            if running and (last is None or verdicts[-1][0] is Verdict.OK):
                tell_of_death(holder, group, ending, last)
        self._counts.exited(group.name, ending)
        # A blocked read of the dead client may still be served: look again when that is over, then forget it.
        self._second_looks.append((time.monotonic() + 2 * BLOCK, group.queues, consumer))

    def _remains(self, record: Record, *, uncounted: bool) -> Remains:
        """What is to be settled of a record: its outbox, and the run that was on."""
        runs = self._unsettled(record)[1]
        running = record.running
        last = None if uncounted or not running else outcome_of_death(record, self._group(record), self._plan)
        if last is not None:
            runs.append((running, last))
        return Remains(record, runs, running, last)

    def _settle_remains(self, remains: Sequence[Remains]) -> Iterator[tuple[Remains, Verdicts]]:
        """Settle what stands in several records of one process and one queue."""
        self._board.header[Header.MAINTENANCE_TICK] = time.monotonic_ns()
        runs = [run for one in remains for run in one.runs]
        verdicts: Verdicts = self._link.run(self._settle_call(remains[0].record, runs)) if runs else []
        for one in remains:
            yield one, verdicts[: len(one.runs)]
            verdicts = verdicts[len(one.runs) :]

    def _remember(self) -> None:
        """At our start: whom the one before us wanted to look at again, consumers of ours that no record knows."""
        if self._remembered:
            return
        known = {self._consumer(record) for record in self._board.records if record.words[Word.STATE]}
        streams = [stream for keys in self._plan.queue_keys for stream in keys.streams]
        replies = self._link.execute_many([("XINFO", "CONSUMERS", stream, GROUP) for stream in streams])
        rows = (row for reply in replies if isinstance(reply, list) for row in reply)  # no stream yet: nobody to find
        names = {row[1].decode(errors="replace") for row in rows}
        for name in sorted(names - known):
            if name.startswith(f"{self._plan.instance}:"):
                self._second_looks.append((time.monotonic() + 2 * BLOCK, self._plan.queues, name))
        self._remembered = True

    def _look_again(self) -> None:
        now = time.monotonic()
        while self._second_looks and self._second_looks[0][0] <= now:
            _, queues, consumer = self._second_looks[0]
            self._link.run_many(
                [transitions.retire(self._plan.keys.queue(queue), consumer, delete=True) for queue in queues]
            )
            self._second_looks.pop(0)

    # The busy.

    def _settle_busy(self) -> None:
        """Settle the outbox of a worker that will not come to it soon."""
        late = time.monotonic_ns() - int(BUSY * 1e9)
        for record in self._late(late):
            words = record.words
            last, runs = self._unsettled(record)
            if runs and record.words[Word.QUEUE] < len(self._group(record).queues):
                verdicts = self._link.run(self._settle_call(record, runs))
                if self._is_counting(record, last, verdicts):
                    continue
                self._count(record, runs, verdicts)
                words[Word.OUTBOX_SETTLED] = last

    def _late(self, late: int) -> Iterator[Record]:
        """Records of processes that do not come to settle, because one run has had the CPU since before *late*."""
        for record in self._board.in_state(RecordState.ALIVE):
            words = record.words
            if words[Word.LANES]:
                if words[Word.STEP] and words[Word.STEP_SINCE] < late:
                    yield from self._board.lanes_of(record)
            elif record.running and words[Word.STARTED] <= late:
                yield record

    def _is_counting(self, record: Record, last: int, verdicts: Verdicts) -> bool:
        """Whether a live worker has just settled all of it itself, and is about to count it.

        Then its outbox is empty in a moment. If it is not, the settle was one of ours whose reply was lost.
        """
        if any(verdict is not Verdict.ALREADY for verdict, _ in verdicts):
            return False
        now, key = time.monotonic(), (record.index, record.words[Word.INCARNATION], last)
        if self._already[0] != key:
            self._already = (key, now)
        return now - self._already[1] < COUNTING

    def _tell_of_stuck(self) -> None:
        """Wake the supervisor where a run has become long since it looked, and others wait for it while a worker idles.

        It looks less often than we do, as long as it does not know of such a run. Any signal would do; a child's death
        is what it expects of us.
        """
        looked, now, patience = self._board.header[Header.SUPERVISOR_TICK], time.monotonic_ns(), int(PATIENCE * 1e9)
        alive = list(self._board.in_state(RecordState.ALIVE))
        stuck = [one for one in alive if one.stuck and looked < one.words[Word.STARTED] + patience <= now]
        idle = {self._group(one).name for one in alive if one.words[Word.IDLE]} if stuck else set()
        if any(self._group(one).name in idle for one in stuck):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._parent, signal.SIGCHLD)

    def _hand_back(self) -> None:
        """Give back what the supervisor has revoked from a busy worker; the worker will not start it."""
        for record in self._board.in_state(RecordState.ALIVE):
            words = record.words
            batch = words[Word.REVOKED]
            if not batch or words[Word.BATCH] != batch or words[Word.HANDED_BACK] == batch:
                continue
            length, index, refs = words[Word.HELD_LENGTH], words[Word.INDEX], record.held
            # The text is that of this batch only if the worker did not touch it meanwhile: its length is its seal.
            if words[Word.BATCH] != batch or words[Word.HELD_LENGTH] != length or not length:
                continue
            if refs[index + 1 :]:
                self._link.run(transitions.give_back(self._keys(record), self._consumer(record), refs[index + 1 :]))
            words[Word.HANDED_BACK] = batch

    # Small things.

    def _unsettled(self, record: Record) -> tuple[int, list[tuple[int, Outcome]]]:
        """The number of the last run in a record's outbox, and the runs that we have not settled, with outcomes."""
        last, packed = record.outbox()
        settled = record.words[Word.OUTBOX_SETTLED]
        return last, [(run, Outcome.unpack(outcome)) for run, outcome in packed if run > settled]

    def _settle_call(self, record: Record, runs: Runs) -> Call[Verdicts]:
        grace = self._group(record).worker.unknown_grace
        return transitions.settle(self._keys(record), self._consumer(record), [one for _, one in runs], grace)

    def _count(self, record: Record, runs: Runs, verdicts: Verdicts) -> None:
        """Count what was settled here, each run once: some may have been settled, and counted, by the worker."""
        counted = record.words[Word.COUNTED]
        judged = [accepted(verdict, run, counted) for (run, _), (verdict, _) in zip(runs, verdicts, strict=True)]
        self._counts.settled(self._queue(record), [outcome for _, outcome in runs], judged)

    def _rejoin(self) -> None:
        """The server lost its data: make the groups again, so that what workers hold can be judged."""
        with contextlib.suppress(MillstreamError):
            instance, lease = self._plan.instance, self._plan.lease
            made = self._link.run_many([transitions.join(keys, instance, lease) for keys in self._plan.queue_keys])
            log.error("redis.groups_rebuilt", groups_made=sum(made))
        self._retry_at = time.monotonic() + REJOIN_PAUSE

    def _group(self, record: Record) -> GroupPlan:
        return self._plan.group_of(record)

    def _queue(self, record: Record) -> str:
        return self._group(record).queues[record.words[Word.QUEUE]]

    def _keys(self, record: Record) -> QueueKeys:
        return self._plan.keys.queue(self._queue(record))

    def _consumer(self, record: Record) -> str:
        words = record.words
        return self._group(record).spec(words[Word.SLOT], words[Word.INCARNATION]).consumer
