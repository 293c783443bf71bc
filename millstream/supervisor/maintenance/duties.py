"""The patient loop: recover, promote, resume, prune, beat, and listen to what operators publish."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from millstream.protocol import control, transitions
from millstream.protocol.errors import MillstreamError
from millstream.protocol.keys import STREAMS, QueueKeys
from millstream.protocol.link import Link, NoGroup
from millstream.protocol.scoreboard import Header, RecordState, Scoreboard, Word
from millstream.supervisor.maintenance.heartbeat import heartbeat
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

LISTEN = 1.0
"""Seconds for which the control streams are listened to at a time; a job that is due sooner shortens it."""

BEAT = 2.0
"""Seconds between two heartbeats, unless a quarter of the lease is shorter."""

PRUNE_EVERY = 60.0

LEASE_EXPIRED = orjson.dumps(
    {
        "c": "lease_expired",
        "e": {
            "type": "LeaseExpired",
            "message": "the host that ran the job vanished, each time the job was running there",
            "cause": "lease_expired",
        },
    }
)


class Duties:
    """Runs the duties of one supervisor, each at its own interval, on connections of its own."""

    def __init__(self, plan: Plan, board: Scoreboard) -> None:
        self._plan = plan
        self._board = board
        self._link = Link(plan.url, timeout=5.0)
        self._ears = Link(plan.url, timeout=LISTEN + 5.0)
        self._stopping = threading.Event()
        self._name = threading.Lock()
        self._cursors: dict[tuple[str, str], str] = {}
        self._heard: dict[str, str] = {}
        self._next_due: dict[str, float] = {}
        self._failures = 0
        self._sweep_from = 0.0
        self._timers: dict[str, float] = {}

    def run(self) -> None:
        """Do what is to be done until :meth:`stop`."""
        while not self._stopping.is_set():
            try:
                self._every("beat", min(BEAT, self._plan.lease / 4), self._beat)
                self._promote()
                self._every("recover", self._recovery_interval(), self._recover)
                self._every("resume", 1.0, self._resume)
                self._every("prune", PRUNE_EVERY, self._prune)
                self._every("left", 0.2, self._look_for_work) if self._plan.burst else None
                self._listen()
                self._failures = 0
            except NoGroup:
                self._stopping.wait(0.2)  # the urgent loop or a worker makes the groups again
            except MillstreamError as error:
                self._wait_for_redis(error)
            except Exception:
                # A duty that silently ends would be missed by nobody: end the whole process, it is replaced at once.
                log.exception("maintenance.duty_failed")
                os._exit(70)

    def stop(self) -> None:
        """End :meth:`run` soon."""
        self._stopping.set()

    def leave(self) -> None:
        """Take our name off the registry of hosts, so that it is free at once; no beat enters it again."""
        link = Link(self._plan.url, timeout=0.5, connect_timeout=0.5)
        try:
            with self._name:
                link.run(
                    transitions.host(self._plan.keys, self._plan.identity.name, self._plan.instance, "leave", b"{}")
                )
        except MillstreamError as error:
            log.warning("host.not_left", error=str(error))
        finally:
            link.close()

    # The duties.

    def _beat(self) -> None:
        """Publish the heartbeat; whoever holds our name now has taken it while we were out of touch."""
        self._join_if_needed()
        call = transitions.host(
            self._plan.keys, self._plan.identity.name, self._plan.instance, "beat", heartbeat(self._plan, self._board)
        )
        with self._name:
            if not self._stopping.is_set() and self._link.run(call):
                self._board.header[Header.NAME_LOST] = 1

    def _join_if_needed(self) -> None:
        calls = [transitions.join(keys, self._plan.instance, self._plan.lease) for keys in self._plan.queue_keys]
        if calls:
            self._link.run_many(calls)

    def _promote(self) -> None:
        """Queue what is due; remember when the next is."""
        now = time.monotonic()
        asked = [keys for keys in self._plan.queue_keys if self._next_due.get(keys.queue, 0.0) <= now]
        if not asked:
            return
        for keys, (promoted, wait) in zip(
            asked, self._link.run_many(list(map(transitions.promote, asked))), strict=True
        ):
            self._next_due[keys.queue] = now + (wait / 1000 if wait >= 0 else LISTEN)
            if promoted:
                log.debug("jobs.promoted", queue=keys.queue, count=promoted)

    def _recovery_interval(self) -> float:
        return min(1.0, self._plan.lease / 4) * random.uniform(0.8, 1.2)

    def _recover(self) -> None:
        """Give back what others hold past their lease; what our own dead tree held, at once."""
        if time.monotonic() < self._sweep_from:
            return  # Redis was away: owners get a lease's time to renew first
        for keys in self._plan.queue_keys:
            for stream in STREAMS:
                self._sweep(keys, stream)

    def _sweep(self, keys: QueueKeys, stream: str) -> None:
        """One step of a sweep; the cursor stays, so that a long list of pending entries is reached to its end."""
        group = next(group for group in self._plan.groups if keys.queue in group.queues)
        call = transitions.recover(
            keys,
            stream,
            self._cursors.get((keys.queue, stream), ""),
            row=LEASE_EXPIRED,
            gone=self._plan.gone,
            crash_limit=group.crash_limit,
            crash_delay=group.crash_delay,
        )
        step = self._link.run(call)
        self._cursors[keys.queue, stream] = step.cursor
        if step.recovered:
            log.warning("jobs.recovered", queue=keys.queue, stream=stream, count=step.recovered, dead=step.dead)
        if step.cursor:
            self._timers.pop("recover", None)  # there is more: go on at once

    def _resume(self) -> None:
        """Go on with a resume whose caller died half-way."""
        self._link.run_many([control.resume(keys, begin=False) for keys in self._plan.queue_keys])

    def _prune(self) -> None:
        """Delete the empty consumers of instances that beat no more."""
        hosts = self._link.execute("HGETALL", self._plan.keys.hosts)
        alive = []
        for beat in hosts[1::2]:
            try:
                alive.append(orjson.loads(beat)["instance"])
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
        own = [
            self._plan.groups[record.words[Word.GROUP]]
            .spec(record.words[Word.SLOT], record.words[Word.INCARNATION])
            .consumer
            for state in (RecordState.ALIVE, RecordState.DEAD)
            for record in self._board.in_state(state)
        ]
        for keys in self._plan.queue_keys:
            self._link.run(transitions.prune(keys, self._plan.instance, own, alive))

    def _look_for_work(self) -> None:
        """For ``--burst``: say when no job waits, runs or is due."""
        left = 0
        for keys in self._plan.queue_keys:
            commands = [("XLEN", name) for name in (*keys.streams, keys.held)]
            left += sum(self._link.execute_many([*commands, ("ZCARD", keys.due)]))
        self._board.header[Header.NOTHING_LEFT] = int(left == 0)

    def _listen(self) -> None:
        """Wait for messages, for the next due job, or for a second."""
        wait = min([LISTEN, *(due - time.monotonic() for due in self._next_due.values())])
        streams = {keys.control: keys for keys in self._plan.queue_keys}
        if wait < 0.001 or not streams:
            return
        ids = [self._heard.get(name) or self._last_message(name) for name in streams]
        reply = self._ears.execute("XREAD", "COUNT", 100, "BLOCK", max(1, int(wait * 1000)), "STREAMS", *streams, *ids)
        for name, messages in reply or ():
            keys = streams[name.decode()]
            for message_id, fields in messages:
                self._heard[keys.control] = message_id.decode()
                self._obey(keys, dict(zip(fields[::2], fields[1::2], strict=True)))

    def _last_message(self, name: str) -> str:
        last = self._ears.execute("XREVRANGE", name, "+", "-", "COUNT", 1)
        self._heard[name] = last[0][0].decode() if last else "0-0"
        return self._heard[name]

    def _obey(self, keys: QueueKeys, message: dict[bytes, bytes]) -> None:
        match message.get(b"kind"):
            case b"wake":
                self._next_due[keys.queue] = 0.0
            case b"cancel":
                self._cancel(message.get(b"entry", b"").decode())

    def _cancel(self, ref: str) -> None:
        """Mark the run of this very entry as cancelled; the supervisor does the rest."""
        for record in self._board.in_state(RecordState.ALIVE):
            batch = record.words[Word.BATCH]
            run, refs, index = record.running, record.held, record.words[Word.INDEX]
            if run and index < len(refs) and refs[index] == ref and record.running == run:
                record.words[Word.CANCEL_RUN] = run
            elif ref in refs[index + 1 :]:
                record.words[Word.CANCEL_BATCH] = batch  # the cancelled job ends when it is handed back

    # Timing.

    def _every(self, name: str, interval: float, duty: Callable[[], Any]) -> None:
        now = time.monotonic()
        if now >= self._timers.get(name, 0.0):
            self._timers[name] = now + interval
            duty()

    def _wait_for_redis(self, error: MillstreamError) -> None:
        if self._failures == 0:
            log.debug("redis.lost", error=str(error))
        self._failures += 1
        self._sweep_from = time.monotonic() + self._plan.lease
        self._timers.clear()
        self._next_due.clear()
        self._stopping.wait(random.uniform(0.05, min(1.0, 0.1 * 2**self._failures)))
