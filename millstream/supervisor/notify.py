"""Tells systemd what the supervisor does: the datagrams of sd_notify, sent where NOTIFY_SOCKET names a socket.

Nothing here may delay or end the supervisor: a message that cannot be sent at once is sent later, or the next one says
the same.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping

STATUS_INTERVAL = 1.0
"""Seconds between two messages about the status at least."""

EXTEND_INTERVAL = 5.0
"""Seconds between two requests for more time to stop."""

EXTENSION = 30.0
"""Seconds that each of them asks for: enough for the private server's end, which the loop does not see."""


class Notifier:
    """One socket of a service manager, or none: then every call does nothing. Times are seconds, monotonic."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = address
        self._watchdog = watchdog
        self._last_ping = self._last_status = self._last_extension = float("-inf")
        self._status = ""
        self._owed: deque[str] = deque()  # what must arrive, in order

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Read the variables and take them out of the environment: they are not meant for any child.

        A watchdog that is meant for another process is not ours to feed.
        """
        path = environ.pop("NOTIFY_SOCKET", "")
        interval, owner = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = owner in ("", str(os.getpid()))
        watchdog = int(interval) / 1e6 if ours and interval.isdecimal() else 0.0
        return cls(_address(path), watchdog)

    def ready(self) -> None:
        """The service works."""
        self._owe("READY=1")

    def reloading(self) -> None:
        """The service loads new code; it ends with :meth:`reloaded`."""
        self._owe(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The reload is over, whichever way it ended."""
        if self._last_extension == float("-inf"):  # a service that stops must not be taken for one that is ready
            self._owe("READY=1")

    def feed(self, now: float) -> None:
        """Feed the watchdog: from now on its whole interval may pass in silence."""
        self._last_ping = now
        if self._watchdog:
            self._send("WATCHDOG=1")

    def beat(self, now: float, *, sane: bool, stopping: bool, status: Callable[[], str]) -> None:
        """Called once in every turn of the loop: feeds the watchdog if all is *sane*, says what is new."""
        if not self._address:
            return
        self._pay()
        if sane and now >= self._last_ping + self._watchdog / 2:
            self.feed(now)
        if stopping and now >= self._last_extension + EXTEND_INTERVAL:
            self._last_extension = now
            self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}")
        if now >= self._last_status + STATUS_INTERVAL:
            self._last_status = now
            self._say(status())

    def _say(self, status: str) -> None:
        if status != self._status and self._send(f"STATUS={status}"):
            self._status = status

    def _owe(self, message: str) -> None:
        self._owed.append(message)
        self._pay()

    def _pay(self) -> None:
        while self._owed and self._send(self._owed[0]):
            self._owed.popleft()

    def _send(self, message: str) -> bool:
        """Send a message; False where its receiver has no room for it now."""
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                try:
                    channel.sendto(message.encode(), self._address)
                except BlockingIOError:
                    return False
                except OSError:
                    pass  # nobody is there; nobody will be
        return True


def _address(path: str) -> str:
    """What the socket call wants: a path, or a name in the abstract namespace; nothing where it is neither."""
    if path.startswith("@") and len(path) > 1:
        return f"\0{path[1:]}"
    return path if path.startswith("/") else ""
