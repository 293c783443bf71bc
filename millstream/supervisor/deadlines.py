"""Deadlines of runs: the soft one interrupts, the hard one kills; what waits behind a long run is handed back.

A run's deadlines stand in its record. Time in which we ourselves did not tick (we were stopped, the machine slept) is
added to them: whoever could not be watched is not late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from millstream.protocol.scoreboard import Cause, Interrupt, Word
from millstream.supervisor.slot import HALTED, Process, Slot

log = structlog.get_logger("millstream.supervisor")

GAP = 1.0
"""Seconds between two ticks from which on we take ourselves for having been stopped."""

STACK_LEAD = 0.3
"""Seconds before the hard deadline at which the stack is asked for: a process among many that want the CPU takes so
long to answer, and the kill does not wait for it."""

STACK_PATIENCE = 0.1
"""Seconds to wait for the stack where no deadline said beforehand that there would be a kill."""

RE_ARM = 1.0
"""Seconds after which an interruption is raised again, if the run goes on."""

PATIENCE = 0.02
"""Seconds that a run may take before what waits behind it in its batch is offered to idle workers."""

UNDYING = 5.0
"""Seconds after which a killed process that is not dead is told of."""

UNLIMITED_GRACE = 2.0
"""Seconds from the interruption to the kill where the run has no deadlines."""


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


def enforce(slots: Iterable[Slot], gaps: Gaps, now: float) -> float:
    """Interrupt and kill runs that are past their deadlines, were cancelled, have lost their lease or are too large.

    Returns when to look again at the latest, in monotonic seconds.
    """
    next_look = math.inf
    for slot in slots:
        process = slot.process
        if process is None:
            continue
        if process.record.words[Word.CAUSE]:
            _await_death(slot, process, now)
            continue
        for one in process.holders:
            run = one.record.running
            if one.dumped_run not in (0, run):
                one.forget_stack()  # that run has ended in time: its stack explains no later death
                one.dumped_run = 0
            if run:
                next_look = min(next_look, _enforce_one(one, run, gaps, now))
    return next_look


def _enforce_one(process: Process, run: int, gaps: Gaps, now: float) -> float:
    words = process.record.words
    started, soft, hard = (words[word] / 1e9 for word in (Word.STARTED, Word.SOFT, Word.HARD))
    grace = hard - soft if hard else UNLIMITED_GRACE
    lost, cancelled = words[Word.LOST_RUN] == run, words[Word.CANCEL_RUN] == run
    if words[Word.RUN] != run:
        return now
    if process.too_large == run:
        return _kill(process, run, Cause.MEMORY, now)
    if lost or cancelled:
        if process.stopping != run:
            process.stopping, process.stopping_since = run, now
        kind, cause = (Interrupt.LEASE_LOST, Cause.LEASE_EXPIRED) if lost else (Interrupt.CANCEL, Cause.CANCELLED)
        return _stop(process, run, kind, cause, process.stopping_since, process.stopping_since + grace, now)
    if not hard:
        return math.inf
    moved = gaps.since(started)
    return _stop(process, run, Interrupt.TIMEOUT, Cause.TIMEOUT, soft + moved, hard + moved, now)


def _stop(process: Process, run: int, kind: Interrupt, cause: Cause, soft: float, hard: float, now: float) -> float:
    """Interrupt a run from *soft* on, kill it at *hard*; returns when to look again."""
    if now >= hard:
        return _kill(process, run, cause, now)
    if now >= hard - STACK_LEAD:
        process.request_stack_of(run, now)
        return hard
    if now < soft:
        return min(soft, hard - STACK_LEAD)
    interrupt(process, run, kind, now)
    return min(process.interrupted_at + RE_ARM, hard - STACK_LEAD)


def interrupt(process: Process, run: int, kind: Interrupt, now: float) -> None:
    """Interrupt a run, and again every :data:`RE_ARM` seconds while it goes on."""
    if process.interrupted != run or now - process.interrupted_at >= RE_ARM:
        process.interrupt(run, kind, now)


def _kill(process: Process, run: int, cause: Cause, now: float) -> float:
    """Kill the worker for this run, some time after its stack was asked for; returns when to look again."""
    process.request_stack_of(run, now)
    killed_at = process.dumped_at + STACK_PATIENCE
    if now < killed_at:
        return killed_at
    return math.inf if process.kill_run(run, cause) else now + HALTED


def _await_death(slot: Slot, process: Process, now: float) -> None:
    """Say once that a killed process does not die: it hangs in the kernel, and its slot is taken until it is gone."""
    if process.killed_at and now - process.killed_at >= UNDYING:
        process.killed_at = 0.0
        log.error("worker.undying", worker=slot.name, pid=process.pid, seconds=UNDYING)


def share(slots: Iterable[Slot], now: float, *, draining: bool, revoked: Callable[[], None] = lambda: None) -> bool:
    """Take back what is stuck behind a long run, if another worker of the group idles, or all are draining.

    Also if its worker is to leave, or a job among it was cancelled: that one ends when it is given back.

    Calls *revoked* where it did so. Returns whether some worker holds jobs behind the one that it runs: then the next
    look should come soon.
    """
    held = False
    idle = {slot.group for slot in slots if slot.process is not None and slot.process.idle}
    for slot in slots:
        process = slot.process
        if process is None or not (run := process.record.running) or not process.record.stuck:
            continue
        held, words = True, process.record.words
        wanted = draining or slot.retiring or slot.group in idle or words[Word.CANCEL_BATCH] == words[Word.BATCH]
        if wanted and now - words[Word.STARTED] / 1e9 >= PATIENCE and process.revoke_rest(run):
            revoked()
    return held


def go_on(slots: Iterable[Slot]) -> bool:
    """Let workers go on that halted for what was done, or is not to be done any more; True where one still halts."""
    processes = [slot.process for slot in slots if slot.process is not None]
    halted = [one for process in processes for one in process.holders if one.halted]
    for one in halted:
        one.go_on()
    return any(one.halted for one in halted)
