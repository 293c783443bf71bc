"""A slot: the place of one worker in its group, and the handle of the process that fills it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from millstream.protocol.scoreboard import Cause, Interrupt, Order, Record, Word
from millstream.supervisor.plan import GroupPlan
from millstream.supervisor.restart import HEALTHY, Backoff

KEPT_ELSEWHERE = frozenset({"record", "lanes"})
"""Fields of a process that are found in the scoreboard."""

SAME_STACK = 0.05
"""Seconds for which one dump of a process's stack serves several of its coroutines."""

HALTED = 0.001
"""Seconds after which a process that runs has seen that it is to start nothing: stores arrive within microseconds."""


@dataclass
class Process:
    """A live worker process, as its parent sees it. Times are monotonic seconds."""

    pid: int
    incarnation: int
    record: Record
    stack_file: int
    started: float
    interrupted: int = 0  # the run that was interrupted last
    interrupted_at: float = 0.0
    stopping: int = 0  # the run that was cancelled, or has lost its lease
    stopping_since: float = 0.0
    too_large: int = 0  # the run in which it has grown beyond its group's limit
    dumped_run: int = 0
    dumped_at: float = 0.0
    halted: int = 0  # the run after which it starts no other until we say so
    halted_at: float = 0.0
    halt_wanted: bool = False
    killed_at: float = 0.0  # 0: it was not, or that has been told
    stack_asked_at: float = 0.0
    lanes: list[Lane] = field(default_factory=list, repr=False, compare=False)

    @property
    def holders(self) -> Sequence[Process]:
        """Handles of what it runs: one for each of its coroutines, or itself."""
        return self.lanes or (self,)

    @property
    def running(self) -> bool:
        """Whether some job runs in it."""
        return bool(self.record.running or self.record.words[Word.BUSY_LANES])

    @property
    def ready(self) -> bool:
        return bool(self.record.words[Word.READY])

    def lived(self, now: float) -> float:
        """Seconds since it got ready; 0 before."""
        return now - self.record.words[Word.READY] / 1e9 if self.ready else 0.0

    @property
    def idle(self) -> bool:
        return bool(self.record.words[Word.IDLE])

    @property
    def busy(self) -> bool:
        """Whether it works through a batch, or settles one. One that is not need not idle: it may be paused.

        One that runs several coroutines is busy where most of them are.
        """
        words = self.record.words
        return bool(words[Word.HELD_LENGTH]) or 2 * words[Word.BUSY_LANES] > self.record.lanes[1]

    @property
    def away(self) -> bool:
        """Whether it works not yet, or may be about to end."""
        words = self.record.words
        return not self.ready or bool(words[Word.LEFT] or words[Word.MAY_LEAVE]) or words[Word.WORN] == 2

    def to_dict(self) -> dict[str, Any]:
        """All fields but those in the scoreboard, for the supervisor that takes over."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in KEPT_ELSEWHERE}

    def signal(self, number: int) -> None:
        """Send a signal to the process. It was not reaped yet, so the pid is still its own."""
        os.kill(self.pid, number)

    def kill(self, cause: Cause) -> None:
        """Kill it with its subprocesses, whatever it runs. Where it is being killed already the first cause stays."""
        words = self.record.words
        if not words[Word.CAUSE]:
            words[Word.CAUSE] = cause
            words[Word.KILLED] = time.monotonic_ns()
        self.kill_group()

    def kill_group(self) -> None:
        """Kill the process and its subprocesses."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self.pid, signal.SIGKILL)  # killed before it had made its group

    def order(self, order: Order) -> None:
        """Say what is wanted of it, and wake it."""
        self.halted = 0
        self.record.words[Word.ORDER] = order
        self.signal(signal.SIGTERM if order is Order.DRAIN else signal.SIGUSR2)

    def interrupt(self, run: int, kind: Interrupt, now: float) -> None:
        """Raise an interruption in this run; the worker ignores it if it is in another one by then."""
        words = self.record.words
        words[Word.INTERRUPT_RUN] = 0
        words[Word.INTERRUPT] = kind
        words[Word.INTERRUPT_RUN] = run
        self.interrupted, self.interrupted_at = run, now
        self.signal(signal.SIGUSR2)

    def request_stack(self) -> None:
        """Have faulthandler write the process's stack, GIL or no GIL."""
        self.stack_asked_at = time.monotonic()
        self.forget_stack()
        self.signal(signal.SIGUSR1)

    def request_stack_of(self, run: int, now: float) -> None:
        """The same, once for this run."""
        if self.dumped_run != run:
            self.dumped_run, self.dumped_at = run, now
            self.request_stack()

    def forget_stack(self) -> None:
        """Empty the file of the stack."""
        os.ftruncate(self.stack_file, 0)
        os.lseek(self.stack_file, 0, os.SEEK_SET)  # the offset is shared with the process

    def read_stack(self) -> bytes:
        """What faulthandler has written."""
        return os.pread(self.stack_file, 65536, 0)

    def halt(self, run: int) -> bool:
        """True where this run is on, and the process will start no other until :meth:`go_on`.

        False at first: ask again at the next look, for as long as it is wanted. It needs nothing of the process but
        that it reads its record before it starts a run, so it is as quick with one that gets no CPU.
        """
        words, now = self.record.words, time.monotonic()
        self.halt_wanted = True
        if self.halted != run:
            self.halted, self.halted_at = run, now
            if words[Word.ORDER] == Order.WORK:
                words[Word.ORDER] = Order.HALT
            return False
        return now - self.halted_at >= HALTED and self.record.running == run

    def go_on(self) -> None:
        """Let it start other runs, unless it was asked to halt since the last call."""
        if self.halted and not self.halt_wanted:
            over = self.record.running != self.halted
            self.halted = 0
            if self.record.words[Word.ORDER] == Order.HALT:
                self.record.words[Word.ORDER] = Order.WORK
                if over:  # then it may be asleep, waiting for this
                    self.signal(signal.SIGUSR2)
        self.halt_wanted = False

    def kill_run(self, run: int, cause: Cause) -> bool:
        """Kill the process for this run, never for a later one; False where it has to halt first, or the run is over.

        A run that ends in this very moment keeps its outcome.
        """
        if not self.halt(run):
            return False
        self.killed_at = time.monotonic()
        self.kill(cause)
        return True

    def revoke_rest(self, run: int) -> bool:
        """Take back what the process has fetched but not started, while this run is on; False as for a kill."""
        if not self.halt(run):
            return False
        words = self.record.words
        words[Word.REVOKED] = words[Word.BATCH]
        return True


@dataclass
class Lane(Process):
    """One coroutine of a process that runs several: what is meant for its run is kept here and in its lane.

    It cannot be killed without the others.
    """

    process: Process | None = field(default=None, compare=False)

    def kill(self, cause: Cause) -> None:
        """Kill the process for this coroutine's run."""
        assert self.process is not None
        words = self.record.words
        if not words[Word.CAUSE]:
            words[Word.CAUSE] = cause
            words[Word.KILLED] = time.monotonic_ns()
        self.process.killed_at = self.process.killed_at or self.killed_at
        self.process.kill(cause)

    def interrupt(self, run: int, kind: Interrupt, now: float) -> None:
        # A signal for one of them is seen by all, so it must be told from the one that was heeded before.
        self.record.words[Word.INTERRUPTED] = time.monotonic_ns()
        super().interrupt(run, kind, now)

    def request_stack(self) -> None:
        assert self.process is not None
        if time.monotonic() - self.process.stack_asked_at > SAME_STACK:
            self.process.request_stack()


@dataclass
class Slot:
    """One place in a group. ``process`` is None while nothing fills it; ``not_before`` in monotonic seconds."""

    group: str
    number: int
    backoff: Backoff
    process: Process | None = None
    not_before: float = 0.0
    retiring: bool = False
    old: GroupPlan | None = None  # the group as it was when the process was started, if that was before a reload

    @property
    def name(self) -> str:
        return f"{self.group}/{self.number}"

    @property
    def busy(self) -> bool:
        """Whether it is filled, and with a process that is busy."""
        return self.process is not None and self.process.busy

    def failing(self, now: float) -> bool:
        """Whether what filled it died young, and what fills it now has not lived for long enough."""
        return self.backoff.failing and (self.process is None or self.process.lived(now) < HEALTHY)

    def retire(self) -> None:
        """Let the process end what it runs, and fill the slot no more."""
        self.retiring = True
        if self.process is not None:
            self.process.order(Order.DRAIN)
