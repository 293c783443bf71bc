"""A worker's signals: handlers only note and wake, but for an interruption that is meant for the run that is on.

TERM: drain. USR2: look at the record (an order or an interruption has been written). USR1: faulthandler writes the
stack, in C, whether or not the GIL is free. INT: nothing; Ctrl-C reaches the whole group, the supervisor decides.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
from types import FrameType

from millstream.protocol.errors import CancelRequested, Interruption, JobInterrupted, JobTimeout, LeaseLost
from millstream.protocol.scoreboard import Interrupt, Order, Record, Word

INTERRUPTIONS: dict[int, tuple[type[Interruption], str]] = {
    Interrupt.TIMEOUT: (JobTimeout, "the time limit of {limit:g} s is over"),
    Interrupt.DRAIN: (JobInterrupted, "the worker is stopping; the job will run again elsewhere"),
    Interrupt.CANCEL: (CancelRequested, "the job was cancelled"),
    Interrupt.LEASE_LOST: (LeaseLost, "the job was given to another worker"),
}


def interruption_of(words: memoryview) -> Interruption:
    """What the supervisor wants to be raised in the run that a record is about."""
    interruption, reason = INTERRUPTIONS[words[Word.INTERRUPT]]
    return interruption(reason.format(limit=(words[Word.SOFT] - words[Word.STARTED]) / 1e9))


_UNHEEDED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP)


def _unheeded(number: int, frame: FrameType | None) -> None:
    """Do nothing. Not SIG_IGN: that one would be inherited by the programs that handlers start."""


class Signals:
    """Notes what the supervisor wants; wakes whoever sleeps in :meth:`sleep` or polls ``wakeup``."""

    def __init__(self, record: Record) -> None:
        self.draining = False
        self.in_handler = 0  # the number of the run whose user code is executing
        self.forked = False  # whether this is not the worker, but a process that a handler has forked
        self._words = record.words
        self.wakeup, self._write_end = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(self._write_end, False)

    def install(self) -> None:
        """Take over from whatever the parent had installed; the signals stay blocked, as they were for the fork."""
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in _UNHEEDED:
            signal.signal(number, _unheeded)
        os.register_at_fork(after_in_child=self._leave_to_the_child)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGUSR2, self._on_usr2)

    def _leave_to_the_child(self) -> None:
        """In a process that a handler forks (multiprocessing): our signals are not its own."""
        self.forked = True
        signal.set_wakeup_fd(-1)
        faulthandler.unregister(signal.SIGUSR1)
        for number in (*_UNHEEDED, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)

    @property
    def stopping(self) -> bool:
        """Whether to start no further job of the batch."""
        return self.draining or self._words[Word.ORDER] != Order.WORK

    @property
    def quiet(self) -> bool:
        """Whether to fetch nothing, and to wait for another order."""
        return not self.draining and self._words[Word.ORDER] in (Order.QUIET, Order.HALT)

    def sleep(self, seconds: float) -> None:
        """Sleep until a signal arrives, at most this long."""
        select.select([self.wakeup], [], [], seconds)
        self.drain_wakeups()

    def wake(self) -> None:
        """End a sleep, as a signal does."""
        with contextlib.suppress(BlockingIOError):  # full: whoever sleeps is awake
            os.write(self._write_end, b"!")

    def drain_wakeups(self) -> None:
        """Forget the wake-ups so far; what they were about is in our fields and the record."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup, 512):
                pass

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self.draining = True

    def _on_usr2(self, number: int, frame: FrameType | None) -> None:
        if self._words[Word.ORDER] == Order.DRAIN:
            self.draining = True
        run = self.in_handler
        # The handler runs in the main thread, between two of its bytecodes: while `run` is in user code, it stays so.
        if run and self._words[Word.INTERRUPT_RUN] == run:
            raise interruption_of(self._words)
