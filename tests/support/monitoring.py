"""Which commands a server runs, those of scripts included, as its MONITOR shows them."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from tests.support.servers import Server
from tests.support.waiting import wait_until

_CONTAINERS = frozenset({"client", "command", "script", "xgroup", "xinfo"})


class Monitoring:
    """Notes the commands of all clients of a server until it is closed.

    What comes by TCP is noted as `tcp`; what comes by the unix socket under the name of the present :meth:`phase`.
    """

    def __init__(self, server: Server) -> None:
        self.seen: defaultdict[str, set[str]] = defaultdict(set)
        self._phase = ""
        self._client = server.client(socket_timeout=None)
        self._echo = server.client()
        monitor: Any = self._client.monitor  # without types in redis-py
        self._monitor: Any = monitor().__enter__()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """What comes by the unix socket from now on is noted under this name; all before it has been noted."""
        self._echo.echo(f"phase:{name}")
        wait_until(lambda: self._phase == name, 10.0, f"the phase {name}")

    def close(self) -> None:
        """Stop."""
        self.phase("end")
        self._thread.join(10)
        self._client.close()
        self._echo.close()

    def _read(self) -> None:
        caller = ""
        while self._phase != "end":
            found = self._monitor.next_command()
            words = str(found["command"]).split(" ")
            if words[0].lower() == "echo" and words[1].startswith("phase:"):
                self._phase = words[1].removeprefix("phase:")
            elif found["client_type"] != "lua":
                caller = "tcp" if found["client_type"] == "tcp" else self._phase
            self.seen[caller].add(_name(words))


def _name(words: list[str]) -> str:
    head = words[0].lower()
    return f"{head}|{words[1].lower()}" if head in _CONTAINERS else head
