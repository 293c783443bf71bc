"""Waiting for a condition with a deadline; tests never sleep to synchronise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T | None],
    timeout: float = 10.0,
    describe: str | Callable[[], str] = "",
    interval: float = 0.01,
) -> T:
    """Call `predicate` until it returns something true, and return that.

    `timeout` and `interval` are seconds. Raises AssertionError after the timeout, with `describe`
    (text, or a function called at that moment) and the last value seen.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            text = describe() if callable(describe) else describe
            raise AssertionError(f"not within {timeout:g} s: {text or predicate}; last value: {value!r}")
        time.sleep(interval)


def stays(predicate: Callable[[], object], seconds: float, describe: str = "", interval: float = 0.01) -> None:
    """Assert that `predicate` stays true for `seconds`; for claims that something does not happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert predicate(), f"did not stay so: {describe or predicate}"
        time.sleep(interval)
