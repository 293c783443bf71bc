"""The worker's way to Redis: settle and fetch in one round trip; wait where there is nothing to do."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis import exceptions

from millstream.protocol import transitions
from millstream.protocol.call import Call
from millstream.protocol.connection import AccessDenied, explained
from millstream.protocol.envelope import Entry
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.keys import GROUP
from millstream.protocol.link import Link, NoGroup
from millstream.protocol.policy import crash_limit
from millstream.protocol.registry import Job
from millstream.protocol.scoreboard import Record, Word
from millstream.protocol.transitions import Begun, Fetched, Outcome, Verdict
from millstream.worker.pace import Pace
from millstream.worker.signals import Signals
from millstream.worker.spec import WorkerSpec
from millstream.worker.tally import Uncounted

log = structlog.get_logger("millstream.worker")

BLOCK = 2.0
"""Seconds of one blocking read: finite, so that a server that forgot us is noticed."""

MOST_HELD = 300
"""Entries of one delivery; a fetch asks for fewer, but what several lost replies delivered may be more."""

PAUSED_SLEEP = 0.1
"""Seconds between two looks at queues that are all paused."""

UNBLOCK_AGAIN = 0.002
"""Seconds until a blocking read that was not there yet to be ended is ended again."""

BACKOFF = (0.05, 2.0)
"""Seconds of the first and of the longest wait for a Redis that is away; each is drawn between half and all of it."""

Entries = list[tuple[str, bytes, list[bytes]]]


@dataclass(slots=True)
class Delivery:
    """What one fetch delivered, all of one queue. ``received`` is monotonic seconds, ``now`` the server's ms."""

    queue: int
    now: int
    received: float
    entries: Entries


class Fetcher:
    """Two connections, one for commands and one that may block, and what is known of the queues.

    After a reply was lost nothing is fetched anew before the consumer's own pending entries were read: they may hold
    what the lost reply delivered.
    """

    def __init__(self, spec: WorkerSpec, record: Record, signals: Signals, tally: Uncounted) -> None:
        self._spec = spec
        self._record = record
        self._signals = signals
        self._tally = tally
        self._keys = spec.queue_keys
        self._paces = [Pace() for _ in self._keys]
        self._commands = Link(spec.url, timeout=5.0)
        self._blocking = Link(spec.url, timeout=BLOCK + 3.0)
        self._blocking_id = 0
        self._uncertain = False
        self._resent = False  # the outcomes at hand were sent before, and no reply came
        self._joined = False
        self._failures = 0
        self._paused: dict[int, float] = {}  # queues that a blocking read finds nothing in: seconds until another look
        self._ruled: set[int] = set()  # queues whose jobs are taken one by one, or by name

    def exchange(self, queue: int, outcomes: Sequence[Outcome], *, fetch: bool) -> Delivery | None:
        """Settle *outcomes* (of the queue at index *queue*) and, in the same round trip, fetch.

        Returns None where there was nothing to fetch. Raises :class:`Unavailable`: then nothing is known of what
        was sent, and the same outcomes are to be passed again.
        """
        self._join()
        order = self._order() if fetch else []
        first = order[0] if order else None
        if self._uncertain and outcomes:
            # What we hold is read only when this is settled: else an entry that was run could be delivered again.
            self._judge(queue, outcomes, self._run([self._settle_call(queue, outcomes)])[0])
            outcomes = ()
        calls: list[Call[Any]] = []
        if outcomes:
            calls.append(self._settle_call(queue, outcomes))
        if first is not None:
            calls.append(self._fetch_call(first))
        began = time.perf_counter()
        replies = self._run(calls)
        self._tally.redis_answered(time.perf_counter() - began)
        if outcomes:
            self._judge(queue, outcomes, replies[0])
        if first is None:
            return None
        delivery = self._delivered(first, replies[-1])
        for index in order[1:]:
            if delivery is not None:
                break
            delivery = self._delivered(index, self._run([self._fetch_call(index)])[0])
        if delivery is None:
            self._uncertain = False  # only now: until then there may be more that we hold, of this queue or another
        return delivery

    def wait_for_work(self) -> Delivery | None:
        """Block until a job arrives, a signal does, or :data:`BLOCK` is over. Raises :class:`Unavailable`."""
        open_queues = [index for index in range(len(self._keys)) if index not in self._paused]
        if not open_queues:
            self._signals.sleep(min(self._paused.values()))
            return None
        self._record.words[Word.IDLE] = 1
        try:
            return self._blocking_read(open_queues)
        except MillstreamError:
            self._uncertain, self._blocking_id = True, 0
            self._blocking.close()  # a reply may still be under way on it
            raise
        finally:
            self._record.words[Word.IDLE] = 0

    def give_back(self, queue: int, refs: Sequence[str]) -> None:
        """Give entries back that were not started, uncounted. Raises :class:`Unavailable`."""
        if refs:
            self._run([transitions.give_back(self._keys[queue], self._spec.consumer, refs)])

    def begin(self, queue: int, entry: Entry, job: Job[..., Any]) -> Begun:
        """Say that a guarded job is about to start, and ask whether it may. Raises :class:`Unavailable`."""
        call = transitions.begin(
            self._keys[queue],
            entry.id,
            entry.ref,
            self._spec.consumer,
            alone=entry.alone,
            crash_limit=crash_limit(job.retry),
            tell=job.tells,
        )
        begun: Begun = self._run([call])[0]
        return begun

    def doubt(self) -> None:
        """Read what we hold before anything new: some of it may have been taken from us."""
        self._uncertain = True

    def learn(self, queue: int, jobs: int, seconds: float) -> None:
        """Take the runtime of a batch into account for the size of the next one."""
        self._paces[queue].note(jobs, seconds)

    def back_off(self) -> None:
        """Sleep before the next try at a Redis that is away: longer each time, never in step with others."""
        first, longest = BACKOFF
        wait = min(longest, first * 2 ** min(self._failures, 10))
        self._failures += 1
        self._signals.sleep(random.uniform(wait / 2, wait))

    def close(self) -> None:
        """Close both connections."""
        self._commands.close()
        self._blocking.close()

    # How the parts of an exchange are made.

    def _join(self) -> None:
        if self._joined:
            return
        lease, instance = self._spec.lease, self._spec.instance
        made = self._commands.run_many([transitions.join(keys, instance, lease) for keys in self._keys])
        if self._failures or any(made):
            log.info("worker.joined", queues=list(self._spec.queues), groups_made=sum(made))
        self._joined = True

    def _order(self) -> list[int]:
        """The queues in the order in which they are asked: strict, or drawn by their weights."""
        weights = self._spec.weights
        indexes = list(range(len(self._keys)))
        if not weights:
            return indexes
        drawn = {index: random.random() ** (1 / weights[self._spec.queues[index]]) for index in indexes}
        return sorted(indexes, key=drawn.__getitem__, reverse=True)

    def _fetch_call(self, queue: int) -> Call[Fetched]:
        keys, consumer = self._keys[queue], self._spec.consumer
        if self._uncertain:
            return transitions.own(keys, consumer)
        fetch = transitions.take if queue in self._ruled else transitions.fetch
        return fetch(keys, consumer, self._paces[queue].size())

    def _settle_call(self, queue: int, outcomes: Sequence[Outcome]) -> Call[list[tuple[Verdict, str]]]:
        return transitions.settle(self._keys[queue], self._spec.consumer, outcomes, self._spec.unknown_grace)

    def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        try:
            replies = self._commands.run_many(calls)
        except NoGroup:
            log.error("redis.group_missing", queues=list(self._spec.queues), hint="the server lost its data")
            self._joined, self._uncertain = False, True
            raise
        except MillstreamError:
            self._uncertain = True
            self._resent |= any(call.script.name == "settle" for call in calls)
            raise
        self._failures = 0
        self._record.words[Word.LAST_FETCH] = time.monotonic_ns()
        return replies

    def _judge(self, queue: int, outcomes: Sequence[Outcome], verdicts: Sequence[tuple[Verdict, str]]) -> None:
        self._tally.judged(self._spec.queues[queue], outcomes, verdicts, resent=self._resent)
        self._resent = False
        for outcome, (verdict, reason) in zip(outcomes, verdicts, strict=True):
            if verdict is Verdict.STALE:
                self._record.words[Word.STALE] += 1
                log.warning("settle.stale", **self._settled(queue, outcome))
            elif verdict is Verdict.ERROR:
                log.error("settle.failed", **self._settled(queue, outcome), error=reason)

    def _settled(self, queue: int, outcome: Outcome) -> dict[str, str]:
        """A settle as log lines name it."""
        name = self._spec.queues[queue]
        return {"job": outcome.id, "queue": name, "entry": outcome.ref, "outcome": str(outcome.kind)}

    def _delivered(self, queue: int, fetched: Fetched) -> Delivery | None:
        if fetched.ruled and queue not in self._ruled:
            self._ruled.add(queue)
            fetched = self._run([self._fetch_call(queue)])[0]
        elif not fetched.ruled:
            self._ruled.discard(queue)
        if fetched.paused:
            self._paused[queue] = min(fetched.wait, PAUSED_SLEEP)
        else:
            self._paused.pop(queue, None)
        if not fetched.entries:
            return None
        if len(fetched.entries) > MOST_HELD:
            self._uncertain = True  # the scoreboard has no room for more: the rest is read next
        return Delivery(queue, fetched.now, time.monotonic(), fetched.entries[:MOST_HELD])

    # The blocking read.

    def _blocking_read(self, queues: Sequence[int]) -> Delivery | None:
        if not self._blocking_id:
            self._blocking_id = self._blocking.client_id()
        streams = {name: index for index in queues for name in self._keys[index].streams}
        block = min(self._paused.values(), default=BLOCK)  # a queue that is resumed must not wait for us
        head = ("XREADGROUP", "GROUP", GROUP, self._spec.consumer, "COUNT", 1, "BLOCK", int(block * 1000))
        self._blocking.send(*head, "STREAMS", *streams, *(">" for _ in streams))
        unblocked = False
        deadline = time.monotonic() + block + 2.0
        while not self._blocking.wait(self._patience(deadline, unblocked=unblocked), self._signals.wakeup):
            self._signals.drain_wakeups()
            if time.monotonic() > deadline:
                self._blocking.close()
                raise Unavailable("a blocking read was not answered in time")
            if self._signals.stopping and not unblocked:
                # Not where the server has not come to the read yet: then it is asked again.
                unblocked = bool(self._commands.execute("CLIENT", "UNBLOCK", self._blocking_id))
        return self._read_delivery(self._blocking.receive(), streams)

    def _patience(self, deadline: float, *, unblocked: bool) -> float:
        """Seconds to wait for the reply of a blocking read, or for a signal."""
        left = max(0.0, deadline - time.monotonic())
        return min(left, UNBLOCK_AGAIN) if self._signals.stopping and not unblocked else left

    def _read_delivery(self, reply: Any, streams: dict[str, int]) -> Delivery | None:
        if isinstance(reply, exceptions.ResponseError):
            self._joined = False
            meaning = explained(reply, self._blocking.url)
            raise meaning if isinstance(meaning, AccessDenied) else NoGroup(str(reply))
        self._failures = 0
        self._record.words[Word.LAST_FETCH] = time.monotonic_ns()
        if not reply:
            return None
        found = [(streams[name.decode()], name.decode(), entries) for name, entries in reply]
        queue = found[0][0]
        delivered: Entries = []
        for index, name, entries in found:
            if index == queue:
                delivered += [(name.rpartition(":")[2][0], entry_id, fields) for entry_id, fields in entries]
            else:
                # One read can return a job of each stream; a batch is of one queue, the rest goes back at once.
                self.give_back(index, [name.rpartition(":")[2][0] + entry_id.decode() for entry_id, _ in entries])
        now = int(delivered[0][1].split(b"-")[0])
        return Delivery(queue, now, time.monotonic(), delivered)
