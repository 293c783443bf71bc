"""The patient loop: recover, promote, resume, prune, beat, and listen to what operators publish."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from millstream.protocol import control, transitions
from millstream.protocol.connection import Refused
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.keys import SCHEMA, STREAMS, QueueKeys
from millstream.protocol.link import Link, NoGroup
from millstream.protocol.scoreboard import Header, RecordState, Scoreboard, Word
from millstream.supervisor.maintenance import backlog, facts
from millstream.supervisor.maintenance.counting import Uncounted
from millstream.supervisor.maintenance.heartbeat import heartbeat
from millstream.supervisor.maintenance.timed import TimedLink
from millstream.supervisor.plan import Plan
from millstream.worker.names import read_names

log = structlog.get_logger("millstream.maintenance")

LISTEN = 1.0
"""Seconds for which the control streams are listened to at a time; a job that is due sooner shortens it."""

BEAT = 2.0
"""Seconds between two heartbeats, unless a quarter of the lease is shorter."""

CANCEL_AGAIN = 10.0
"""Seconds for which the run of a cancelled entry is looked for."""

PRUNE_EVERY = 60.0

FORGET_HOST = 86400.0
"""Seconds after its last beat at which a host that vanished is taken off the registry."""

LOOK_AT_DUE = 5.0
"""Seconds after which `due` is looked at again, whatever was said of the next job: a message may get lost."""

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

    def __init__(self, plan: Plan, board: Scoreboard, counts: Uncounted) -> None:
        self._plan = plan
        self._board = board
        self._counts = counts
        self._link = TimedLink(plan.url, timeout=5.0)
        self._ears = Link(plan.url, timeout=LISTEN + 5.0)
        self._stopping = threading.Event()
        self._name = threading.Lock()
        self._cursors: dict[tuple[str, str], str] = {}
        self._heard: dict[str, str] = {}
        self._cancelled: dict[str, float] = {}  # entry -> until when it is looked for, monotonic
        self._next_due: dict[str, float] = {}
        self._failures = 0
        self._sweep_from = 0.0
        self._clock: float | None = None  # the server's clock (s) minus ours, at the last sweep
        self._swept = 0.0
        self._facts_lost = False
        self._registered: dict[str, str] = {}
        self._timers: dict[str, float] = {}

    def run(self) -> None:
        """Do what is to be done until :meth:`stop`."""
        while not self._stopping.is_set():
            try:
                self._begin_to_listen()
                self._every("beat", min(BEAT, self._plan.lease / 4), self._beat)
                self._promote()
                self._every("recover", self._recovery_interval(), self._recover)
                self._every("backlog", backlog.EVERY, self._count_backlog) if self._plan.scaled else None
                self._every("resume", 1.0, self._resume)
                self._every("prune", PRUNE_EVERY, self._prune)
                self._every("left", 0.2, self._look_for_work) if self._plan.burst else None
                self._every("facts", facts.EVERY, self._collect_facts) if self._plan.metrics else None
                self._board.header[Header.REDIS_SEEN] = time.monotonic_ns()
                if waited := self._link.take_spent():
                    self._counts.redis_answered("duties", waited)
                self._listen()
                self._cancel_runs()
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
        """Enter what a server that lost its data would not know."""
        calls = [transitions.join(keys, self._plan.instance, self._plan.lease) for keys in self._plan.queue_keys]
        self._link.run_many(calls)
        with contextlib.suppress(Refused):  # a server that is full takes them later
            self._link.execute("SADD", self._plan.keys.queues, *self._plan.queues)
            self._link.execute("SET", self._plan.keys.schema, SCHEMA, "NX")

    def _promote(self) -> None:
        """Queue what is due; remember when the next is."""
        now = time.monotonic()
        asked = [keys for keys in self._plan.queue_keys if self._next_due.get(keys.queue, 0.0) <= now]
        if not asked:
            return
        for keys, (promoted, wait) in zip(
            asked, self._link.run_many(list(map(transitions.promote, asked))), strict=True
        ):
            self._next_due[keys.queue] = now + (min(wait / 1000, LOOK_AT_DUE) if wait >= 0 else LISTEN)
            if promoted:
                log.debug("jobs.promoted", queue=keys.queue, count=promoted)

    def _recovery_interval(self) -> float:
        return min(1.0, self._plan.lease / 4) * random.uniform(0.8, 1.2)

    def _recover(self) -> None:
        """Give back what others hold past their lease; what our own dead tree held, at once."""
        server = self._server_time()
        patient = self._must_wait(server)
        if patient and not self._plan.gone:
            return
        for keys in self._plan.queue_keys:
            for stream in STREAMS:
                self._sweep(keys, stream, not_after=int((server + self._plan.lease / 4) * 1000), only_gone=patient)

    def _must_wait(self, server: float) -> bool:
        """Whether owners get a lease's time to renew first: they could not lately, or the clock has jumped."""
        now = time.monotonic()
        if self._clock is None:
            young = self._server_uptime() < self._plan.lease
            held_up = young
        else:
            jumped = abs(server - now - self._clock) > self._plan.lease / 8
            held_up = jumped or now - self._swept > max(5.0, self._plan.lease / 4)
        self._clock, self._swept = server - now, now
        if held_up:
            self._sweep_from = now + self._plan.lease
        return now < self._sweep_from

    def _server_time(self) -> float:
        seconds, micros = self._link.execute("TIME")
        return int(seconds) + int(micros) / 1e6

    def _server_uptime(self) -> float:
        lines = self._link.execute("INFO", "server").decode(errors="replace").splitlines()
        return float(next((line.split(":")[1] for line in lines if line.startswith("uptime_in_seconds:")), "1e9"))

    def _sweep(self, keys: QueueKeys, stream: str, *, not_after: int, only_gone: bool) -> None:
        """One step of a sweep; the cursor stays, so that a long list of pending entries is reached to its end."""
        group = next(group for group in self._plan.all_groups if keys.queue in group.queues)
        call = transitions.recover(
            keys,
            stream,
            self._cursors.get((keys.queue, stream), ""),
            row=LEASE_EXPIRED,
            gone=self._plan.gone,
            crash_limit=group.crash_limit,
            crash_delay=group.crash_delay,
            not_after=not_after,
            only_gone=only_gone,
        )
        step = self._link.run(call)
        self._cursors[keys.queue, stream] = step.cursor
        if step.recovered:
            self._counts.redelivered(keys.queue, "idle", step.recovered - step.dead)
            self._counts.recovered(keys.queue, step.ended)
            log.warning("jobs.recovered", queue=keys.queue, stream=stream, count=step.recovered, dead=step.dead)
        if step.cursor:
            self._timers.pop("recover", None)  # there is more: go on at once

    def _resume(self) -> None:
        """Go on with a resume whose caller died half-way."""
        self._link.run_many([control.resume(keys, begin=False) for keys in self._plan.queue_keys])

    def _prune(self) -> None:
        """Delete the empty consumers of instances that beat no more."""
        now, hosts = self._server_time(), self._link.execute("HGETALL", self._plan.keys.hosts)
        alive: list[str] = []
        for name, beat in zip(hosts[::2], hosts[1::2], strict=True):
            try:
                host = orjson.loads(beat)
                age = now - host["at"] / 1000
                if host["instance"] == self._plan.instance:
                    continue  # its processes are known one by one
                if age < host["lease"]:
                    alive.append(host["instance"])
                elif age > FORGET_HOST:
                    self._link.execute("HDEL", self._plan.keys.hosts, name)
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
        own = [
            self._plan.group_of(record).spec(record.words[Word.SLOT], record.words[Word.INCARNATION]).consumer
            for state in (RecordState.ALIVE, RecordState.DEAD)
            for record in self._board.in_state(state)
        ]
        for keys in self._plan.queue_keys:
            self._link.run(transitions.prune(keys, self._plan.instance, own, alive))

    def _look_for_work(self) -> None:
        """For ``--burst``: say when no job waits, runs or is due."""
        left = 0
        for keys in self._plan.queue_keys:
            left += sum(self._link.execute("XLEN", name) for name in (*keys.streams, keys.held))
            left += self._link.execute("ZCARD", keys.due)
        self._board.header[Header.NOTHING_LEFT] = int(left == 0)

    def _collect_facts(self) -> None:
        """Leave for the web child what metrics and health checks say of queues: it does not ask Redis itself."""
        self._registered = read_names(self._plan.metrics) or self._registered
        try:
            facts.collect(self._link, self._plan, self._registered)
        except OSError as error:  # a full disk: the age of the facts tells; no duty is to suffer for it
            self._counts.collector_failed()
            if not self._facts_lost:
                log.warning("facts.not_written", error=str(error))
            self._facts_lost = True
        except MillstreamError:
            self._counts.collector_failed()
            raise
        else:
            self._facts_lost = False

    def _count_backlog(self) -> None:
        """Tell the supervisor what waits for the groups that may grow."""
        backlog.publish(self._link, self._plan, self._board)

    def _listen(self) -> None:
        """Wait for messages, for the next due job, or for a second."""
        longest = 0.1 if self._cancelled else LISTEN
        wait = min([longest, *(at - time.monotonic() for at in (*self._next_due.values(), *self._timers.values()))])
        streams = {keys.control: keys for keys in self._plan.queue_keys}
        if wait < 0.001 or not streams:
            return
        ids = [self._heard[name] for name in streams]
        reply = self._ears.execute("XREAD", "COUNT", 100, "BLOCK", max(1, int(wait * 1000)), "STREAMS", *streams, *ids)
        for name, messages in reply or ():
            keys = streams[name.decode()]
            for message_id, fields in messages:
                self._heard[keys.control] = message_id.decode()
                self._obey(keys, dict(zip(fields[::2], fields[1::2], strict=True)))

    def _begin_to_listen(self) -> None:
        """Hear the control streams from their beginning: what was said while no maintenance was here still holds.

        They are short, and to obey twice is to obey once: a cancellation names the entry that it is meant for.
        """
        for keys in self._plan.queue_keys:
            self._heard.setdefault(keys.control, "0-0")

    def _obey(self, keys: QueueKeys, message: dict[bytes, bytes]) -> None:
        match message.get(b"kind"):
            case b"wake":
                self._next_due[keys.queue] = 0.0
            case b"cancel":
                self._cancelled[message.get(b"entry", b"").decode(errors="replace")] = time.monotonic() + CANCEL_AGAIN

    def _cancel_runs(self) -> None:
        """Pass on the cancellations of the last seconds: a job may stand in no record yet when its own arrives."""
        now = time.monotonic()
        self._cancelled = {ref: until for ref, until in self._cancelled.items() if until > now}
        for ref in self._cancelled:
            self._cancel(ref)

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
        if now < self._timers.get(name, 0.0):
            return
        self._timers[name] = now + interval
        try:
            duty()
        except Unavailable:
            raise
        except MillstreamError as error:  # an error reply to this duty: the others are not to suffer for it
            log.error("maintenance.duty_failed", duty=name, error=str(error))

    def _wait_for_redis(self) -> None:
        self._failures += 1
        self._counts.redis_failed("duties")
        self._sweep_from = time.monotonic() + self._plan.lease
        self._timers.clear()
        self._next_due.clear()
        self._stopping.wait(random.uniform(0.05, min(1.0, 0.1 * 2**self._failures)))
