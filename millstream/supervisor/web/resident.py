"""How much memory processes have, looked up at most once a second for each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

KEPT = 1.0
"""Seconds for which a size is taken to hold."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Resident:
    """Resident sizes by pid."""

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[float, int]] = {}

    def size(self, pid: int) -> int:
        """Bytes; 0 where the process is gone."""
        now = time.monotonic()
        at, size = self._sizes.get(pid, (0.0, 0))
        if now - at > KEPT:
            size = _resident(pid)
            if len(self._sizes) > 1000:
                self._sizes.clear()
            self._sizes[pid] = now, size
        return size


def _resident(pid: int) -> int:
    try:
        if Path("/proc/self/statm").exists():
            with open(f"/proc/{pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE
        return int(psutil.Process(pid).memory_info().rss)
    except (OSError, psutil.Error):
        return 0
