"""Recovery: what owners of our queues hold past their leases goes back, whoever and wherever they were."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence

import orjson
import structlog

from millstream.protocol import transitions
from millstream.protocol.call import Call
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.keys import STREAMS, QueueKeys
from millstream.protocol.link import Link
from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.protocol.transitions import Recovered
from millstream.supervisor.maintenance.counting import Uncounted
from millstream.supervisor.maintenance.journal import tell_of_recovery
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

CAUSE = "lease_expired"

AT_ONCE = 8
"""Queues that are looked at in one round trip."""

TURN = 0.25
"""Seconds that a sweep may take before other duties have their turn; at most an eighth of a lease."""

ROW = orjson.dumps(
    {
        "c": CAUSE,
        "e": {
            "type": "LeaseExpired",
            "message": "the host that ran the job vanished, each time the job was running there",
            "cause": CAUSE,
        },
    }
)
"""What a dead letter says of the last run."""


class Recovery:
    """Sweeps the pending entries of our queues, a bounded step at a time."""

    def __init__(self, plan: Plan, board: Scoreboard, link: Link, counts: Uncounted) -> None:
        self._plan = plan
        self._header = board.header
        self._link = link
        self._counts = counts
        self._cursors: dict[tuple[str, str], str] = {}
        self._queues = deque(plan.queue_keys)  # the one whose turn it is first
        self._broken: set[str] = set()  # queues in which the last step has failed: said once

    @property
    def interval(self) -> float:
        """Seconds between two sweeps; never in step with those of others."""
        return min(1.0, self._plan.lease / 4) * random.uniform(0.8, 1.2)

    def hold_off(self) -> None:
        """Redis was away: for a lease from now on nothing is taken from anybody."""
        self._wait(self._plan.lease)

    def sweep(self) -> bool:
        """Give back what others hold past their lease; what our own dead tree held, at once.

        Returns whether there is more to look at. Raises :class:`Unavailable`.
        """
        asked, server = time.monotonic(), self._server_time()
        patient = self._must_wait(server, asked)
        not_after = int((server + self._plan.lease / 4) * 1000)
        until = time.monotonic() + min(self._plan.lease / 8, TURN)
        more, left = False, len(self._queues)
        while left > 0 and time.monotonic() < until:
            some = [self._queues[index] for index in range(min(left, AT_ONCE))]
            more |= self._look_at(some, not_after=not_after, only_gone=patient)
            self._queues.rotate(-len(some))  # the next sweep goes on where this one has to stop
            left -= len(some)
        self._header[Header.SWEPT] = time.monotonic_ns()
        return more or left > 0

    def _look_at(self, queues: Sequence[QueueKeys], *, not_after: int, only_gone: bool) -> bool:
        """Take a step in each stream of these queues; an error in one of them is not to keep the others waiting."""
        calls = {
            (keys.queue, stream): self._call(keys, stream, not_after=not_after, only_gone=only_gone)
            for keys in queues
            for stream in STREAMS
        }
        try:
            steps = self._link.run_many(list(calls.values()))
        except Unavailable:
            raise
        except MillstreamError as error:
            if len(queues) > 1:
                return sum(self._look_at([one], not_after=not_after, only_gone=only_gone) for one in queues) > 0
            if queues[0].queue not in self._broken:
                log.error("maintenance.duty_failed", duty="recover", queue=queues[0].queue, error=str(error))
            self._broken.add(queues[0].queue)
            return False
        self._broken.difference_update(keys.queue for keys in queues)
        return sum(self._take(*place, step) for place, step in zip(calls, steps, strict=True)) > 0

    def _must_wait(self, server: float, asked: float) -> bool:
        """Whether owners get a lease's time to renew first: they could not lately, or the clock has jumped.

        All that is known of it is in the scoreboard: maintenance may be replaced right after a jump.
        """
        now, header, lease = time.monotonic(), self._header, self._plan.lease
        clock, swept = header[Header.CLOCK] / 1e9, header[Header.SWEPT] / 1e9
        if not swept:
            self._wait(lease / 2)  # it may have jumped, or been away, before we came: who lives renews in half of that
            held_up = self._server_uptime() < lease
        else:
            # Its answer is of some moment between the question and now: on a busy machine these are far apart.
            jumped = not server - now - lease / 8 <= clock <= server - asked + lease / 8
            # A server that is busy may answer nobody, and not even end our blocked read: we only see that time is
            # missing. Owners renew every quarter of a lease; half of one is what they can miss.
            held_up = jumped or now - swept > lease / 2
        header[Header.CLOCK], header[Header.SWEPT] = max(0, int((server - now) * 1e9)), int(now * 1e9)
        if held_up:
            self.hold_off()
        return now < header[Header.RECOVER_FROM] / 1e9

    def _wait(self, seconds: float) -> None:
        self._header[Header.RECOVER_FROM] = int((time.monotonic() + seconds) * 1e9)

    def _server_time(self) -> float:
        seconds, micros = self._link.execute("TIME")
        return int(seconds) + int(micros) / 1e6

    def _server_uptime(self) -> float:
        lines = self._link.execute("INFO", "server").decode(errors="replace").splitlines()
        return float(next((line.split(":")[1] for line in lines if line.startswith("uptime_in_seconds:")), "1e9"))

    def _call(self, keys: QueueKeys, stream: str, *, not_after: int, only_gone: bool) -> Call[Recovered]:
        """Look at some entries; the cursor stays, so that a long list of pending ones is reached to its end."""
        group = next(group for group in self._plan.all_groups if keys.queue in group.queues)
        return transitions.recover(
            keys,
            stream,
            self._cursors.get((keys.queue, stream), ""),
            row=ROW,
            gone=self._plan.gone,
            crash_limit=group.crash_limit,
            crash_delay=group.crash_delay,
            not_after=not_after,
            only_gone=only_gone,
        )

    def _take(self, queue: str, stream: str, step: Recovered) -> bool:
        """Note what a step has found; returns whether there is more behind it."""
        self._cursors[queue, stream] = step.cursor
        if step.recovered:
            self._counts.redelivered(queue, "idle", step.recovered - step.dead)
            self._counts.recovered(queue, step.ended)
            log.warning("jobs.recovered", queue=queue, stream=stream, count=step.recovered, dead=step.dead)
        for run in step.ended:
            tell_of_recovery(queue, run, CAUSE)
        return bool(step.cursor)
