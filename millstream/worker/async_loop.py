"""The worker of an async group: many coroutines on one event loop, a thread that asks Redis for all of them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import structlog

from millstream.protocol.app import Millstream
from millstream.protocol.errors import ConfigError, MillstreamError
from millstream.protocol.scoreboard import Record
from millstream.worker.coroutines import Coroutines
from millstream.worker.execution import Run
from millstream.worker.fetcher import Delivery
from millstream.worker.lane import Lane
from millstream.worker.loop import Worker, show_prints
from millstream.worker.reporting import NOT_OURS
from millstream.worker.shared_fetcher import Nudge, SharedFetcher
from millstream.worker.spec import WorkerSpec
from millstream.worker.stepping import LaneSignals
from millstream.worker.tally import Uncounted

log = structlog.get_logger("millstream.worker")

T = TypeVar("T")

LOOK = 0.5
"""Seconds between two looks at orders and interruptions, where no signal says that there is one."""

LAST_WORDS = 1.0
"""Seconds for which a worker that leaves tries to settle; then maintenance does it."""


def check_handlers(app: Millstream, spec: WorkerSpec) -> None:
    """Raise :class:`ConfigError` where a job of our queues would keep all others waiting while it runs."""
    jobs = (job for name in app.registry.names if (job := app.registry.get(name)) is not None)
    plain = sorted(job.name for job in jobs if not job.is_async and job.queue in spec.queues)
    if plain:
        raise ConfigError(
            f"workers.{spec.group}.concurrency = {spec.concurrency} is for async def handlers, and these jobs of its "
            f"queues are none: {', '.join(plain[:5])}{' …' if len(plain) > 5 else ''}; "
            "give them a queue and a group of their own"
        )


class AsyncWorker(Worker):
    """One incarnation of one slot, with a lane for each coroutine. Read :meth:`_turn` first."""

    def __init__(
        self,
        app: Millstream,
        spec: WorkerSpec,
        record: Record,
        lanes: Sequence[Record],
        signals: LaneSignals,
        tally: Uncounted,
        coroutines: Coroutines,
    ) -> None:
        self._held: dict[str, Lane] = {}  # by entry: running, waiting to start, or not settled
        self._nudge = Nudge(record, signals)
        self._shared = SharedFetcher(spec, record, self._nudge, tally, self._held)
        super().__init__(app, spec, record, signals, tally, coroutines=coroutines, fetcher=self._shared)
        self._loop = coroutines.loop
        self._thread = ThreadPoolExecutor(1, "redis", partial(signal.pthread_sigmask, signal.SIG_BLOCK, NOT_OURS))
        self._lanes = [
            Lane(number, app, spec, lane, record, signals, tally, self._shared, self._reporter)
            for number, lane in enumerate(lanes, 1)
        ]
        self._free = list(self._lanes)
        self._running: dict[asyncio.Task[None], Lane] = {}
        self._ended: list[Lane] = []  # with an outcome that is not settled
        self._suspects: deque[tuple[Lane, Run]] = (
            deque()
        )  # as many crashes as would bury them, none proven: each runs by itself
        self._by_itself = False
        self._leaving = False
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None

    def work(self) -> None:
        """Work until told to stop, or worn out."""
        task = self._loop.create_task(self._work())
        while True:
            try:
                return self._loop.run_until_complete(task)
            except BaseException as error:
                if task.done():
                    raise
                # Of a task that a handler has started: it ends no worker.
                log.error("loop.error", error=f"{type(error).__name__}: {error}")

    async def _work(self) -> None:
        self._loop.add_reader(self._signals.wakeup, self._on_signal)
        until = 0.0
        while self._busy or not self._leaves_now():
            try:
                await self._turn()
                self._back_in_touch()
            except MillstreamError as error:
                if self._leaving and not self._running:
                    until = until or time.monotonic() + LAST_WORDS
                    if time.monotonic() > until:
                        break
                await self._ask(partial(self._out_of_touch, error))
            if self._failure is not None:
                raise self._failure
        self._loop.remove_reader(self._signals.wakeup)
        self._thread.shutdown()
        self._fetcher.close()

    @property
    def _busy(self) -> bool:
        return bool(self._held)

    def _leaves_now(self) -> bool:
        """Whether to fetch nothing any more, for good."""
        if not self._leaving:
            self._leaving = self._signals.draining or self._leaves()
        return self._leaving

    async def _turn(self) -> None:
        """Settle what has ended, start what there is room for, and wait for more of either."""
        self._changed.clear()
        if self._suspects and not self._running:
            await self._start_suspect()
        if self._signals.stopping or self._leaves_now():
            waiting = [lane for lane, _ in self._suspects]
            self._suspects.clear()
            await self._give_back(waiting)
        room = self._room
        if (self._ended or room) and await self._exchange_all(room):
            return
        if self._room and not self._ended:
            await self._start_all(await self._wait_for_work())
        elif not self._ended:
            await self._wait()

    @property
    def _room(self) -> int:
        """How many jobs may be fetched now."""
        if self._signals.stopping or self._leaves_now() or self._suspects or self._by_itself:
            return 0
        return len(self._free)

    async def _exchange_all(self, room: int) -> bool:
        """Settle and fetch; returns whether something was delivered, so that there may be more."""
        ended = self._ended
        self._ended = []
        try:
            delivery = await self._ask(partial(self._settle_and_fetch, ended, room))
        except BaseException:
            self._ended = ended + self._ended
            raise
        for lane in ended:
            self._free.append(lane)
        if not self._ended:
            self._tally.forget()  # what maintenance has settled meanwhile it has counted as well
        show_prints()
        await self._start_all(delivery)
        return delivery is not None

    def _settle_and_fetch(self, ended: Sequence[Lane], room: int) -> Delivery | None:
        """In the thread: settle what has ended and fetch. Raises :class:`Unavailable`."""
        self._reporter.flush()
        outcomes = [(lane.queue, outcome) for lane in ended for outcome in lane.unsettled]
        delivery = self._shared.settle_and_fetch(outcomes, room)
        for lane in ended:
            self._held.pop(lane.ref, None)
            lane.let_go()
        return delivery

    async def _wait_for_work(self) -> Delivery | None:
        self._nudge.nudged = False
        return None if self._ended else await self._ask(self._shared.wait_for_work)

    async def _wait(self) -> None:
        """Wait until something ends, or is wanted of us."""
        try:
            await asyncio.wait_for(self._changed.wait(), LOOK)
        except TimeoutError:
            self._heed()

    # From a delivery to runs.

    async def _start_all(self, delivery: Delivery | None) -> None:
        """Start what was delivered. Raises :class:`Unavailable`; what was not taken is read again then."""
        if delivery is None:
            return
        if self._signals.stopping:
            refs = [letter + entry_id.decode() for letter, entry_id, _ in delivery.entries]
            return await self._ask(partial(self._fetcher.give_back, delivery.queue, refs))
        taken, error = await self._ask(partial(self._take, delivery))
        not_ours: list[Lane] = []
        for lane, run in taken:
            if run is None:
                self._end(lane)
            elif lane.is_suspect(run.entry, run.job):
                self._suspects.append((lane, run))
            elif not lane.may_start():
                not_ours.append(lane)
            else:
                self._start(lane, run)
        await self._give_back(not_ours)
        if error is not None:
            raise error

    def _take(self, delivery: Delivery) -> tuple[list[tuple[Lane, Run | None]], MillstreamError | None]:
        """In the thread: give each entry a lane, as far as there are some, and the rest back."""
        taken: list[tuple[Lane, Run | None]] = []
        refs = [letter + entry_id.decode() for letter, entry_id, _ in delivery.entries]
        try:
            for index, ref in enumerate(refs):
                if not self._free:
                    self._fetcher.give_back(delivery.queue, refs[index:])
                    break
                lane = self._free[-1]
                run = lane.take(delivery, index)
                self._free.pop()
                self._held[ref] = lane
                taken.append((lane, run))
        except MillstreamError as error:
            self._fetcher.doubt()
            return taken, error
        return taken, None

    def _start(self, lane: Lane, run: Run) -> None:
        task = self._loop.create_task(lane.run(run))
        self._running[task] = lane
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        lane = self._running.pop(task)
        self._by_itself = False
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self._end(lane)

    def _end(self, lane: Lane) -> None:
        """It has nothing to run any more; it is free when that is settled."""
        self._ended.append(lane)
        self._changed.set()
        if not self._nudge.nudged:
            self._nudge.nudge()

    async def _give_back(self, lanes: Sequence[Lane]) -> None:
        """Give back what was not started; where that fails it is read again. One that was cancelled ends by this."""
        try:
            for lane in lanes:
                await self._ask(partial(self._fetcher.give_back, lane.queue, [lane.ref]))
        finally:
            for lane in lanes:
                self._held.pop(lane.ref, None)
                lane.let_go()
                self._free.append(lane)

    # Those that may be the fault of crashes.

    async def _start_suspect(self) -> None:
        lane, run = self._suspects[0]
        begun = await self._ask(partial(lane.begin, run))
        self._suspects.popleft()
        if not begun:
            self._end(lane)
        elif lane.may_start():
            self._by_itself = True
            self._start(lane, run)
        else:
            await self._give_back([lane])

    # Signals, and the thread.

    def _on_signal(self) -> None:
        self._signals.drain_wakeups()
        self._heed()

    def _heed(self) -> None:
        """Pass interruptions on, and come to orders."""
        for lane in self._running.values():
            lane.heed()
        self._changed.set()
        if self._signals.stopping:
            self._nudge.nudge()

    async def _ask(self, call: Callable[[], T]) -> T:
        """Run what asks Redis in the thread, one at a time: an outage keeps no coroutine waiting."""
        context: Any = copy_context()
        return await self._loop.run_in_executor(self._thread, context.run, call)
