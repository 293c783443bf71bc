"""The supervisor's signals: handlers only note and wake; the loop acts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections import deque
from types import FrameType

HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGTSTP,
    signal.SIGCONT,
)

_ALL = {*HANDLED, signal.SIGCHLD}

Mask = set[int | signal.Signals]
"""Which signals are blocked."""


class Signals:
    """What arrived, in order, and a pipe that wakes the loop. A signal that comes again before it was taken is one."""

    def __init__(self) -> None:
        # The handler is this dict's own method, in C: one in Python could be interrupted by the next signal before it
        # returns, and a storm of signals would nest until the stack is full.
        self._noted: dict[int, FrameType | None] = {}
        self._arrived: deque[signal.Signals] = deque()
        self._wakeup, self._write_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._write_end, False)

    def install(self) -> None:
        """Install the handlers; SIGCHLD has one too, so that a death wakes the loop."""
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in _ALL:
            signal.signal(number, self._noted.__setitem__)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)  # after a reload they are blocked, so that none gets lost

    @property
    def arrived(self) -> bool:
        """Whether one was not taken yet."""
        for number in list(self._noted):
            del self._noted[number]
            if number in HANDLED:
                self._arrived.append(signal.Signals(number))
        return bool(self._arrived)

    def ignore(self) -> None:
        """Hear no more: the interpreter, while it ends, would let a signal with a handler kill it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # whatever becomes of the handlers
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)

    def next(self) -> signal.Signals | None:
        """The signal that arrived first and was not taken yet."""
        return self._arrived.popleft() if self.arrived else None

    def sleep(self, seconds: float) -> None:
        """Sleep until a signal arrives, at most this long."""
        select.select([self._wakeup], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 65536)

    def close_in_child(self) -> None:
        """Let go of what a forked child must not share with us."""
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)
        os.close(self._write_end)


def end_while_starting() -> None:
    """Let TERM and QUIT end us before the supervisor has its handlers, also as process 1.

    The kernel spares that one what it has no handler for: a container that is stopped while it starts would go on.
    """
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda number, _frame: os._exit(128 + number))


def ignore_in_child() -> None:
    """In a child that is no worker: ignore what may reach every process of the tree. The supervisor ends us."""
    for number in (*HANDLED, signal.SIGPIPE):
        if number != signal.SIGCONT:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def block() -> Mask:
    """Block all handled signals around a fork, so that none runs the parent's handler in the child."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def unblock(before: Mask) -> None:
    """Undo :func:`block`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reset() -> None:
    """In a child that is to become another program: every signal does what it does by default."""
    for number in _ALL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
