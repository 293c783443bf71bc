"""Deadlines of runs: the soft one interrupts, the hard one kills; what waits behind a long run is handed back.

A run's deadlines stand in its record. Time in which we ourselves did not tick (we were stopped, the machine slept) is
added to them: whoever could not be watched is not late.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from millstream.protocol.scoreboard import Cause, Interrupt, Word
from millstream.supervisor.slot import Process, Slot

log = structlog.get_logger("millstream.supervisor")

GAP = 1.0
"""Seconds between two ticks from which on we take ourselves for having been stopped."""

STACK_LEAD = 0.1
"""Seconds before the hard deadline at which the stack is asked for, so that it is there in time."""

RE_ARM = 1.0
"""Seconds after which an interruption is raised again, if the run goes on."""

PATIENCE = 0.02
"""Seconds that a run may take before what waits behind it in its batch is offered to idle workers."""


@dataclass
class Gaps:
    """When we did not tick, in monotonic seconds."""

    last_tick: float
    gaps: list[tuple[float, float]] = field(default_factory=list)

    def tick(self, now: float) -> float:
        """Note a tick; returns the length of the gap before it, 0 where there was none."""
        length = now - self.last_tick
        self.last_tick = now
        if length < GAP:
            return 0.0
        self.gaps = [*self.gaps[-99:], (now, length)]
        return length

    def since(self, start: float) -> float:
        """Seconds of gaps that ended after *start*."""
        return sum(min(length, end - start) for end, length in self.gaps if end > start)


def enforce(slots: Iterable[Slot], gaps: Gaps, now: float) -> None:
    """Interrupt and kill runs that are past their deadlines, were cancelled, or have lost their lease."""
    for slot in slots:
        process = slot.process
        if process is None:
            continue
        run = process.record.running
        if process.dumped_run not in (0, run):
            process.forget_stack()  # that run has ended in time: its stack explains no later death
            process.dumped_run = 0
        if run:
            _enforce_one(slot, process, run, gaps, now)


def _enforce_one(slot: Slot, process: Process, run: int, gaps: Gaps, now: float) -> None:
    words = process.record.words
    started, soft, hard = (words[word] / 1e9 for word in (Word.STARTED, Word.SOFT, Word.HARD))
    grace = hard - soft if hard else 2.0
    if words[Word.RUN] != run:
        return
    if words[Word.LOST_RUN] == run:
        return _stop_run(slot, process, run, Interrupt.LEASE_LOST, Cause.LEASE_EXPIRED, grace, now)
    if words[Word.CANCEL_RUN] == run:
        return _stop_run(slot, process, run, Interrupt.CANCEL, Cause.CANCELLED, grace, now)
    if not hard:
        return
    late = now - hard - gaps.since(started)
    if late >= 0:
        kill_with_stack(slot, process, run, Cause.TIMEOUT)
    elif late >= -STACK_LEAD:
        _ask_for_stack(process, run)
    elif late >= -grace:
        interrupt(process, run, Interrupt.TIMEOUT, now)


def interrupt(process: Process, run: int, kind: Interrupt, now: float) -> None:
    """Interrupt a run, and again every :data:`RE_ARM` seconds while it goes on."""
    if process.interrupted != run or now - process.interrupted_at >= RE_ARM:
        process.interrupt(run, kind, now)


def _stop_run(slot: Slot, process: Process, run: int, kind: Interrupt, cause: Cause, grace: float, now: float) -> None:
    """Interrupt a run; kill it when it has not ended *grace* seconds later."""
    if process.stopping != run:
        process.stopping, process.stopping_since = run, now
    interrupt(process, run, kind, now)
    waited = now - process.stopping_since
    if waited >= grace:
        kill_with_stack(slot, process, run, cause)
    elif waited >= grace - STACK_LEAD:
        _ask_for_stack(process, run)


def _ask_for_stack(process: Process, run: int) -> None:
    if process.dumped_run != run:
        process.dumped_run = run
        process.request_stack()


def kill_with_stack(slot: Slot, process: Process, run: int, cause: Cause) -> None:
    """Kill the worker for this run; its stack is asked for at the first call, the kill comes with the next."""
    if process.dumped_run != run:  # we come late ourselves: one more tick for the stack
        return _ask_for_stack(process, run)
    record = process.record
    if process.kill_run(run, cause):
        record.keep_stack(process.read_stack())
        log.warning(
            "job.killed",
            worker=slot.name,
            pid=process.pid,
            job=record.job_id,
            name=record.job_name,
            attempt=record.words[Word.ATTEMPT] + 1,
            run=record.words[Word.RUN_TOKEN],
            cause=cause.name.lower(),
        )


def share(slots: Iterable[Slot], now: float, *, draining: bool) -> bool:
    """Take back what is stuck behind a long run, if another worker of the group idles, or all are draining.

    Also if its worker is to leave, or a job among it was cancelled: that one ends when it is given back.

    Returns whether some worker holds jobs behind the one that it runs: then the next look should come soon.
    """
    held = False
    idle = {slot.group for slot in slots if slot.process is not None and slot.process.idle}
    for slot in slots:
        process = slot.process
        if process is None or not (run := process.record.running):
            continue
        words = process.record.words
        if words[Word.BATCH_SIZE] - words[Word.INDEX] <= 1 or words[Word.REVOKED] == words[Word.BATCH]:
            continue
        held = True
        wanted = draining or slot.retiring or slot.group in idle or words[Word.CANCEL_BATCH] == words[Word.BATCH]
        if wanted and now - words[Word.STARTED] / 1e9 >= PATIENCE:
            process.revoke_rest(run)
    return held
