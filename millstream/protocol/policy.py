"""When a failed job runs again: pure functions of the attempt and the exception."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from millstream.protocol.errors import InvalidJob

Backoff = Literal["none", "constant", "linear", "exponential", "polynomial"]
BackoffFunction = Callable[[int, BaseException], float]
ExceptionTypes = tuple[type[BaseException], ...]
Duration = float | timedelta

BACKOFFS = ("none", "constant", "linear", "exponential", "polynomial")


LONGEST = 100 * 365 * 86400.0
"""Seconds; limits and delays are never taken for more, so that instants stay within what clocks and Redis can hold."""


LONGEST_TTL = 10 * 365 * 86400.0
"""Seconds; Redis refuses an expiry that is beyond its range of milliseconds."""


def seconds(value: Duration, what: str = "duration") -> float:
    """A duration as seconds. Raises :class:`InvalidJob` where it is negative or no duration."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InvalidJob(f"{what} {value!r} is not valid: use seconds (0 or more) or a timedelta")
    return float(value)


@dataclass(frozen=True)
class Retry:
    """How often and when a failed job runs again.

    ``attempts`` include the first run. ``delay`` and ``max_delay`` are in seconds. ``backoff`` is a name, a list of
    delays (the last one repeats), or a function of (attempt that failed, exception) that returns seconds.
    ``jitter`` draws each delay uniformly between 0 and its value ("full jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    ``on`` limits the policy to these exceptions (empty: all); ``discard_on`` ends the job quietly instead.
    """

    attempts: int = 4
    backoff: Backoff | Sequence[float] | BackoffFunction = "exponential"
    delay: Duration = 1.0
    factor: float = 2.0
    max_delay: Duration = 3600.0
    jitter: bool = True
    on: ExceptionTypes | type[BaseException] = field(default=())
    discard_on: ExceptionTypes | type[BaseException] = field(default=())

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidJob(
                f"retry: attempts {self.attempts!r} is not valid: the first run counts: use 1 for no retry, 2 for one"
            )
        if isinstance(self.backoff, str) and self.backoff not in BACKOFFS:
            raise InvalidJob(f"backoff {self.backoff!r} is not valid: use one of {', '.join(BACKOFFS)}")
        for name in ("on", "discard_on"):
            types = getattr(self, name)
            types = (types,) if isinstance(types, type) else tuple(types)
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
                raise InvalidJob(f"{name} {types!r} is not valid: use exception types")
            object.__setattr__(self, name, types)
        seconds(self.delay, "delay")
        seconds(self.max_delay, "max_delay")

    def nominal_delay(self, attempt: int, error: BaseException | None = None) -> float:
        """Seconds to wait after the failure of this attempt (1 for the first), before jitter."""
        if callable(self.backoff):
            nominal = self.backoff(attempt, error) if error is not None else seconds(self.delay)
        elif isinstance(self.backoff, str):
            nominal = self._named_delay(attempt)
        else:
            nominal = self.backoff[min(attempt, len(self.backoff)) - 1] if self.backoff else 0.0
        return max(0.0, min(float(nominal), seconds(self.max_delay)))

    def _named_delay(self, attempt: int) -> float:
        base = seconds(self.delay)
        match self.backoff:
            case "none":
                return 0.0
            case "constant":
                return base
            case "linear":
                return base * attempt
            case "polynomial":
                return base * float(attempt ** (self.factor * 2))
            case _:
                # Beyond 2**64 times the base every max_delay is reached; a larger exponent would overflow.
                return float(base * self.factor ** min(attempt - 1, 64))

    def delay_after(self, attempt: int, error: BaseException | None = None) -> float:
        """Seconds to wait after the failure of this attempt, with jitter."""
        nominal = self.nominal_delay(attempt, error)
        return random.uniform(0, nominal) if self.jitter else nominal


Policies = tuple[Retry, ...]


def policies(retry: Retry | int | Sequence[Retry] | None) -> Policies:
    """What ``retry=`` may be, as a tuple of policies: an int is shorthand for attempts."""
    if retry is None:
        return (Retry(),)
    if isinstance(retry, Retry):
        return (retry,)
    if isinstance(retry, int):
        return (Retry(attempts=retry),)
    return tuple(retry) or (Retry(attempts=1),)


def policy_for(choices: Policies, error: BaseException) -> Retry | None:
    """The first policy that speaks of this exception; None where none does: such a failure is final."""
    for policy in choices:
        if isinstance(error, policy.discard_on) or not policy.on or isinstance(error, policy.on):
            return policy
    return None
