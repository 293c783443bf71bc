"""Deaths by the kernel for want of memory: a SIGKILL that nobody sent, while our control group's counter rose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from millstream.supervisor.cgroups import OWN, ROOT, own_groups

INTERVAL = 1.0
"""Seconds between two looks at the counter where nobody dies."""


class OomKills:
    """How many processes of our control group the kernel has killed, and which deaths are explained by that.

    Workers are in the group of the supervisor. Without a counter (no such file, no control groups) nothing is.
    """

    def __init__(self, read: Callable[[], int] | None = None) -> None:
        self._read = read or oom_kills
        self._looked = float("-inf")
        self._before = self._last = self._read()

    def look(self, now: float) -> None:
        """Forget kills that are older than one to two intervals: no death that is reaped now is one of them."""
        if now - self._looked >= INTERVAL:
            self._looked, self._before, self._last = now, self._last, self._read()

    def explain_death(self) -> bool:
        """Whether a death that was reaped just now was such a kill; each kill explains one."""
        if self._read() <= self._before:
            return False
        self._before += 1
        self._last = max(self._last, self._before)
        return True


def oom_kills(root: Path = ROOT, own: Path = OWN) -> int:
    """The counter of our control group since it was made; 0 where there is none."""
    return next((count for file in _files(root, own) if (count := _count(file)) is not None), 0)


def _files(root: Path, own: Path) -> Iterator[Path]:
    for controllers, path in own_groups("memory", own):
        top, name = (root / "memory", "memory.oom_control") if controllers else (root, "memory.events")
        yield from (top / path / name, top / name)


def _count(file: Path) -> int | None:
    """The number behind ``oom_kill``, in the files of both versions."""
    try:
        words = (line.split() for line in file.read_text().splitlines())
        return next((int(word[1]) for word in words if word[0] == "oom_kill"), None)
    except (OSError, ValueError, IndexError):
        return None
