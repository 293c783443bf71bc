"""When a dead child is started again: pure functions of the past, with the time passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

HEALTHY = 10.0
"""Seconds after which a process that lived so long is taken for a good one: its backoff starts anew."""


@dataclass
class Backoff:
    """Exponential delay of one slot's restarts. Seconds; ``first`` is the delay after the second quick death."""

    first: float = 0.1
    longest: float = 30.0
    deaths: int = 0

    def after_death(self, lifetime: float) -> float:
        """Seconds to wait before the next start; the first death in a row costs nothing."""
        self.deaths = 1 if lifetime >= HEALTHY else self.deaths + 1
        if self.deaths == 1:
            return 0.0
        return float(min(self.longest, self.first * 2 ** (self.deaths - 2)))


@dataclass
class RestartIntensity:
    """More than ``intensity`` abnormal exits within ``period`` seconds: too many (OTP's rule)."""

    intensity: int = 10
    period: float = 60.0
    _exits: deque[float] = field(default_factory=deque)

    def add(self, now: float) -> None:
        """Note an abnormal exit."""
        self._exits.append(now)

    def exceeded(self, now: float) -> bool:
        """Whether there were too many lately; recovers by itself as time passes."""
        while self._exits and self._exits[0] <= now - self.period:
            self._exits.popleft()
        return len(self._exits) > self.intensity
