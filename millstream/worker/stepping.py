"""Coroutines that run side by side: each step is in the scoreboard, and interruptions reach the one they are meant for.

A step is what a coroutine does between two waits. While one has the CPU all others wait, so the scoreboard says whose
step it is: a crash is blamed on that one. An interruption is raised by the signal's handler where it is meant for the
coroutine whose step is on; else it is thrown into the coroutine where it waits.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import structlog

from millstream.protocol.errors import Interruption
from millstream.protocol.registry import NOTICE
from millstream.protocol.scoreboard import Record, Word
from millstream.worker.execution import Run, leave_the_run_to_the_parent
from millstream.worker.signals import Signals, interruption_of

log = structlog.get_logger("millstream.worker")

BLOCKED = 1.0
"""Seconds of one step from which on it is told of: so long nothing else ran in this process."""


class LaneSignals(Signals):
    """The signals of a process that runs several coroutines. ``stepping`` is the one whose step is on."""

    def __init__(self, record: Record, lanes: Sequence[Record]) -> None:
        super().__init__(record)
        self.words = record.words
        self.lanes = lanes
        self.stepping: Steps | None = None

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        super()._on_term(number, frame)
        self.wake()  # an application may have told signals to wake something else, by loop.add_signal_handler

    def _on_usr2(self, number: int, frame: FrameType | None) -> None:
        super()._on_usr2(number, frame)  # `in_handler` is 0: it raises nothing
        self.wake()
        if (steps := self.stepping) is not None and (interruption := steps.take_interruption(frame)):
            raise interruption


async def called(run: Run) -> Any:
    """A run's handler. One that is no coroutine is one step: all others wait for it.

    What tells of dead jobs asks Redis and calls hooks of any kind: it has a thread of its own.
    """
    if run.job.name == NOTICE:
        return await asyncio.to_thread(run.job.handler, *run.entry.args, **run.entry.kwargs)
    returned = run.job.handler(*run.entry.args, **run.entry.kwargs)
    return await returned if run.job.is_async else returned


class Steps:
    """One run's coroutine, awaited step by step. ``number`` is its lane's, counted from 1, ``run`` its run's."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], number: int, run: int, lane: Record, signals: LaneSignals
    ) -> None:
        self.cpu = 0  # nanoseconds that its steps have used
        self._coroutine = coroutine
        self._number = number
        self._run = run
        self._lane = lane
        self._words = signals.words
        self._signals = signals
        self._heeded = 0
        self._thrown: Interruption | None = None
        self._task = asyncio.current_task()

    def take_interruption(self, frame: FrameType | None = None) -> Interruption | None:
        """What the supervisor wants to be raised in this run, once each time that it says so.

        *frame* is where the step is that is on; None between two steps. Where it is the scoreboard keeps, should the
        run go on until it is killed.
        """
        words = self._lane.words
        written = words[Word.INTERRUPTED]
        if words[Word.INTERRUPT_RUN] != self._run or written == self._heeded:
            return None
        self._heeded = written
        self._lane.keep_stack("\n".join(_waiting(self._coroutine) if frame is None else _executing(frame)).encode())
        return interruption_of(words)

    def interrupt(self) -> None:
        """Throw what is meant for this run into the coroutine where it waits. Called between two steps."""
        if self._thrown is None and (interruption := self.take_interruption()) and self._task is not None:
            self._thrown = interruption
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                waited_for = self._step(step)
            except StopIteration as end:
                return end.value
            except Interruption as interruption:
                if inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CLOSED:
                    raise  # the handler let it through
                step = partial(self._coroutine.throw, interruption)  # raised at the very edge of the step
                continue
            try:
                step = partial(self._coroutine.send, (yield waited_for))
            except asyncio.CancelledError as cancelled:
                thrown, self._thrown = self._thrown, None
                if thrown is not None and self._task is not None:
                    self._task.uncancel()
                step = partial(self._coroutine.throw, thrown or cancelled)
            except BaseException as error:
                step = partial(self._coroutine.throw, error)

    def _step(self, step: Callable[[], Any]) -> Any:
        words, signals = self._words, self._signals
        raised: BaseException | None = None
        used = time.thread_time_ns()
        words[Word.STEP_SINCE] = began = time.monotonic_ns()
        words[Word.STEP] = self._number
        try:
            signals.stepping = self  # from here on an interruption may be raised
            try:
                return step()
            finally:
                signals.stepping = None
        except BaseException as error:
            raised = error
            raise
        finally:
            signals.stepping = None  # raised before the inner block was left
            if signals.forked:
                leave_the_run_to_the_parent(None if isinstance(raised, StopIteration) else raised)
            words[Word.STEP] = 0
            self.cpu += time.thread_time_ns() - used
            if (took := (time.monotonic_ns() - began) / 1e9) > BLOCKED:
                log.warning("loop.blocked", job=self._lane.job_id, name=self._lane.job_name, seconds=round(took, 3))


def _executing(frame: FrameType | None) -> list[str]:
    """The frames of a step that is on, innermost first, in the form of faulthandler."""
    lines: list[str] = []
    while frame is not None and frame.f_code.co_filename != __file__:
        lines.append(_line(frame))
        frame = frame.f_back
    return lines


def _waiting(awaited: Any) -> list[str]:
    """The frames of a coroutine that waits, innermost first."""
    lines: list[str] = []
    while frame := getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None):
        if frame.f_code.co_filename != __file__:
            lines.insert(0, _line(frame))
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return lines


def _line(frame: FrameType) -> str:
    return f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
