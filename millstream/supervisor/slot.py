"""A slot: the place of one worker in its group, and the handle of the process that fills it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, fields
from typing import Any

from millstream.protocol.scoreboard import Cause, Interrupt, Order, Record, Word
from millstream.supervisor.plan import GroupPlan
from millstream.supervisor.restart import Backoff

STOP_PATIENCE = 0.01
"""Seconds to wait for a process to stop; one that hangs in the kernel may take for ever."""

_STOP_OR_EXIT = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT


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
    dumped_run: int = 0

    @property
    def ready(self) -> bool:
        return bool(self.record.words[Word.READY])

    @property
    def idle(self) -> bool:
        return bool(self.record.words[Word.IDLE])

    @property
    def busy(self) -> bool:
        """Whether it works through a batch, or settles one. One that is not need not idle: it may be paused."""
        return bool(self.record.words[Word.HELD_LENGTH])

    def to_dict(self) -> dict[str, Any]:
        """All fields but the record, for the supervisor that takes over."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "record"}

    def signal(self, number: int) -> None:
        """Send a signal to the process. It was not reaped yet, so the pid is still its own."""
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kill the process and its subprocesses."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self.pid, signal.SIGKILL)  # killed before it had made its group

    def order(self, order: Order) -> None:
        """Say what is wanted of it, and wake it."""
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
        self.forget_stack()
        self.signal(signal.SIGUSR1)

    def forget_stack(self) -> None:
        """Empty the file of the stack."""
        os.ftruncate(self.stack_file, 0)
        os.lseek(self.stack_file, 0, os.SEEK_SET)  # the offset is shared with the process

    def read_stack(self) -> bytes:
        """What faulthandler has written."""
        return os.pread(self.stack_file, 65536, 0)

    def stop_and_check(self, run: int) -> bool:
        """Stop the process; True where this run is still on and has no outcome: it cannot end until we say so.

        A process that cannot be stopped at once is let go on: the caller comes back at its next tick.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_PATIENCE
        while (state := os.waitid(os.P_PID, self.pid, _STOP_OR_EXIT)) is None and time.monotonic() < deadline:
            time.sleep(0)
        if state is not None and state.si_code == os.CLD_STOPPED and self.record.running == run:
            return True
        self.signal(signal.SIGCONT)
        return False

    def kill_run(self, run: int, cause: Cause) -> bool:
        """Kill the process for this run, never for the next one; False where the run was over."""
        if not self.stop_and_check(run):
            return False
        self.record.words[Word.CAUSE] = cause
        self.kill_group()
        return True

    def revoke_rest(self, run: int) -> bool:
        """Take back what the process has fetched but not started, while this run is on."""
        if not self.stop_and_check(run):
            return False
        words = self.record.words
        words[Word.REVOKED] = words[Word.BATCH]
        self.signal(signal.SIGCONT)
        return True


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

    def retire(self) -> None:
        """Let the process end what it runs, and fill the slot no more."""
        self.retiring = True
        if self.process is not None:
            self.process.order(Order.DRAIN)
