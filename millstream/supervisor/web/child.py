"""The handle of the web child, as its parent holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import structlog

from millstream.protocol.scoreboard import Cause, Scoreboard
from millstream.supervisor import endings
from millstream.supervisor.children import spawn_web
from millstream.supervisor.plan import Plan
from millstream.supervisor.restart import Backoff

log = structlog.get_logger("millstream.supervisor")


class WebChild:
    """Keeps the web child running, where there is something to serve. Nothing else waits for it."""

    def __init__(self, plan: Plan, board: Scoreboard, forget: Callable[[], None]) -> None:
        self.pid: int | None = None
        self._plan = plan
        self._board = board
        self._forget = forget
        self._backoff = Backoff()
        self._started = 0.0
        self._not_before = 0.0

    def keep_alive(self, now: float) -> None:
        """Start it where there is none."""
        if not self._plan.bind or self.pid is not None or now < self._not_before:
            return
        try:
            self.pid = spawn_web(self._plan, self._board, self._forget)
            self._started = now
        except OSError as error:  # no memory, processes or descriptors left: they may come back
            self._not_before = now + 1.0
            log.error("web.not_started", error=str(error))

    def died(self, status: int) -> None:
        """It was reaped."""
        self.pid = None
        now = time.monotonic()
        self._not_before = now + self._backoff.after_death(now - self._started)
        ending = endings.describe(status, Cause.NONE)
        log.error("web.exited", cause=ending.cause, signal=ending.signal, exit_code=ending.exit_code)

    def stop(self) -> None:
        """End it; it holds nothing that it would have to save."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = None
