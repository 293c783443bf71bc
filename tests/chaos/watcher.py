"""Looks at the jobs while the system is broken: what has ended stays as it ended."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import redis

from tests.chaos import reading
from tests.chaos.checker import FINAL, Loss
from tests.support.servers import Server

INTERVAL = 0.05
AT_ONCE = 300  # jobs that are looked at in one round trip


class Watcher:
    """Notes when it first sees a job ended, and with which outcome. Follows a failover when told the new server."""

    def __init__(self, server: Server, ids: Path) -> None:
        self.server = server
        self._ids = ids
        self._seen: dict[str, tuple[int, tuple[str, str]]] = {}  # id -> when (monotonic ns), state and outcome
        self._open: dict[str, None] = {}
        self._position = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(20)

    @property
    def ended(self) -> int:
        """How many jobs were seen to have ended."""
        return len(self._seen)

    def contradictions(self, losses: list[Loss]) -> list[str]:
        """Jobs that ended differently later, unless the server was made to forget their end."""
        with self.server.client() as client:
            now = reading.ends(client, list(self._seen))
        return [
            f"{name}: was {before[0]}, now {now.get(name, ('gone', ''))[0]} with another outcome"
            for name, (at, before) in self._seen.items()
            if now.get(name) != before and not any(loss.since <= at <= loss.until for loss in losses)
        ]

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            self._read_ids()
            with contextlib.suppress(redis.RedisError, OSError):
                self._look()

    def _read_ids(self) -> None:
        if not self._ids.exists():
            return
        with self._ids.open() as lines:
            lines.seek(self._position)
            part = lines.read()
        whole = part.rpartition("\n")[0]
        self._position += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            what, name, *_ = line.split()
            if what == "acknowledged":
                self._open[name] = None

    def _look(self) -> None:
        names = list(self._open)[:AT_ONCE]
        with self.server.client(socket_timeout=2.0) as client:
            found = reading.ends(client, names)
        at = time.monotonic_ns()
        for name in names:
            del self._open[name]
            if found.get(name, ("", ""))[0] in FINAL:
                self._seen[name] = (at, found[name])
            else:
                self._open[name] = None  # again, after the others
