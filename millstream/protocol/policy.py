"""When a failed job runs again: pure functions of the attempt and the exception."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from millstream.protocol.errors import InvalidJob

Backoff = Literal["none", "constant", "linear", "exponential", "polynomial"]
BackoffFunction = Callable[[int, BaseException], float | timedelta]
ExceptionTypes = tuple[type[BaseException], ...]
Duration = float | timedelta

BACKOFFS = ("none", "constant", "linear", "exponential", "polynomial")


LONGEST = 100 * 365 * 86400.0
"""Seconds; limits and delays are never taken for more, so that instants stay within what clocks and Redis can hold."""


LONGEST_TTL = 10 * 365 * 86400.0
"""Seconds; Redis refuses an expiry that is beyond its range of milliseconds."""

MANY = 2**31
"""Numbers of attempts are below it, as the counters of an entry are."""


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
    ``timeouts`` and ``memory`` count such runs apart from attempts: with so many of them the job is dead. None: each
    counts as an attempt. ``crashes`` is the number of crashes with which it is dead; None: its group's
    ``crash_limit``. The three hold whatever ``on`` says. Raises :class:`InvalidJob`.
    """

    attempts: int = 4
    backoff: Backoff | Sequence[float] | BackoffFunction = "exponential"
    delay: Duration = 1.0
    factor: float = 2.0
    max_delay: Duration = 3600.0
    jitter: bool = True
    on: ExceptionTypes | type[BaseException] = field(default=())
    discard_on: ExceptionTypes | type[BaseException] = field(default=())
    crashes: int | None = None
    timeouts: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.attempts):
            raise InvalidJob(
                f"retry: attempts {self.attempts!r} is not valid: the first run counts: use 1 for no retry, 2 for one"
            )
        for name in ("crashes", "timeouts", "memory"):
            if (limit := getattr(self, name)) is not None and not _is_count(limit):
                raise InvalidJob(f"retry: {name} {limit!r} is not valid: use 1 to be dead with the first, or None")
        self._check_backoff()
        for name in ("on", "discard_on"):
            given = getattr(self, name)
            types = tuple(given) if isinstance(given, Iterable) and not isinstance(given, (type, str)) else (given,)
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
                raise InvalidJob(f"{name} {given!r} is not valid: use exception types")
            object.__setattr__(self, name, types)
        seconds(self.delay, "delay")
        seconds(self.max_delay, "max_delay")

    def _check_backoff(self) -> None:
        if isinstance(self.backoff, str) and self.backoff not in BACKOFFS:
            raise InvalidJob(f"backoff {self.backoff!r} is not valid: use one of {', '.join(BACKOFFS)}")
        if not isinstance(self.backoff, (str, Sequence)) and not callable(self.backoff):
            raise InvalidJob(f"backoff {self.backoff!r} is not valid: use a name, a list of delays or a function")
        if isinstance(self.backoff, Sequence) and not isinstance(self.backoff, str):
            object.__setattr__(self, "backoff", tuple(seconds(delay, "backoff: delay") for delay in self.backoff))
        factor = self.factor
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 <= factor < float("inf"):
            raise InvalidJob(f"factor {factor!r} is not valid: use a number of 0 or more")

    def wait_after(self, attempt: int, error: BaseException | None = None) -> tuple[float, str]:
        """Seconds to wait after the failure of this attempt (1 for the first), before jitter; and what was wrong.

        A ``backoff`` function that raises or returns no delay costs no job: the wait is that of ``exponential`` then,
        and the second part says why. It is not called without an *error*: nobody is left who could, after a kill.
        """
        problem = ""
        if not callable(self.backoff):
            nominal = self._listed_delay(attempt)
        elif error is None:
            nominal = self._named_delay("exponential", attempt)
        else:
            try:
                nominal = _delay_of(self.backoff(attempt, error))
            except BaseException as trouble:  # also one that exits: it is not to take the worker along
                problem = f"the backoff function failed: {type(trouble).__name__}: {_text_of(trouble)}"
                nominal = self._named_delay("exponential", attempt)
        return max(0.0, min(nominal, seconds(self.max_delay))), problem

    def nominal_delay(self, attempt: int, error: BaseException | None = None) -> float:
        """Seconds to wait after the failure of this attempt (1 for the first), before jitter."""
        return self.wait_after(attempt, error)[0]

    def _listed_delay(self, attempt: int) -> float:
        if isinstance(self.backoff, str):
            return self._named_delay(self.backoff, attempt)
        assert isinstance(self.backoff, tuple)
        return float(self.backoff[min(attempt, len(self.backoff)) - 1]) if self.backoff else 0.0

    def _named_delay(self, name: str, attempt: int) -> float:
        base = seconds(self.delay)
        try:
            match name:
                case "none":
                    return 0.0
                case "constant":
                    return base
                case "linear":
                    return base * attempt
                case "polynomial":
                    return base * float(attempt ** (self.factor * 2))
                case _:
                    return float(base * self.factor ** (attempt - 1))
        except OverflowError:  # beyond every max_delay
            return LONGEST if base else 0.0

    def delay_after(self, attempt: int, error: BaseException | None = None) -> float:
        """Seconds to wait after the failure of this attempt, with jitter."""
        nominal = self.nominal_delay(attempt, error)
        return random.uniform(0, nominal) if self.jitter else nominal

    def speaks_of(self, error: BaseException, cause: str = "error") -> bool:
        """Whether this policy is for such a failure. A budget of its own is for its cause, whatever ``on`` says."""
        return (
            not self.on
            or isinstance(error, (*_types(self.on), *_types(self.discard_on)))
            or self.budget(cause) is not None
        )

    def budget(self, cause: str) -> int | None:
        """How many ends of a run for this cause make the job dead; None where they count as attempts."""
        return {"timeout": self.timeouts, "memory": self.memory}.get(cause)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number < MANY


def _types(kinds: ExceptionTypes | type[BaseException]) -> ExceptionTypes:
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _delay_of(value: object) -> float:
    """What a function returned, as seconds; below 0 is at once. Raises :class:`InvalidJob` for anything else."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InvalidJob(f"it returned {value!r}, not seconds or a timedelta"[:200])
    return float(min(max(value, 0), LONGEST))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except Exception:
        return "(its text cannot be made)"


Policies = tuple[Retry, ...]


def policies(retry: Retry | int | Sequence[Retry] | None) -> Policies:
    """What ``retry=`` may be, as a tuple of policies: an int is shorthand for attempts."""
    if retry is None:
        return (Retry(),)
    if isinstance(retry, Retry):
        return (retry,)
    if isinstance(retry, int):
        return (Retry(attempts=retry),)
    given: object = retry
    if not isinstance(given, (list, tuple)):
        raise InvalidJob(f"retry {retry!r} is not valid: use a Retry, a number of attempts, or a list of Retry")
    for policy in given:
        if not isinstance(policy, Retry):
            raise InvalidJob(f"retry: {policy!r} in the list is not valid: use a Retry")
    return tuple(retry) or (Retry(attempts=1),)


def policy_for(choices: Policies, error: BaseException, cause: str = "error") -> Retry | None:
    """The first policy that speaks of this exception; None where none does: such a failure is final."""
    return next((policy for policy in choices if policy.speaks_of(error, cause)), None)


def crash_limit(choices: Policies) -> int | None:
    """With how many crashes a job is dead: what the first policy says that names a number; None where none does."""
    return next((policy.crashes for policy in choices if policy.crashes is not None), None)
