"""A lane: the place of one coroutine in a process that runs several, with a record and an outbox of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from millstream.protocol.app import Millstream
from millstream.protocol.envelope import Entry
from millstream.protocol.policy import crash_limit
from millstream.protocol.registry import Job
from millstream.protocol.scoreboard import Order, Record, Word
from millstream.protocol.transitions import Outcome
from millstream.worker.context import set_current_run
from millstream.worker.execution import Execution, Run
from millstream.worker.fetcher import Delivery, Fetcher
from millstream.worker.loop import Batch, Worker
from millstream.worker.reporting import Reporter
from millstream.worker.spec import WorkerSpec
from millstream.worker.stepping import LaneSignals, Steps, called
from millstream.worker.tally import Uncounted

HALTED = 0.002
"""Seconds between two looks whether a lane that is to start nothing may go on."""


class LaneExecution(Execution):
    """Calls handlers as coroutines beside others."""

    def __init__(self, worker: str, signals: LaneSignals, number: int, lane: Record) -> None:
        super().__init__(worker, signals, lane.words)
        self.steps: Steps | None = None
        self._number = number
        self._lane = lane
        self._lane_signals = signals

    async def run_beside_others(self, run: Run) -> Outcome | None:
        """Run the handler, as :meth:`run` does."""
        await self._await(run)
        try:
            return self._outcome(run)
        except Exception as error:  # what it raised or returned cannot be carried out as asked
            run.error = error
            return self._dead(run, "error")

    async def _await(self, run: Run) -> None:
        set_current_run(run)
        if self._journal.says_each:
            self._journal.started(run)
        started = time.monotonic()
        self.steps = steps = Steps(called(run), self._number, run.number, self._lane, self._lane_signals)
        try:
            run.result = await steps
        except BaseException as error:  # whatever a handler raises ends its job, never the worker
            run.error = error
        self.steps = None
        run.duration, run.cpu = time.monotonic() - started, steps.cpu / 1e9
        set_current_run(None)


class Lane(Worker):
    """A worker that is handed its jobs one by one, and whose outcomes are settled with those of others."""

    _execution: LaneExecution

    def __init__(
        self,
        number: int,
        app: Millstream,
        spec: WorkerSpec,
        record: Record,
        process: Record,
        signals: LaneSignals,
        tally: Uncounted,
        fetcher: Fetcher,
        reporter: Reporter,
    ) -> None:
        super().__init__(app, spec, record, signals, tally, fetcher=fetcher, reporter=reporter)
        self._execution = LaneExecution(spec.worker, signals, number, record)
        self._process = process.words
        self._held: Batch | None = None

    @property
    def queue(self) -> int:
        """The index of the queue that its job is from."""
        return self._queue

    @property
    def ref(self) -> str:
        """The entry that it holds."""
        assert self._held is not None
        return self._held.refs[0]

    @property
    def unsettled(self) -> list[Outcome]:
        """The outcome of its job, unless maintenance has settled it."""
        return self._outbox.unsettled()

    def take(self, delivery: Delivery, index: int) -> Run | None:
        """Hold one entry of a delivery; None where there is nothing to run of it. May ask Redis.

        Raises :class:`Unavailable`: then it holds nothing.
        """
        letter, entry_id, fields = delivery.entries[index]
        self._batch += 1
        self._queue = delivery.queue
        refs = [letter + entry_id.decode()]
        one = Delivery(delivery.queue, delivery.now, delivery.received, [(letter, entry_id, fields)])
        self._held = batch = Batch(self._batch, one, refs)
        self._record.hold(batch.number, delivery.queue, refs)
        try:
            run = self._take_next(batch)
        except BaseException:
            self.let_go()
            raise
        return run if isinstance(run, Run) else None

    def is_suspect(self, entry: Entry, job: Job[..., Any]) -> bool:
        """Whether a job has crashed so often that it runs by itself: beside others its crash would prove nothing."""
        return entry.crashes >= (crash_limit(job.retry) or self._spec.crash_limit)

    def begin(self, run: Run) -> bool:
        """Ask for a suspect, which is about to start by itself. Raises :class:`Unavailable`.

        False: there is nothing to run of it.
        """
        assert self._held is not None
        return not run.entry.guarded or super()._may_start(self._held, run.entry, run.job)

    def _may_start(self, batch: Batch, entry: Entry, job: Job[..., Any]) -> bool:
        """A suspect may have to wait for long, and does not count as started while it does: it is asked for later."""
        return self.is_suspect(entry, job) or super()._may_start(batch, entry, job)

    def may_start(self) -> bool:
        """Whether what it holds is still ours to start: it was not taken, or cancelled, since it was fetched."""
        assert self._held is not None
        return not self._lease_is_over(self._held) and self._words[Word.CANCEL_BATCH] != self._held.number

    def let_go(self) -> None:
        """It is settled, or not ours any more: the lane is free."""
        self._outbox.clear()
        self._words[Word.HELD_LENGTH] = 0
        self._words[Word.COUNTED] = self._run
        self._held = None

    async def run(self, run: Run) -> None:
        """Run what it holds, and keep the outcome until it is settled."""
        batch = self._held
        assert batch is not None
        while self._words[Word.ORDER] == Order.HALT:  # noqa: ASYNC110 - the supervisor's word, it sets no event
            await asyncio.sleep(HALTED)  # the run before this one was to be killed, and ended
        run.started_at = self._server_time(batch)
        batch.next = 0
        self._words[Word.STACK_LENGTH] = 0  # that of the run before explains nothing about this one
        self._process[Word.BUSY_LANES] += 1
        super()._announce(run, batch)
        outcome = await self._execution.run_beside_others(run)
        self._post(outcome, run)
        self._process[Word.BUSY_LANES] -= 1
        self._process[Word.DONE] += 1

    def heed(self) -> None:
        """Throw an interruption into its coroutine, if one is meant for it."""
        if self._execution.steps is not None:
            self._execution.steps.interrupt()

    def _announce(self, run: Run, batch: Batch) -> None:
        """Not yet: it starts when the event loop comes to it."""

    def _settle_now(self) -> None:
        """Not alone: the lane takes no other job before this one is settled."""
