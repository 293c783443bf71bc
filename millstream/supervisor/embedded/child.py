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

LOOK_AGAIN = 1.0
"""Seconds between two tries to start it: after a failure, or while another supervisor runs it."""


class ServerChild:
    """Keeps the embedded server running, if there is one. Another supervisor's is taken over when that one leaves."""

    def __init__(self, server: embedded.Server | None) -> None:
        self._server = server
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
        """The server, with its pid (None while it is down, or another supervisor's)."""
        return None if self._server is None else replace(self._server, pid=self.pid)

    def keep_alive(self, now: float) -> None:
        """Start it again where it died. It loads its data by itself; the others come back when it answers."""
        if self._server is None or self.pid is not None or now < self._not_before:
            return
        self._not_before = now + LOOK_AGAIN
        try:
            self.pid = embedded.respawn(self._server.data, self._server.socket)
        except (MillstreamError, OSError) as error:  # also where descriptors or processes have run out
            log.error("server.not_started", error=str(error))
            self._not_before += self._backoff.after_death(0.0)
        if self.pid is not None:
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
