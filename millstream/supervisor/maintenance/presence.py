"""Our name among the supervisors, our queues among the queues: entered again and again, taken off at the end."""

from __future__ import annotations

import contextlib
import threading

import structlog

from millstream.protocol import transitions
from millstream.protocol.connection import Refused
from millstream.protocol.errors import MillstreamError
from millstream.protocol.keys import SCHEMA
from millstream.protocol.link import Link
from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.supervisor.maintenance.heartbeat import heartbeat
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

BEAT = 2.0
"""Seconds between two heartbeats, unless a quarter of the lease is shorter."""


class Presence:
    """Beats in the thread of duties; leaves in the main thread, after which no beat enters our name again."""

    def __init__(self, plan: Plan, board: Scoreboard, link: Link) -> None:
        self._plan = plan
        self._board = board
        self._link = link
        self._lock = threading.Lock()
        self._left = False

    @property
    def interval(self) -> float:
        """Seconds between two beats."""
        return min(BEAT, self._plan.lease / 4)

    def beat(self) -> None:
        """Publish the heartbeat; whoever holds our name now has taken it while we were out of touch."""
        self._join()
        text = heartbeat(self._plan, self._board)
        call = transitions.host(self._plan.keys, self._plan.identity.name, self._plan.instance, "beat", text)
        with self._lock:
            if not self._left and self._link.run(call):
                self._board.header[Header.NAME_LOST] = 1

    def _join(self) -> None:
        """Enter what a server that lost its data would not know."""
        calls = [transitions.join(keys, self._plan.instance, self._plan.lease) for keys in self._plan.queue_keys]
        self._link.run_many(calls)
        with contextlib.suppress(Refused):  # a server that is full takes them later
            self._link.execute("SADD", self._plan.keys.queues, *self._plan.queues)
            self._link.execute("SET", self._plan.keys.schema, SCHEMA, "NX")

    def leave(self) -> None:
        """Take our name off the registry of hosts, so that it is free at once."""
        link = Link(self._plan.url, timeout=0.5, connect_timeout=0.5)
        call = transitions.host(self._plan.keys, self._plan.identity.name, self._plan.instance, "leave", b"{}")
        try:
            with self._lock:
                self._left = True
                link.run(call)
        except MillstreamError as error:
            log.warning("host.not_left", error=str(error))
        finally:
            link.close()
