"""The patient loop: every periodic duty but the urgent ones, each at its own interval."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from millstream.protocol import control
from millstream.protocol.connection import AccessDenied
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.link import NoGroup
from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.supervisor.maintenance import backlog, facts, pruning, rooms, statistics
from millstream.supervisor.maintenance.counting import Uncounted
from millstream.supervisor.maintenance.facts import Collector
from millstream.supervisor.maintenance.listening import Listening
from millstream.supervisor.maintenance.presence import Presence
from millstream.supervisor.maintenance.promotion import Promotion
from millstream.supervisor.maintenance.recovery import Recovery
from millstream.supervisor.maintenance.rooms import Rooms
from millstream.supervisor.maintenance.statistics import Statistics
from millstream.supervisor.maintenance.timed import TimedLink
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")


class Duties:
    """Runs the duties of one supervisor, on connections of its own.

    Nothing is recovered before *may_recover* is set: our own leases come first, the maintenance before us may have been
    away for a while.
    """

    def __init__(self, plan: Plan, board: Scoreboard, counts: Uncounted, *, may_recover: threading.Event) -> None:
        self._plan = plan
        self._board = board
        self._counts = counts
        self._link = TimedLink(plan.url, timeout=5.0)
        self._presence = Presence(plan, board, self._link)
        self._promotion = Promotion(plan, self._link)
        self._rooms = Rooms(plan, self._link)
        self._recovery = Recovery(plan, board, self._link, counts)
        self._collector = Collector(plan, counts)
        self._statistics = Statistics(plan) if plan.metrics else None
        self._listening = Listening(plan, board, self._promotion.wake)
        self._may_recover = may_recover
        self._stopping = threading.Event()
        self._failures = 0
        self._timers: dict[str, float] = {}
        self._failing: set[str] = set()  # duties whose last reply was an error

    def run(self) -> None:
        """Do what is to be done until :meth:`stop`."""
        while not self._stopping.is_set():
            try:
                self._round()
                self._listening.listen(min((*self._promotion.moments, *self._timers.values())))
                self._listening.pass_on()
                self._failures = 0
            except NoGroup:
                self._stopping.wait(0.2)  # the urgent loop or a worker makes the groups again
            except MillstreamError:
                self._wait_for_redis()
            except Exception:
                # A duty that silently ends would be missed by nobody: end the whole process, it is replaced at once.
                log.exception("maintenance.duty_failed")
                os._exit(70)

    def stop(self) -> None:
        """End :meth:`run` soon."""
        self._stopping.set()

    def leave(self) -> None:
        """Take our name off the registry of hosts; no beat enters it again. What was counted last is added."""
        self._presence.leave()
        if self._statistics:
            self._statistics.add_last()

    def _round(self) -> None:
        """Every duty whose time has come."""
        self._every("beat", self._presence.interval, self._presence.beat)
        self._try("promote", self._promotion.promote)
        self._every("recover", self._recovery.interval, self._recover)
        self._every("backlog", backlog.EVERY, self._count_backlog) if self._plan.scaled else None
        self._every("resume", 1.0, self._resume)
        self._every("tend", rooms.EVERY, self._rooms.tend)
        self._every("prune", pruning.EVERY, self._prune)
        self._every("left", 0.2, self._look_for_work) if self._plan.burst else None
        self._every("facts", facts.EVERY, self._collect_facts) if self._plan.metrics else None
        if self._statistics:
            self._every("statistics", statistics.EVERY, partial(self._statistics.add, self._link))
        self._board.header[Header.REDIS_SEEN] = time.monotonic_ns()
        if waited := self._link.take_spent():
            self._counts.redis_answered("duties", waited)

    def _every(self, name: str, interval: float, duty: Callable[[], Any]) -> None:
        now = time.monotonic()
        if now < self._timers.get(name, 0.0):
            return
        self._timers[name] = now + interval
        self._try(name, duty)

    def _try(self, name: str, duty: Callable[[], Any]) -> None:
        try:
            duty()
        except MillstreamError as error:
            if isinstance(error, Unavailable) and not isinstance(error, AccessDenied):
                raise
            # An error reply to this duty: the others are not to suffer for it. Said once, not at every turn.
            if name not in self._failing:
                log.error("maintenance.duty_failed", duty=name, error=str(error))
            self._failing.add(name)
        else:
            self._failing.discard(name)

    def _wait_for_redis(self) -> None:
        self._failures += 1
        self._counts.redis_failed("duties")
        self._recovery.hold_off()
        self._promotion.forget()
        self._timers.clear()
        self._stopping.wait(random.uniform(0.05, min(1.0, 0.1 * 2**self._failures)))

    # The duties that are no more than a call.

    def _recover(self) -> None:
        """Give back what others hold past their lease, on and on while there is more."""
        if self._may_recover.is_set() and self._recovery.sweep():
            self._timers.pop("recover", None)

    def _count_backlog(self) -> None:
        """Tell the supervisor what waits for the groups that may grow."""
        backlog.publish(self._link, self._plan, self._board)

    def _resume(self) -> None:
        """Go on with a resume whose caller died half-way."""
        self._link.run_many([control.resume(keys, begin=False) for keys in self._plan.queue_keys])

    def _prune(self) -> None:
        """Delete the empty consumers of instances that beat no more."""
        pruning.prune(self._link, self._plan, self._board)

    def _look_for_work(self) -> None:
        """For ``--burst``: say when no job waits, runs or is due."""
        left = 0
        for keys in self._plan.queue_keys:
            left += sum(self._link.execute("XLEN", name) for name in (*keys.streams, keys.held))
            left += sum(self._link.execute("ZCARD", name) for name in (keys.due, keys.parked))
        self._board.header[Header.NOTHING_LEFT] = int(left == 0)

    def _collect_facts(self) -> None:
        """Leave for the web child what metrics and health checks say of queues: it does not ask Redis itself."""
        self._collector.collect(self._link)
