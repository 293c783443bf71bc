"""When a dead child is started again: pure functions of the past, with the time passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

HEALTHY = 10.0
"""Seconds after which a process that was ready for so long is taken for a good one: its backoff starts anew."""


SLOWLY = 1.0
"""Seconds before any restart in a degraded group, at least."""


@dataclass
class Backoff:
    """Exponential delay of one slot's restarts. Seconds; ``first`` is the delay after the second quick death.

    *failing*: the last one died young, and none after it has shown that it can live.
    """

    first: float = 0.1
    longest: float = 30.0
    deaths: int = 0
    failing: bool = False

    def after_death(self, lifetime: float) -> float:
        """Seconds to wait before the next start; the first death in a row costs nothing."""
        self.failing = lifetime < HEALTHY
        self.deaths = self.deaths + 1 if self.failing else 1
        if self.deaths == 1:
            return 0.0
        return float(min(self.longest, self.first * 2 ** (self.deaths - 2)))


@dataclass
class RestartIntensity:
    """More than ``intensity`` abnormal exits within ``period`` seconds: too many (OTP's rule), the group is degraded.

    Slow restarts alone are few enough, so it recovers only when its workers live again.
    """

    intensity: int = 10
    period: float = 60.0
    degraded: bool = False
    _exits: deque[float] = field(default_factory=deque)

    def add(self, now: float) -> None:
        """Note an abnormal exit."""
        self._exits.append(now)

    def judge(self, now: float, *, failing: bool) -> bool:
        """Whether the group is degraded. *failing*: in some slot what was started last has not shown that it lives."""
        self.degraded = self.exceeded(now) or (self.degraded and failing)
        return self.degraded

    def slowed(self, delay: float) -> float:
        """The wait before a restart, also of a process that had lived for long: never none in a degraded group."""
        return max(delay, SLOWLY) if self.degraded else delay

    def exceeded(self, now: float) -> bool:
        """Whether there were too many lately."""
        while self._exits and self._exits[0] <= now - self.period:
            self._exits.popleft()
        return len(self._exits) > self.intensity
