"""The handle of the embedded server, as its parent holds it."""

from __future__ import annotations

import time
from dataclasses import replace

import structlog

from millstream.protocol.errors import MillstreamError
from millstream.protocol.scoreboard import Cause
from millstream.supervisor import embedded, endings
from millstream.supervisor.restart import Backoff

log = structlog.get_logger("millstream.supervisor")


class ServerChild:
    """Keeps the embedded server running; without one (``server`` is None, or another's) it does nothing."""

    def __init__(self, server: embedded.Server | None) -> None:
        self._server = server if server is not None and server.pid is not None else None
        self.pid = server.pid if server is not None else None
        self._backoff = Backoff()
        self._started = time.monotonic()
        self._not_before = 0.0

    def adopt(self, server: embedded.Server | None) -> None:
        """Take over what :attr:`server` was in the supervisor before us."""
        if server is not None:
            self._server, self.pid = server, server.pid

    @property
    def server(self) -> embedded.Server | None:
        """The server that is ours to keep running, with its pid (None while it is down)."""
        return None if self._server is None else replace(self._server, pid=self.pid)

    def keep_alive(self, now: float) -> None:
        """Start it again where it died. It loads its data by itself; the others come back when it answers."""
        if self._server is None or self.pid is not None or now < self._not_before:
            return
        try:
            self.pid = embedded.respawn(self._server.data, self._server.socket)
        except MillstreamError as error:
            log.error("server.not_started", error=str(error))
            self._not_before = now + self._backoff.after_death(0.0) + 1.0
            return
        self._started = now
        log.info("server.started", pid=self.pid)

    def died(self, status: int) -> None:
        """It was reaped."""
        self.pid = None
        now = time.monotonic()
        self._not_before = now + self._backoff.after_death(now - self._started)
        ending = endings.describe(status, Cause.NONE)
        log.error("server.exited", cause=ending.cause, signal=ending.signal, exit_code=ending.exit_code)

    def stop(self) -> None:
        """End it cleanly; waits until it is gone."""
        if self.pid is not None:
            embedded.stop(self.pid)
