"""One connection to Redis that runs script calls, several in one round trip. Not safe to share between threads."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis import exceptions

from millstream.protocol.call import Argument, Call, forbidden
from millstream.protocol.connection import connection_pool, explained
from millstream.protocol.errors import Unavailable

T = TypeVar("T")

Reply = Any


class Link:
    """A connection that is made when it is first used and again after it broke.

    Nothing is re-sent, with one exception: a script that the server does not know (NOSCRIPT) has not run.
    Every method raises :class:`Unavailable` when the server cannot be reached or refuses everything; the
    connection is then closed, and what was sent may or may not have been executed.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, connect_timeout: float = 2.0) -> None:
        self.url = url
        pool = connection_pool(url, timeout=timeout, connect_timeout=connect_timeout)
        self._loaded: set[str] = set()
        self._connection: Any = pool.make_connection()  # redis-py's types leave out much of what it can

    def run(self, call: Call[T]) -> T:
        """Run one call and return its parsed reply."""
        return self.run_many([call])[0]  # type: ignore[no-any-return]

    def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Run several calls in one round trip, in order; raises the first error after all have run."""
        # Each script is loaded with its first use on a connection: a NOSCRIPT in the middle of several calls would
        # change the order in which they run.
        new = {call.script.sha: call.script.text for call in calls if call.script.sha not in self._loaded}
        loads = [("SCRIPT", "LOAD", text) for text in new.values()]
        replies = self.execute_many([*loads, *(call.evalsha() for call in calls)])[len(loads) :]
        self._loaded |= new.keys()
        for index, reply in enumerate(replies):
            if isinstance(reply, exceptions.NoScriptError):
                replies[index] = self._load_and_run(calls[index])
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                raise self._explained(reply, call.forbidden)
        return [call.parse(reply) for call, reply in zip(calls, replies, strict=True)]

    def execute(self, *command: Argument) -> Reply:
        """Run one plain command; raises its error."""
        reply = self.execute_many([command])[0]
        if isinstance(reply, Exception):
            raise self._explained(reply, partial(forbidden, command))
        return reply

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send commands in one write; a reply that is an error of the server is returned, not raised."""
        try:
            self._send(commands)
            return [self._read() for _ in commands]
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise explained(error, self.url) from None
        except BaseException:
            self.close()  # an interruption between request and reply: the next reply would be of this request
            raise

    def send(self, *command: Argument) -> None:
        """Send one command without reading its reply: see :meth:`wait` and :meth:`receive`."""
        try:
            self._send([command])
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise explained(error, self.url) from None

    def wait(self, timeout: float, *others: int) -> bool:
        """Wait up to *timeout* seconds for a reply, or for one of *others* (file descriptors) to be readable.

        Returns whether a reply has begun to arrive.
        """
        poll = select.poll()
        poll.register(self._socket(), select.POLLIN)
        for descriptor in others:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout * 1000)}
        return self._socket() in ready

    def receive(self) -> Reply:
        """Read the reply of :meth:`send`; an error of the server is returned, not raised."""
        try:
            return self._read()
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise explained(error, self.url) from None

    def client_id(self) -> int:
        """The server's number for this connection."""
        return int(self.execute("CLIENT", "ID"))

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        self._loaded.clear()
        self._connection.disconnect()

    def _send(self, commands: Sequence[Sequence[Argument]]) -> None:
        self._connection.connect()
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def _read(self) -> Reply:
        try:
            return self._connection.read_response()
        except exceptions.ResponseError as error:
            return error

    def _load_and_run(self, call: Call[Any]) -> Reply:
        self.execute("SCRIPT", "LOAD", call.script.text)
        return self.execute_many([call.evalsha()])[0]

    def _explained(self, error: Exception, doing: Callable[[str], str]) -> Exception:
        meaning = explained(error, self.url, doing)
        if isinstance(meaning, Unavailable):
            self.close()
        return NoGroup(str(error)) if str(error).startswith("NOGROUP") else meaning

    def _socket(self) -> int:
        return int(self._connection._sock.fileno())  # redis-py has no public name for it


class NoGroup(Unavailable):
    """The queue's consumer group is gone: the server was flushed, or lost its data."""
