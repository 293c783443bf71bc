"""The memory limit: a run whose worker has grown beyond it is killed, with cause ``memory``."""

from __future__ import annotations

import psutil

from millstream.protocol.scoreboard import Cause
from millstream.supervisor.workers import Workers

INTERVAL = 0.25
"""Seconds between two looks at the workers' memory."""


class Limits:
    """The limits of the groups: bytes of resident memory of a worker, its subprocesses not counted."""

    def __init__(self) -> None:
        self._looked = 0.0

    def look(self, workers: Workers, now: float) -> None:
        """Note which runs' workers are over their group's limit; they are killed with those past their deadlines."""
        if now < self._looked + INTERVAL:
            return
        self._looked = now
        for slot, process in workers.processes:
            limit = workers.group(slot).memory_limit
            running = [one for one in process.holders if one.record.running] if limit is not None else ()
            if limit is None or not running:
                continue
            try:
                resident = psutil.Process(process.pid).memory_info().rss
            except psutil.Error:
                continue  # it died just now; the next reap says why
            if resident > limit and len(running) > 1:
                process.kill(Cause.MEMORY)  # nobody knows which of its coroutines it was
            elif resident > limit:
                running[0].too_large = running[0].record.running
