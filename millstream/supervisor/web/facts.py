"""The facts about queues and hosts, as maintenance has left them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from millstream.supervisor.maintenance.facts import FILE


@dataclass(frozen=True)
class Snapshot:
    """One collection. ``at`` is seconds of the Unix epoch, 0 where there was none yet; see ``maintenance/facts.py``."""

    at: float = 0.0
    duration: float = 0.0
    queues: list[dict[str, Any]] = field(default_factory=list)
    consumers: list[dict[str, Any]] = field(default_factory=list)
    instances: int = 0
    enqueued: list[dict[str, Any]] = field(default_factory=list)


class Facts:
    """Reads the file when it was replaced."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder, FILE)
        self._seen: tuple[int, int] | None = None
        self._snapshot = Snapshot()

    def read(self) -> Snapshot:
        """The latest facts; those before, or none, where the file cannot be read."""
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._snapshot = Snapshot(**orjson.loads(self._path.read_bytes()))
                self._seen = seen
        except (OSError, ValueError, TypeError):  # not there yet; or of another version, which is about to replace it
            pass
        return self._snapshot
