"""Ticks for a supervisor that imports an application while its workers run: leases go on, and so does the service."""

from __future__ import annotations

import threading
import time

from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.supervisor.notify import Notifier

TICK = 0.1

LONGEST = 120.0
"""Seconds after which nobody ticks for an import that does not end: then others may have what we hold."""


class Ticking:
    """While the block lasts a thread ticks in the scoreboard. It has ended before anything is forked."""

    def __init__(self, board: Scoreboard, notifier: Notifier) -> None:
        self._board = board
        self._notifier = notifier
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="ticking", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        end = time.monotonic() + LONGEST
        while (now := time.monotonic()) < end:
            self._board.header[Header.SUPERVISOR_TICK] = int(now * 1e9)
            self._notifier.beat(now, sane=True, stopping=False, status=lambda: "reloading")
            if self._over.wait(TICK):
                return
