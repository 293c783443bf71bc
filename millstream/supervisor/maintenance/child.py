"""The handle of the maintenance child, as its parent holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import structlog

from millstream.protocol.scoreboard import Cause, Header, Scoreboard
from millstream.supervisor import endings
from millstream.supervisor.children import spawn_maintenance
from millstream.supervisor.plan import Plan
from millstream.supervisor.restart import Backoff

log = structlog.get_logger("millstream.supervisor")


class MaintenanceChild:
    """Starts maintenance, wakes it, and replaces it when it died or its urgent loop does not tick."""

    def __init__(self, plan: Plan, board: Scoreboard, forget: Callable[[], None]) -> None:
        self.pid: int | None = None
        self._plan = plan
        self._board = board
        self._forget = forget
        # A lease must not lapse because maintenance waits to be restarted.
        self._backoff = Backoff(longest=min(2.0, plan.lease / 8))
        self._patience = max(1.0, plan.lease / 6)
        self._alive_at = 0.0
        self._not_before = 0.0
        self._ticked_at = time.monotonic()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def keep_alive(self, now: float) -> None:
        """Start it where there is none; kill it where it hangs (the next reap finds it dead)."""
        if self.pid is None:
            if now >= self._not_before:
                self._board.header[Header.MAINTENANCE_TICK] = 0
                self._spawn(now)
            return
        silent = now - max(self._board.header[Header.MAINTENANCE_TICK] / 1e9, self._alive_at)
        if silent > self._patience:
            log.error("maintenance.stuck", pid=self.pid, seconds=round(silent, 1))
            self.kill()
            self._alive_at = now

    def _spawn(self, now: float) -> None:
        try:
            self.pid = spawn_maintenance(self._plan, self._board, self._wake_read, self._forget)
            self._alive_at = now
        except OSError as error:  # no memory, processes or descriptors left: they may come back
            self._not_before = now + 1.0
            log.error("maintenance.not_started", error=str(error))

    def silent(self, now: float) -> float:
        """Seconds since the last tick of its urgent loop, whichever incarnation it was."""
        self._ticked_at = max(self._ticked_at, self._board.header[Header.MAINTENANCE_TICK] / 1e9)
        return now - self._ticked_at

    def excuse(self, now: float) -> None:
        """The whole tree was stopped: its silence so far does not count."""
        self._alive_at = now

    def wake(self) -> None:
        """There is something to settle."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it is awake
            os.write(self._wake_write, b"!")

    def kill(self) -> None:
        """Kill it."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def died(self, status: int, *, expected: bool) -> None:
        """It was reaped."""
        self.pid = None
        if expected:
            return
        now = time.monotonic()
        self._not_before = now + self._backoff.after_death(now - self._alive_at)
        ending = endings.describe(status, Cause.NONE)
        log.error("maintenance.exited", cause=ending.cause, signal=ending.signal, exit_code=ending.exit_code)

    def close_in_child(self) -> None:
        """In any child: only the supervisor wakes maintenance."""
        os.close(self._wake_write)
