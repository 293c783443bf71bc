"""A TCP proxy before a server that can lose a reply, answer nothing, cut or delay.

A request whose reply is to be lost is executed by the server; the client sees its connection end
(or, with `hang`, silence) in the place of the reply.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support import acl
from tests.support.resp import PUSH, take
from tests.support.waiting import wait_until


@dataclass(eq=False)
class Loss:
    """An order to lose the replies of requests that match; `lost` counts them."""

    matches: Callable[[bytes], bool]
    remaining: float  # how many replies; may be infinite
    hang: bool
    lost: int = 0
    requests: list[bytes] = field(default_factory=list)

    def wait(self, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until `count` replies have been lost."""
        wait_until(lambda: self.lost >= count, timeout, f"{count} replies lost")


@dataclass(eq=False)
class _Link:
    """One client connection and its counterpart to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    expected: deque[Loss | None] = field(default_factory=deque)
    loss: Loss | None = None  # set once a reply was lost: the client gets nothing more

    def close(self) -> None:
        for writer in (self.client, self.server):
            if not writer.is_closing():  # one that is closing still delivers what was written
                writer.transport.abort()


class Proxy:
    """Listens on a port of its own, by default of loopback; `target` is a unix socket's path or (host, port)."""

    def __init__(self, target: str | tuple[str, int], listen: str = "127.0.0.1") -> None:
        self._target = target
        self._listen = listen
        self._losses: list[Loss] = []
        self._links: set[_Link] = set()
        self._delay = 0.0
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self.lost = 0  # replies, over all losses
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the proxy did not start"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL that clients use instead of the server's."""
        user = acl.credentials("producer") if acl.EVERYWHERE else ""
        return f"redis://{user}{self._listen}:{self.port}/0"

    def drop_reply(
        self, containing: bytes | Callable[[bytes], bool] = b"", times: float = 1, hang: bool = False
    ) -> Loss:
        """Lose the replies to the next `times` requests that contain these bytes (or satisfy it)."""
        matches = containing if callable(containing) else lambda request: containing in request
        loss = Loss(matches, times, hang)
        self._losses.append(loss)
        return loss

    def blackhole(self) -> None:
        """Accept connections and move no byte in either direction until `resume`."""
        self._call(self._flowing.clear)

    def cut(self) -> None:
        """Close every present connection; new ones work."""
        self._call(self._close_links)

    def refuse(self) -> None:
        """Close every present connection and each new one at once, until `resume`."""
        self._refusing = True
        self.cut()

    def retarget(self, target: str | tuple[str, int]) -> None:
        """Close every present connection; new ones lead to another server."""
        self._target = target
        self.cut()

    def delay(self, seconds: float) -> None:
        """Hold back each chunk of replies for so long."""
        self._delay = seconds

    def resume(self) -> None:
        """Pass everything again: no loss, no delay, no blackhole; bytes held back flow on."""
        self._losses.clear()
        self._delay = 0.0
        self._refusing = False
        self._call(self._flowing.set)

    def close(self) -> None:
        """Close every connection and stop."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    def _call(self, function: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(function)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(10), "the proxy does not react"

    def _close_links(self) -> None:
        for link in list(self._links):
            link.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, self._listen, 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stopping.wait()
        server.close()
        self._flowing.set()
        self._close_links()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refusing:
                raise ConnectionError
            upstream, server = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server)
        self._links.add(link)
        try:
            await asyncio.gather(self._requests(reader, link), self._replies(upstream, link))
        except (OSError, ValueError, EOFError, asyncio.CancelledError):
            return  # either side went away, or does not speak RESP, or we are closed
        finally:
            link.close()
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        pending = bytearray()
        while data := await reader.read(65536):
            await self._flowing.wait()
            pending += data
            for request in take(pending):
                link.expected.append(self._loss_for(request))
            link.server.write(data)
            await link.server.drain()
        raise EOFError

    def _loss_for(self, request: bytes) -> Loss | None:
        for loss in list(self._losses):
            if loss.matches(request):
                loss.remaining -= 1
                if not loss.remaining:
                    self._losses.remove(loss)
                loss.requests.append(request)
                return loss
        return None

    async def _replies(self, upstream: asyncio.StreamReader, link: _Link) -> None:
        pending = bytearray()
        while data := await upstream.read(65536):
            pending += data
            passed = self._until_loss(take(pending), link)
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._flowing.wait()
            link.client.write(passed)
            await link.client.drain()
            if link.loss is not None and not link.loss.hang:
                link.client.close()
                raise EOFError
        raise EOFError

    def _until_loss(self, replies: list[bytes], link: _Link) -> bytes:
        passed = bytearray()
        for reply in replies:
            if link.loss is None and reply[0] != PUSH and link.expected:
                link.loss = link.expected.popleft()
                if link.loss is not None:
                    link.loss.lost += 1
                    self.lost += 1
            if link.loss is None:
                passed += reply
        return bytes(passed)
