"""The producer's side: script calls over connections that are shared between threads and dropped after a fork."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from millstream.protocol.call import Argument, Call
from millstream.protocol.connection import AccessDenied, Refused, hinted
from millstream.protocol.errors import Unavailable
from millstream.protocol.info import FINAL, State
from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.link import Link
from millstream.protocol.transitions import await_end

T = TypeVar("T")

SLICE = 2.0
"""Seconds of one blocking pop while a result is awaited: a server that forgot us is noticed after this."""


class _Links:
    """Idle connections of one kind, newest first."""

    def __init__(self, url: str, *, timeout: float, connect_timeout: float) -> None:
        self._options = {"timeout": timeout, "connect_timeout": connect_timeout}
        self._url = url
        self._idle: deque[Link] = deque()
        self._pid = os.getpid()

    @contextmanager
    def borrow(self) -> Iterator[Link]:
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()  # a connection belongs to the process that opened it
        try:
            link = self._idle.pop()
        except IndexError:
            link = Link(self._url, **self._options)
        try:
            yield link
        finally:
            self._idle.append(link)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Client:
    """Runs script calls for producers and the command line. Safe to share between threads.

    ``patience`` is how long, in seconds, an unreachable server is tried before :class:`Unavailable` is raised.
    Only calls whose scripts are idempotent come here, so that one whose reply was lost is sent again.
    """

    def __init__(self, url: str, keys: Keys, *, patience: float = 2.0) -> None:
        self.url = url
        self.keys = keys
        self.patience = patience
        half = patience / 2
        self._links = _Links(url, timeout=half, connect_timeout=half)
        self._waiting = _Links(url, timeout=SLICE + half, connect_timeout=half)
        self._registered: set[str] = set()

    def run(self, call: Call[T]) -> T:
        """Run one call. Raises :class:`Unavailable`."""
        return self.run_many([call])[0]  # type: ignore[no-any-return]

    def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Run several calls in one round trip. Raises :class:`Unavailable`."""
        return self._patiently(lambda link: link.run_many(calls))

    def execute(self, *command: Argument) -> Any:
        """Run one plain command that may be sent twice."""
        return self._patiently(lambda link: link.execute(*command))

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run several plain commands that may be sent twice; errors are returned in their place."""
        return self._patiently(lambda link: link.execute_many(commands))

    def register(self, queue: QueueKeys) -> None:
        """Enter a queue into the registry of queues, once per process."""
        if queue.base not in self._registered:
            self.execute("SADD", self.keys.queues, queue.member)
            self._registered.add(queue.base)

    def wait_for_end(self, queue: QueueKeys, job_id: str, timeout: float | None) -> State | None:
        """Wait until a job has ended; its final state, or None where it is unknown.

        Raises :class:`TimeoutError` after *timeout* seconds (None: never), :class:`Unavailable` when the server was
        out of reach for longer than our patience.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._waiting.borrow() as link:
            waiters, in_touch = 1, time.monotonic()
            while True:
                try:
                    state = link.run(await_end(queue, job_id, waiters))
                    waiters, in_touch = 0, time.monotonic()
                    if not state or State(state) in FINAL:
                        return State(state) if state else None
                    remaining = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
                    if remaining <= 0:
                        raise TimeoutError(f"job {job_id} has not ended within {timeout} s")
                    link.execute("BLPOP", queue.waits + job_id, f"{max(remaining, 0.01):.3f}")
                except AccessDenied:
                    raise
                except Unavailable:
                    if time.monotonic() - in_touch > self.patience:
                        raise
                    time.sleep(0.05)
                except (TimeoutError, KeyboardInterrupt):
                    link.run(await_end(queue, job_id, -1))
                    raise

    def close(self) -> None:
        """Close all idle connections."""
        self._links.close()
        self._waiting.close()

    def _patiently(self, action: Callable[[Link], T]) -> T:
        # An attempt takes at most half of our patience, and none begins in the second half.
        begun, pause = time.monotonic(), 0.02
        while True:
            try:
                with self._links.borrow() as link:
                    return action(link)
            except (AccessDenied, Refused):
                raise
            except Unavailable as error:
                if time.monotonic() - begun + pause > self.patience / 2:
                    raise hinted(error, self.url) from None
                time.sleep(pause)
                pause *= 2
