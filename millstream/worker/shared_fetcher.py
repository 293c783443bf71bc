"""The way to Redis of a process that runs several coroutines: one consumer, whose jobs are settled in any order."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from millstream.protocol import transitions
from millstream.protocol.call import Call
from millstream.protocol.scoreboard import Record
from millstream.protocol.transitions import Fetched, Outcome
from millstream.worker.fetcher import MOST_HELD, Delivery, Fetcher
from millstream.worker.signals import Signals
from millstream.worker.spec import WorkerSpec
from millstream.worker.tally import Uncounted

AT_ONCE = 200
"""Jobs that are fetched, and outcomes that are settled, in one call."""


class Nudge(Signals):
    """What ends a blocking read: an order, or that there is something else to do. Of the thread that asks Redis."""

    def __init__(self, record: Record, signals: Signals) -> None:
        super().__init__(record)
        self.nudged = False
        self._process = signals

    @property
    def stopping(self) -> bool:
        return self.nudged or self._process.stopping

    def nudge(self) -> None:
        """End a blocking read, the one that is on or the next one."""
        self.nudged = True
        self.wake()


class SharedFetcher(Fetcher):
    """Fetches as much as there is room for. *held* are the entries that are run, or not settled yet.

    What the consumer holds is read after a lost reply; what runs is among it, and is not delivered anew.
    """

    def __init__(
        self, spec: WorkerSpec, record: Record, signals: Signals, tally: Uncounted, held: Container[str]
    ) -> None:
        super().__init__(spec, record, signals, tally)
        self._held = held
        self._room = 0

    def settle_and_fetch(self, outcomes: Sequence[tuple[int, Outcome]], room: int) -> Delivery | None:
        """Settle outcomes, each with the index of its queue, and fetch up to *room* jobs. Raises :class:`Unavailable`.

        A delivery may hold more jobs than there is room for, after a reply was lost.
        """
        self._room = room
        calls = [
            (queue, some[at : at + AT_ONCE])
            for queue in sorted({queue for queue, _ in outcomes})
            if (some := [outcome for of, outcome in outcomes if of == queue])
            for at in range(0, len(some), AT_ONCE)
        ]
        for queue, some in calls[:-1]:
            self.exchange(queue, some, fetch=False)
        queue, some = calls[-1] if calls else (0, [])
        return self.exchange(queue, some, fetch=room > 0)

    def _fetch_call(self, queue: int) -> Call[Fetched]:
        keys, consumer = self._keys[queue], self._spec.consumer
        if self._uncertain:
            return transitions.own(keys, consumer, 2 * self._spec.concurrency + MOST_HELD)
        fetch = transitions.take if queue in self._ruled else transitions.fetch
        return fetch(keys, consumer, min(self._room, AT_ONCE))

    def _delivered(self, queue: int, fetched: Fetched) -> Delivery | None:
        entries = [one for one in fetched.entries if one[0] + one[1].decode() not in self._held]
        return super()._delivered(queue, replace(fetched, entries=entries))
