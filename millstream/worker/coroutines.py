"""Async handlers: one event loop for all of them, and interruptions that reach the coroutine where it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any

from millstream.protocol.errors import Interruption


class Coroutines:
    """The event loop of a worker, made when it is first needed, and kept; runs coroutines on it, one at a time."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.get_loop()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end.

        An interruption is raised by a signal's handler, most often while the loop waits: it is carried into the
        coroutine, which may catch it by name and clean up, as other handlers may.
        """
        loop = self.loop
        guarded = _Interruptible(coroutine)
        task = loop.create_task(_awaited(guarded))  # in the caller's context: each run has a job of its own

        def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            # Raised between two steps of the coroutine, where the loop would only log it.
            if isinstance(error := context.get("exception"), Interruption):
                guarded.interruption = error
                task.cancel()
            else:
                loop.default_exception_handler(context)

        loop.set_exception_handler(on_error)
        while True:
            try:
                return loop.run_until_complete(task)
            except Interruption as interruption:
                if task.done():
                    raise
                guarded.interruption = interruption
                task.cancel()

    def close(self) -> None:
        """Close the loop, if there is one."""
        if self._runner is not None:
            self._runner.close()


class _Interruptible:
    """Awaits a coroutine; a cancellation of ours reaches it as the interruption that it stands for."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.interruption: Interruption | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self._coroutine.send, None)
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                return end.value
            try:
                step = partial(self._coroutine.send, (yield waited_for))
            except asyncio.CancelledError as cancelled:
                interruption, self.interruption = self.interruption, None
                step = partial(self._coroutine.throw, interruption or cancelled)
            except BaseException as error:
                step = partial(self._coroutine.throw, error)


async def _awaited(guarded: _Interruptible) -> Any:
    return await guarded
