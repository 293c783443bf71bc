"""How what a handler returns or raises becomes the end of its run."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from millstream import Discard, Fail, Millstream, Retry, RetryLater, Snooze, current_job
from millstream.protocol.envelope import Entry
from millstream.protocol.errors import (
    CancelRequested,
    Interruption,
    JobInterrupted,
    JobTimeout,
    LeaseLost,
    MillstreamError,
)
from millstream.protocol.scoreboard import Interrupt, Scoreboard, Word
from millstream.protocol.transitions import NOT_COUNTED, Kind, Outcome
from millstream.worker.execution import Execution, Run
from millstream.worker.signals import Signals

app = Millstream(redis_url="unix:///nowhere", prefix="t00000000:")


class Bench:
    """An execution without a worker around it."""

    def __init__(self) -> None:
        self.board = Scoreboard.create(1)
        self.record = self.board.records[0]
        self.signals = Signals(self.record)
        self.execution = Execution("host:g/0", self.signals, self.record.words)

    def run(self, function: Callable[..., Any], *args: Any, attempt: int = 0, **options: Any) -> Outcome | None:
        """Run a function as a job that has been counted `attempt` times before."""
        job = app.job(name=f"job-{random.getrandbits(64)}", **options)(function)
        entry = Entry("n1-0", "j", job.name, "q", list(args), {}, "normal", 1, attempt=attempt)
        return self.execution.run(Run(1, entry, job, 1_700_000_000_000, job.retry[0].attempts))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.execution.close()
    for descriptor in (made.board.descriptor, made.signals.wakeup, made.signals._write_end):
        os.close(descriptor)


def raiser(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


ENDS: list[tuple[BaseException, dict[str, Any], Kind | None, str | None]] = [
    (ValueError("no"), {}, Kind.RETRY, "error"),
    (ValueError("no"), {"retry": 1}, Kind.DEAD, "error"),
    (ValueError("no"), {"retry": 4, "attempt": 3}, Kind.DEAD, "error"),
    (ValueError("no"), {"retry": Retry(on=OSError)}, Kind.DEAD, "error"),
    (OSError("no"), {"retry": Retry(on=OSError)}, Kind.RETRY, "error"),
    (KeyError("no"), {"retry": Retry(discard_on=KeyError)}, Kind.DISCARDED, "error"),
    (RetryLater("later", delay=5), {}, Kind.RETRY, "error"),
    (RetryLater("later"), {"retry": 1}, Kind.DEAD, "error"),
    (Snooze(5), {}, Kind.RELEASE, None),
    (Discard("old"), {}, Kind.DISCARDED, "error"),
    (Fail("bad"), {}, Kind.DEAD, "error"),
    (JobTimeout("late"), {}, Kind.RETRY, "timeout"),
    (JobTimeout("late"), {"retry": 1}, Kind.DEAD, "timeout"),
    (JobInterrupted("stop"), {}, Kind.RELEASE, None),
    (CancelRequested("cancel"), {}, Kind.CANCELLED, "cancelled"),
    (LeaseLost("lost"), {}, None, None),
    (SystemExit(3), {}, Kind.RETRY, "exit"),
    (KeyboardInterrupt(), {}, Kind.RETRY, "error"),
    (GeneratorExit(), {}, Kind.RETRY, "error"),
]


@pytest.mark.parametrize(("error", "options", "kind", "cause"), ENDS)
def test_what_is_raised(
    bench: Bench, error: BaseException, options: dict[str, Any], kind: Kind | None, cause: str | None
) -> None:
    outcome = bench.run(raiser(error), **options)
    assert (outcome and outcome.kind) == kind
    if outcome is None or cause is None:
        assert outcome is None or outcome.row == b""
        return
    row = orjson.loads(outcome.row)
    assert row["c"] == cause
    assert row["e"]["type"] == type(error).__name__
    assert row["a"] == options.get("attempt", 0) + 1
    assert "in function" in row["e"]["traceback"]


def test_delays_that_were_asked_for(bench: Bench) -> None:
    later = bench.run(raiser(RetryLater(delay=5)))
    snoozed = bench.run(raiser(Snooze(7)))
    assert later and snoozed
    assert (later.number, snoozed.number) == (5000, 7000)
    for _ in range(20):
        retried = bench.run(raiser(ValueError()), attempt=2, retry=Retry(attempts=9, delay=1))
        assert retried and 1 <= retried.number <= 4000


RESULTS: list[tuple[Any, Kind, str | None]] = [
    ({"a": [1, None]}, Kind.COMPLETED, None),
    (None, Kind.COMPLETED, None),
    ({1}, Kind.DEAD, "result is not JSON: set has no JSON form"),
    (float("nan"), Kind.DEAD, "result is not JSON: nan has no JSON form"),
    ("x" * 2**20, Kind.DEAD, "is 1,048,578 bytes, the limit is 1,048,576"),
]


@pytest.mark.parametrize(("value", "kind", "message"), RESULTS, ids=["object", "none", "set", "nan", "large"])
def test_what_is_returned(bench: Bench, value: Any, kind: Kind, message: str | None) -> None:
    outcome = bench.run(lambda: value)
    assert outcome and outcome.kind == kind
    row = orjson.loads(outcome.row)
    assert row.get("r") == (value if kind is Kind.COMPLETED else None)
    if message:
        assert row["c"] == "result"
        assert message in row["e"]["message"]
    assert len(outcome.row) < 5000


def test_a_cyclic_result_ends_only_its_job(bench: Bench) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    outcome = bench.run(lambda: cycle)
    assert outcome and outcome.kind == Kind.DEAD


def test_texts_are_bounded_and_clean(bench: Bench) -> None:
    outcome = bench.run(raiser(ValueError("\ud800" + "x" * 100_000)))
    assert outcome
    error = orjson.loads(outcome.row)["e"]
    assert len(error["message"]) < 2100
    assert len(error["traceback"]) < 8200
    assert error["message"].startswith("\\ud800x")
    assert "characters left out" in error["message"]


def test_deep_recursion_ends_only_its_job(bench: Bench) -> None:
    def deep() -> None:
        deep()

    outcome = bench.run(deep)
    assert outcome and outcome.kind == Kind.RETRY
    assert orjson.loads(outcome.row)["e"]["type"] == "RecursionError"


def test_an_exception_that_cannot_be_shown_ends_only_its_job(bench: Bench) -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    outcome = bench.run(raiser(Rude()))
    assert outcome is not None
    assert outcome.kind in (Kind.RETRY, Kind.DEAD)


def test_the_current_job_is_known_inside_only(bench: Bench) -> None:
    seen: list[Any] = []
    bench.run(lambda: seen.append(current_job()))
    assert (seen[0].id, seen[0].queue, seen[0].attempt, seen[0].run) == ("j", "q", 1, 1)
    with pytest.raises(MillstreamError, match="works only inside a running job"):
        current_job()


def test_async_handlers_share_a_loop(bench: Bench) -> None:
    loops: list[object] = []

    async def handler(value: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return value + 1

    first, second = bench.run(handler, 1), bench.run(handler, 2)
    assert first and second
    assert orjson.loads(first.row)["r"] == 2
    assert orjson.loads(second.row)["r"] == 3
    assert loops[0] is loops[1]


KINDS = [
    (Interrupt.TIMEOUT, JobTimeout),
    (Interrupt.DRAIN, JobInterrupted),
    (Interrupt.CANCEL, CancelRequested),
    (Interrupt.LEASE_LOST, LeaseLost),
]


@pytest.mark.parametrize(("interrupt", "error"), KINDS)
def test_an_interruption_is_raised_in_the_run_that_it_is_meant_for(
    bench: Bench, interrupt: Interrupt, error: type[Interruption]
) -> None:
    before = signal.signal(signal.SIGUSR2, bench.signals._on_usr2)
    caught: list[BaseException] = []

    def handler() -> None:
        bench.record.words[Word.INTERRUPT] = interrupt
        bench.record.words[Word.INTERRUPT_RUN] = 2
        os.kill(os.getpid(), signal.SIGUSR2)  # for another run: nothing happens
        bench.record.words[Word.INTERRUPT_RUN] = 1
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        except BaseException as raised:
            caught.append(raised)

    try:
        outcome = bench.run(handler)
        os.kill(os.getpid(), signal.SIGUSR2)  # after its end: nothing happens
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert [type(raised) for raised in caught] == [error]
    assert not issubclass(error, Exception), "`except Exception` does not swallow it"
    assert outcome and outcome.kind == Kind.COMPLETED


@pytest.mark.parametrize(("interrupt", "error"), KINDS)
@pytest.mark.parametrize("where", ["the coroutine", "the loop's callback", "the loop's wait"])
def test_an_interruption_reaches_a_coroutine_by_its_name(
    bench: Bench, interrupt: Interrupt, error: type[Interruption], where: str
) -> None:
    before = signal.signal(signal.SIGUSR2, bench.signals._on_usr2)
    caught: list[BaseException] = []

    async def handler() -> str:
        bench.record.words[Word.INTERRUPT] = interrupt
        bench.record.words[Word.INTERRUPT_RUN] = 1
        try:
            if where == "the coroutine":
                os.kill(os.getpid(), signal.SIGUSR2)
            elif where == "the loop's callback":
                asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR2)
            else:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            await asyncio.wait_for(asyncio.Event().wait(), 10)
        except error as raised:
            caught.append(raised)
            await asyncio.sleep(0)  # what cleans up may wait
        return "cleaned"

    async def cancelled() -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def job_id() -> int:
        return current_job().attempt

    try:
        first = bench.run(handler)
        second = bench.run(cancelled)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert first and second
    assert (len(caught), orjson.loads(first.row)["r"]) == (1, "cleaned")
    assert orjson.loads(second.row)["e"]["type"] == "CancelledError", "a cancellation of its own stays one"
    third = bench.run(job_id, attempt=2)
    assert third and orjson.loads(third.row)["r"] == 3, "each run sees its own job"


def test_a_deadline_that_comes_before_the_next_run_makes_no_attempt_of_what_is_counted_apart(bench: Bench) -> None:
    job = app.job(name="late", retry=Retry(3, timeouts=3, delay=60, jitter=False))(raiser(JobTimeout("late")))
    entry = Entry("n1-0", "j", job.name, "q", [], {}, "normal", 1, expires=1_700_000_030_000)
    outcome = bench.execution.run(Run(1, entry, job, 1_700_000_000_000, 3))
    assert outcome is not None
    assert (outcome.kind, outcome.number, orjson.loads(outcome.row)["a"]) == (Kind.DEAD, NOT_COUNTED, 0)


def test_settling_may_find_that_a_deadline_is_over_and_is_told_whether_to_tell_of_it(bench: Bench) -> None:
    job = app.job(name="close", retry=Retry(3, delay=1, jitter=False), on_dead=print)(raiser(ValueError("no")))
    entry = Entry("n1-0", "j", job.name, "q", [], {}, "normal", 1, expires=1_700_000_030_000)
    outcome = bench.execution.run(Run(1, entry, job, 1_700_000_000_000, 3))
    assert outcome is not None
    assert (outcome.kind, outcome.row.endswith(b',"h":1}')) == (Kind.RETRY, True)
