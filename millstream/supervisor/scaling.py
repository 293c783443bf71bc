"""How many workers a group should have: pure functions of what was seen, with the time passed in.

Growing is quick and shrinking is slow, and between what asks for one and what allows the other there is a wide gap: a
group under a constant load comes to rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

GROW_AFTER = 1.0
"""Seconds of hard work before a group grows, and grows again: as long as it takes to see what the last step did."""

SATURATED = 0.9
"""Share of the ready workers that must not idle: in a large group somebody always has just run out of work."""

LATE = 0.5
"""Seconds that a job must have waited: those that are fetched in no time are no reason for another process."""

CALM = 30.0
"""Seconds of little work before a group gives up one worker: starting one costs more than keeping it for a while."""

LIGHT = 0.5
"""Share of their time that the others, one fewer, may be busy then: far below what makes a group grow."""

STALE = 3.0
"""Seconds after which a count of what waits says nothing any more: two were missed, Redis or maintenance is away."""


class Why(StrEnum):
    """Why the number of workers has changed."""

    BACKLOG = "jobs wait and the workers are busy"
    CALM = "fewer workers would do"
    SIGNAL = "TTIN or TTOU"


class Step(NamedTuple):
    """A change of the target."""

    before: int
    after: int
    why: Why


class Load(NamedTuple):
    """A group at one moment.

    ``late`` is for how long, in seconds, the oldest of the ``waiting`` jobs had waited when they were counted, at
    ``counted`` on the clock of the policy. Of the ``ready`` workers some are ``busy`` and some are ``idle``; others are
    neither: they begin to fetch or to leave, or all their queues are paused.
    """

    ready: int
    busy: int
    idle: int
    waiting: int
    late: float
    counted: float


@dataclass
class Scale:
    """The target of one group, that begins with *least*; where *most* is the same it changes on a signal only.

    Times are seconds of any clock that does not go back.
    """

    least: int
    most: int
    target: int = field(init=False)
    _shift: int = 0
    _changed: float = float("-inf")
    _hard_since: float | None = None
    _calm_since: float | None = None
    _looks: int = 0
    _busy: int = 0

    def __post_init__(self) -> None:
        self.target = self.least

    @property
    def bounds(self) -> tuple[int, int]:
        """Between which numbers the target is: the configured ones, as signals have moved them."""
        return max(1, self.least + self._shift), self.most + self._shift

    def go_on_from(self, target: int) -> None:
        """Begin with what was right before a reload, as far as the bounds are the same."""
        self.target = min(self.most, max(self.least, target))

    def look(self, load: Load | None, now: float) -> Step | None:
        """Judge the group; returns how the target has changed, None where it has not.

        None for *load* says that nothing is known, or that nothing may be done: then what was seen is forgotten.
        """
        if load is None or now - load.counted > STALE:
            self._forget()
            return None
        behind = load.waiting > 0 and load.late >= LATE
        if self._worked_hard(load, now) and behind and load.counted > self._changed:
            # New workers that are still starting have not helped yet: so at most twice those that are ready.
            wanted = min(self.bounds[1], 2 * load.ready, load.busy + load.waiting)
            if wanted > self.target:
                return self._change(wanted, Why.BACKLOG, now)
        if self._was_calm(load, behind, now) and self.target > self.bounds[0]:
            return self._change(self.target - 1, Why.CALM, now)
        return None

    def shift(self, by: int, now: float) -> Step | None:
        """So many workers more, or fewer: both bounds move, and the target with them; one worker stays.

        If only the target moved, the load would soon undo what somebody has asked for.
        """
        self._shift = max(1 - self.most, self._shift + by)
        least, most = self.bounds
        target = min(most, max(least, self.target + by))
        return self._change(target, Why.SIGNAL, now) if target != self.target else None

    def _worked_hard(self, load: Load, now: float) -> bool:
        """Whether at no look for long enough a worker idled. One that is being replaced does not interrupt that."""
        if load.ready - load.idle < SATURATED * load.ready:
            self._hard_since = None
        elif self._hard_since is None and load.ready:
            self._hard_since = now
        return self._hard_since is not None and now - self._hard_since >= GROW_AFTER

    def _was_calm(self, load: Load, behind: bool, now: float) -> bool:
        """Whether the workers had little to do, on average over the last while, and one of them has nothing now."""
        if behind or self._calm_since is None:
            self._calm_since, self._looks, self._busy = now, 0, 0
        self._looks += 1
        self._busy += load.busy
        if now - self._calm_since < CALM:
            return False
        light = self._busy <= LIGHT * (self.target - 1) * self._looks
        if not light:
            self._calm_since = None
        return light and load.busy < load.ready

    def _change(self, target: int, why: Why, now: float) -> Step:
        step = Step(self.target, target, why)
        self.target, self._changed = target, now
        self._forget()
        return step

    def _forget(self) -> None:
        self._hard_since = self._calm_since = None
