"""What becomes of a job after a run that failed or was killed, by its policies and its counters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.protocol.envelope import Entry
from millstream.protocol.errors import JobTimeout, RetryLater
from millstream.protocol.fate import Fate, fate_of, fates_of_kills
from millstream.protocol.policy import Retry, crash_limit, policies
from millstream.protocol.transitions import Kind

QUICK = settings(deadline=None, database=None)


def entry(**counters: Any) -> Entry:
    return Entry("n1-0", "j", "work", "q", [], {}, "normal", 0, **counters)


def fate(retry: Any, error: BaseException, cause: str = "error", **counters: Any) -> Fate:
    return fate_of(policies(retry), entry(**counters), error, cause)


def test_failures_are_retried_while_attempts_are_left() -> None:
    retry = Retry(3, jitter=False)
    assert [fate(retry, ValueError(), attempt=before) for before in (0, 1, 2)] == [
        Fate(Kind.RETRY, 1.0),
        Fate(Kind.RETRY, 2.0),
        Fate(Kind.DEAD),
    ]
    assert fate(retry, ValueError(), attempt=1, options={"attempts": 2}).kind is Kind.DEAD
    assert fate(Retry(on=OSError), ValueError()).kind is Kind.DEAD
    assert fate(Retry(discard_on=KeyError), KeyError()).kind is Kind.DISCARDED


def test_a_handler_that_asks_to_run_again_needs_no_policy_that_speaks_of_it() -> None:
    rules = [Retry(2, on=OSError, jitter=False), Retry(9, on=KeyError)]
    assert fate(rules, RetryLater("busy")) == Fate(Kind.RETRY, 1.0)
    assert fate(rules, RetryLater("busy"), attempt=1).kind is Kind.DEAD, "it counts as an attempt"
    assert fate([Retry(2, on=OSError), Retry(9)], RetryLater("busy"), attempt=1).kind is Kind.RETRY
    assert fate(Retry(discard_on=RetryLater), RetryLater("busy")).kind is Kind.DISCARDED


def test_timeouts_count_as_attempts_unless_they_have_a_budget() -> None:
    assert fate(2, JobTimeout(), "timeout", attempt=1, timeouts=0).kind is Kind.DEAD
    apart = Retry(2, timeouts=3, jitter=False)
    assert fate(apart, JobTimeout(), "timeout", attempt=1, timeouts=1) == Fate(Kind.TIMEOUT, 2.0, counted=False)
    assert fate(apart, JobTimeout(), "timeout", attempt=0, timeouts=2) == Fate(Kind.DEAD, counted=False)
    assert fate(apart, ValueError(), attempt=1, timeouts=0).kind is Kind.DEAD, "a failure is still an attempt"


def test_a_kill_is_judged_as_the_exception_that_it_stands_for() -> None:
    rules = policies([Retry(9, on=JobTimeout), Retry(discard_on=MemoryError)])
    timeout, memory = fates_of_kills(rules, entry())
    assert (timeout.kind, memory.kind) == (Kind.RETRY, Kind.DISCARDED)
    assert [one.kind for one in fates_of_kills(policies(Retry(on=OSError)), entry())] == [Kind.DEAD, Kind.DEAD]
    budgets = policies(Retry(on=OSError, timeouts=2, memory=2))
    assert [one.kind for one in fates_of_kills(budgets, entry())] == [Kind.TIMEOUT, Kind.MEMORY]
    assert [one.kind for one in fates_of_kills(budgets, entry(timeouts=1, memory=1))] == [Kind.DEAD, Kind.DEAD]


def test_nobody_calls_a_function_after_a_kill() -> None:
    def never(attempt: int, error: BaseException) -> float:
        raise AssertionError("called")

    timeout, _ = fates_of_kills(policies(Retry(backoff=never, jitter=False)), entry(attempt=2))
    assert (timeout.kind, timeout.delay, timeout.problem) == (Kind.RETRY, 4.0, "")


def test_the_first_policy_that_names_a_crash_limit_has_it() -> None:
    assert crash_limit(policies([Retry(2, on=OSError), Retry(crashes=5), Retry(crashes=1)])) == 5
    assert crash_limit(policies(4)) is None


@QUICK
@given(
    kind=st.sampled_from([Kind.RETRY, Kind.TIMEOUT, Kind.MEMORY, Kind.DEAD, Kind.DISCARDED]),
    delay=st.integers(0, 10**15),
    jitter=st.booleans(),
    counted=st.booleans(),
)
def test_a_fate_goes_through_a_word(kind: Kind, delay: int, jitter: bool, counted: bool) -> None:
    before = Fate(kind, delay / 1000, jitter, counted)
    word = before.pack()
    after = Fate.unpack(word)
    assert 0 <= word < 2**64
    assert after[:1] + after[2:] == before[:1] + before[2:]
    assert after.delay == min(before.delay, after.delay)


def test_a_word_of_an_older_worker_is_a_delay() -> None:
    assert Fate.unpack(1500) == Fate(Kind.RETRY, 1.5)


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_any_word_is_some_fate(word: int) -> None:
    assert Fate.unpack(word).kind is Kind.RETRY
