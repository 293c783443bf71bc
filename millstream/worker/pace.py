"""How many jobs to fetch at once: about 5 ms of expected work."""

from __future__ import annotations

TARGET = 0.005
"""Seconds of work that a batch should hold: long enough to hide a round trip, too short for anybody to notice."""

LARGEST = 200
GROWTH = 4
"""A batch is at most this many times the last one: one lucky short job does not make a large batch."""


class Pace:
    """The recent mean runtime of a queue's jobs, and the batch size that follows from it."""

    def __init__(self) -> None:
        self._mean: float | None = None
        self._last = 1

    def size(self) -> int:
        """Jobs to fetch next."""
        if self._mean is None:
            return 1
        fitting = int(TARGET / self._mean) if self._mean > TARGET / LARGEST else LARGEST
        return max(1, min(fitting, self._last * GROWTH, LARGEST))

    def note(self, jobs: int, seconds: float) -> None:
        """Learn from a batch that was run."""
        if jobs == 0:
            return
        mean = seconds / jobs
        self._mean = mean if self._mean is None else 0.7 * self._mean + 0.3 * mean
        self._last = jobs
