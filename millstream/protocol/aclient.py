"""The producer's side for asyncio: the same calls over connections that belong to the running loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from redis import exceptions

from millstream.protocol.call import Argument, Call, forbidden
from millstream.protocol.client import SLICE
from millstream.protocol.connection import AccessDenied, Refused, async_connection_pool, explained, hinted
from millstream.protocol.errors import Unavailable
from millstream.protocol.info import FINAL, State
from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.transitions import await_end

T = TypeVar("T")


class AsyncLink:
    """One connection for asyncio: :class:`millstream.protocol.link.Link` with ``await``."""

    def __init__(self, url: str, *, timeout: float, connect_timeout: float) -> None:
        self.url = url
        pool: Any = async_connection_pool(url, timeout=timeout, connect_timeout=connect_timeout)
        self._connection = pool.make_connection()

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        replies = await self.execute_many([call.evalsha() for call in calls])
        for index, reply in enumerate(replies):
            if isinstance(reply, exceptions.NoScriptError):
                await self.execute_many([("SCRIPT", "LOAD", calls[index].script.text)])
                replies[index] = (await self.execute_many([calls[index].evalsha()]))[0]
        return [
            call.parse(await self._checked(reply, call.forbidden)) for call, reply in zip(calls, replies, strict=True)
        ]

    async def execute(self, *command: Argument) -> Any:
        return await self._checked((await self.execute_many([command]))[0], partial(forbidden, command))

    async def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        try:
            await self._connection.connect()
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(packed, check_health=False)
            return [await self._read() for _ in commands]
        except (exceptions.RedisError, OSError) as error:
            await self.close()
            raise explained(error, self.url) from None
        except BaseException:
            await self.close()  # cancelled between request and reply: the next reply would be of this request
            raise

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response()
        except exceptions.ResponseError as error:
            return error

    async def _checked(self, reply: Any, doing: Callable[[str], str]) -> Any:
        if isinstance(reply, Exception):
            meaning = explained(reply, self.url, doing)
            if isinstance(meaning, Unavailable):
                await self.close()
            raise meaning
        return reply


class AsyncClient:
    """:class:`millstream.protocol.client.Client` for asyncio. Each event loop has its own connections."""

    def __init__(self, url: str, keys: Keys, *, patience: float = 2.0) -> None:
        self.url = url
        self.keys = keys
        self.patience = patience
        self._idle: WeakKeyDictionary[asyncio.AbstractEventLoop, deque[AsyncLink]] = WeakKeyDictionary()
        self._registered: set[str] = set()

    async def run(self, call: Call[T]) -> T:
        """Run one call. Raises :class:`Unavailable`."""
        return (await self.run_many([call]))[0]  # type: ignore[no-any-return]

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Run several calls in one round trip. Raises :class:`Unavailable`."""
        return await self._patiently(lambda link: link.run_many(calls))

    async def register(self, queue: QueueKeys) -> None:
        """Enter a queue into the registry of queues, once per process."""
        if queue.base not in self._registered:
            await self._patiently(lambda link: link.execute("SADD", self.keys.queues, queue.member))
            self._registered.add(queue.base)

    async def wait_for_end(self, queue: QueueKeys, job_id: str, timeout: float | None) -> State | None:
        """Wait until a job has ended; its final state, or None where it is unknown.

        Raises :class:`TimeoutError`, and :class:`Unavailable` when the server was out of reach for too long.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        async with self._borrow(SLICE + self.patience / 2) as link:
            waiters, in_touch = 1, time.monotonic()
            while True:
                try:
                    state = (await link.run_many([await_end(queue, job_id, waiters)]))[0]
                    waiters, in_touch = 0, time.monotonic()
                    if not state or State(state) in FINAL:
                        return State(state) if state else None
                    remaining = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
                    if remaining <= 0:
                        raise TimeoutError(f"job {job_id} has not ended within {timeout} s")
                    await link.execute("BLPOP", queue.waits + job_id, f"{max(remaining, 0.01):.3f}")
                except AccessDenied:
                    raise
                except Unavailable:
                    if time.monotonic() - in_touch > self.patience:
                        raise
                    await asyncio.sleep(0.05)
                except TimeoutError:
                    await link.run_many([await_end(queue, job_id, -1)])
                    raise

    async def close(self) -> None:
        """Close the idle connections of the running loop."""
        links = self._idle.pop(asyncio.get_running_loop(), deque())
        while links:
            await links.pop().close()

    async def _patiently(self, action: Callable[[AsyncLink], Awaitable[T]]) -> T:
        begun, pause = time.monotonic(), 0.02
        while True:
            try:
                async with self._borrow() as link:
                    return await action(link)
            except (AccessDenied, Refused):
                raise
            except Unavailable as error:
                if time.monotonic() - begun + pause > self.patience / 2:
                    raise hinted(error, self.url) from None
                await asyncio.sleep(pause)
                pause *= 2

    @asynccontextmanager
    async def _borrow(self, timeout: float | None = None) -> AsyncIterator[AsyncLink]:
        idle = self._idle.setdefault(asyncio.get_running_loop(), deque())
        half = self.patience / 2
        if timeout is not None or not idle:
            link = AsyncLink(self.url, timeout=timeout or half, connect_timeout=half)
        else:
            link = idle.pop()
        try:
            yield link
        finally:
            if timeout is None:
                idle.append(link)
            else:
                await link.close()
