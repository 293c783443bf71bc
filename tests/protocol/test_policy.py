"""Retries and backoff: pure functions of the attempt and the exception."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.protocol.errors import InvalidJob
from millstream.protocol.policy import Retry, policies, policy_for, seconds

QUICK = settings(deadline=None, database=None)  # a busy machine is no error; nothing is kept


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(), [1, 2, 4, 8]),
        (Retry(delay=0.5, factor=3), [0.5, 1.5, 4.5, 13.5]),
        (Retry(max_delay=3), [1, 2, 3, 3]),
        (Retry(backoff="none"), [0, 0, 0, 0]),
        (Retry(backoff="constant", delay=7), [7, 7, 7, 7]),
        (Retry(backoff="linear", delay=2), [2, 4, 6, 8]),
        (Retry(backoff="polynomial", delay=1, factor=1), [1, 4, 9, 16]),
        (Retry(backoff=[5, 10]), [5, 10, 10, 10]),
        (Retry(backoff=[]), [0, 0, 0, 0]),
        (Retry(delay=timedelta(minutes=1)), [60, 120, 240, 480]),
        (Retry(backoff=lambda attempt, error: attempt * 100), [100, 200, 300, 400]),
        (Retry(backoff=lambda attempt, error: -5), [0, 0, 0, 0]),
    ],
)
def test_nominal_delays(retry: Retry, delays: list[float]) -> None:
    error = ValueError()
    assert [retry.nominal_delay(attempt, error) for attempt in (1, 2, 3, 4)] == delays


@QUICK
@given(attempt=st.integers(1, 10**6), delay=st.floats(0, 1e6), factor=st.floats(0, 10))
def test_no_delay_is_beyond_its_limit(attempt: int, delay: float, factor: float) -> None:
    for backoff in ("exponential", "linear", "constant", "none"):
        retry = Retry(backoff=backoff, delay=delay, factor=factor, max_delay=100)
        assert 0 <= retry.nominal_delay(attempt) <= 100
        assert 0 <= retry.delay_after(attempt) <= 100


def test_full_jitter() -> None:
    drawn = [Retry(delay=10).delay_after(1) for _ in range(200)]
    assert min(drawn) < 2
    assert max(drawn) > 8
    assert all(0 <= delay <= 10 for delay in drawn)
    assert {Retry(delay=10, jitter=False).delay_after(1) for _ in range(20)} == {10.0}


def test_shorthands() -> None:
    assert policies(None) == (Retry(),)
    assert policies(7) == (Retry(attempts=7),)
    assert policies(Retry(2)) == (Retry(2),)
    assert policies([]) == (Retry(attempts=1),)
    assert Retry().attempts == 4


def test_the_first_policy_that_speaks_of_an_error_wins() -> None:
    choices = policies([Retry(2, on=OSError), Retry(9, on=(ValueError, KeyError)), Retry(3, discard_on=KeyError)])
    assert (found := policy_for(choices, FileNotFoundError())) and found.attempts == 2
    assert (found := policy_for(choices, ValueError())) and found.attempts == 9
    assert (found := policy_for(choices, KeyError())) and found.attempts == 9
    assert (found := policy_for(choices, TypeError())) and found.attempts == 3
    assert policy_for(policies(Retry(on=OSError)), ValueError()) is None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"attempts": 0}, "retry: attempts 0 is not valid: the first run counts: use 1 for no retry, 2 for one"),
    ({"attempts": True}, "retry: attempts True is not valid: the first run counts: use 1 for no retry, 2 for one"),
    ({"attempts": 1.5}, "retry: attempts 1.5 is not valid: the first run counts: use 1 for no retry, 2 for one"),
    (
        {"backoff": "quadratic"},
        "backoff 'quadratic' is not valid: use one of none, constant, linear, exponential, polynomial",
    ),
    ({"delay": -1}, "delay -1 is not valid: use seconds (0 or more) or a timedelta"),
    ({"delay": "1"}, "delay '1' is not valid: use seconds (0 or more) or a timedelta"),
    ({"max_delay": float("nan")}, "max_delay nan is not valid: use seconds (0 or more) or a timedelta"),
    ({"factor": float("nan")}, "factor nan is not valid: use a number of 0 or more"),
    ({"backoff": 5}, "backoff 5 is not valid: use a name, a list of delays or a function"),
    ({"backoff": [1, "2"]}, "backoff: delay '2' is not valid: use seconds (0 or more) or a timedelta"),
    ({"crashes": 0}, "retry: crashes 0 is not valid: use 1 to be dead with the first, or None"),
    ({"timeouts": True}, "retry: timeouts True is not valid: use 1 to be dead with the first, or None"),
    ({"on": "OSError"}, "on 'OSError' is not valid: use exception types"),
    ({"on": 5}, "on 5 is not valid: use exception types"),
    ({"on": None}, "on None is not valid: use exception types"),
    ({"on": (OSError, int)}, "on (<class 'OSError'>, <class 'int'>) is not valid: use exception types"),
    ({"discard_on": ValueError("x")}, "discard_on ValueError('x') is not valid: use exception types"),
    ({"memory": 2**31}, "retry: memory 2147483648 is not valid: use 1 to be dead with the first, or None"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_no_policy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Retry(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("retry", ["3", [3], [Retry(), None], {"attempts": 3}])
def test_what_is_no_list_of_policies(retry: Any) -> None:
    with pytest.raises(InvalidJob, match="retry"):
        policies(retry)


def leave(attempt: int, error: BaseException) -> float:
    raise SystemExit(3)


NONSENSE: list[tuple[Any, str]] = [
    (lambda attempt, error: None, "InvalidJob: it returned None, not seconds or a timedelta"),
    (lambda attempt, error: "5", "InvalidJob: it returned '5', not seconds or a timedelta"),
    (lambda attempt, error: float("nan"), "InvalidJob: it returned nan, not seconds or a timedelta"),
    (lambda attempt, error: True, "InvalidJob: it returned True, not seconds or a timedelta"),
    (lambda attempt, error: 1 / 0, "ZeroDivisionError: division by zero"),
    (lambda attempt: 1, "TypeError: <lambda>() takes 1 positional argument but 2 were given"),
    (leave, "SystemExit: 3"),
]


@pytest.mark.parametrize(("function", "problem"), NONSENSE, ids=[problem for _, problem in NONSENSE])
def test_a_function_that_fails_costs_no_retry(function: Any, problem: str) -> None:
    """The wait is the exponential one instead, and what was wrong is told."""
    waited, told = Retry(backoff=function, delay=3).wait_after(2, ValueError())
    assert waited == 6
    assert told.startswith("the backoff function failed: ")
    assert told.endswith(problem) or problem in told


def test_what_a_function_may_return() -> None:
    returned: list[tuple[Any, float]] = [(2, 2.0), (timedelta(minutes=1), 60.0), (-1, 0.0), (float("inf"), 3600.0)]
    for value, expected in returned:
        assert Retry(backoff=partial(_return, value)).wait_after(1, ValueError()) == (expected, "")


def _return(value: Any, attempt: int, error: BaseException) -> Any:
    return value


def test_no_factor_is_too_large() -> None:
    for backoff in ("exponential", "polynomial"):
        assert Retry(backoff=backoff, factor=1e300, max_delay=100).nominal_delay(50) == 100
        assert Retry(backoff=backoff, factor=1e300, delay=0).nominal_delay(50) == 0


def test_durations() -> None:
    assert seconds(timedelta(minutes=2)) == 120.0
    assert seconds(0) == 0.0
    for value in (-1, float("inf"), True, None, "1 min"):
        with pytest.raises(InvalidJob):
            seconds(value)  # type: ignore[arg-type]
