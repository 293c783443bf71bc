"""Cancelling: what waits never starts, what runs is interrupted or killed, what was accepted holds."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from millstream.protocol.errors import JobCancelled
from millstream.protocol.handle import Handle
from millstream.protocol.info import JobInfo, State
from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill
from tests.support.servers import Kind
from tests.support.waiting import wait_until

ONE_SERVER = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def _wait(handle: Handle[Any], state: State, timeout: float = 10.0) -> JobInfo:
    wait_until(lambda: handle.status() is state, timeout, lambda: str(handle.info()))
    return handle.info()


def test_cancel_a_waiting_a_delayed_and_a_running_job(mill: StartMill) -> None:
    running = mill()
    active = program.nap.enqueue("active", 60)
    running.wait_for("start", "active")
    (worker,) = running.up.workers()
    waiting, delayed = program.noop.enqueue(1), program.noop.using(delay=60).enqueue(2)
    for handle in (waiting, delayed):
        assert handle.cancel()
        assert handle.status() is State.CANCELLED
        assert not handle.cancel(), "it has ended"
        with pytest.raises(JobCancelled):
            handle.result(1)
    begun = time.monotonic()
    assert active.cancel()
    with pytest.raises(JobCancelled):
        active.result(5)
    assert time.monotonic() - begun < 3.0
    info = active.info()
    assert info.error is not None
    assert (info.error.type, info.error.cause) == ("CancelRequested", "cancelled")
    assert running.up.workers() == [worker]
    assert running.count("noop") == 0
    running.up.stop()


def test_cancel_a_job_that_hears_nothing(mill: StartMill) -> None:
    running = mill(kill_after=0.5)
    deaf = program.busy.enqueue("deaf", 10**12)
    running.wait_for("start", "deaf")
    assert deaf.cancel()
    assert program.add.enqueue(1).result(10) == 3
    info = _wait(deaf, State.CANCELLED)
    assert info.error is not None
    assert (info.error.cause, info.crashes) == ("cancelled", 0)
    running.up.stop()


def test_cancel_a_job_that_waits_in_a_batch(mill: StartMill) -> None:
    """It was fetched but not started: a cancellation that was accepted must hold."""
    running = mill()
    running.app.enqueue_many(program.noop.job(number) for number in range(600))
    running.wait_for("noop", count=600)
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    handles = running.app.enqueue_many(
        [program.until.job("gate", "go"), program.noop.job(1000), program.noop.job(1001)]
    )
    running.up.send(signal.SIGCONT)
    running.wait_for("start", "gate")
    assert handles[1].cancel()
    _wait(handles[1], State.CANCELLED)
    running.touch("go")
    running.wait_for("noop", 1001)
    assert running.count("noop", 1000) == 0
    running.up.stop()


def test_a_cancelled_job_that_fails_instead_is_not_retried(mill: StartMill) -> None:
    running = mill()
    handle = program.stubborn.enqueue()
    running.wait_for("start", "stubborn")
    assert handle.cancel()
    _wait(handle, State.CANCELLED)
    assert program.add.enqueue(1).result(5) == 3
    assert running.count("start") == 1
    running.up.stop()


def test_a_cancelled_job_whose_worker_is_killed_does_not_run_again(mill: StartMill) -> None:
    running = mill(kill_after=30)
    handle = program.busy.enqueue("deaf", 10**12)
    running.wait_for("start", "deaf")
    assert handle.cancel()
    os.kill(running.up.workers()[0], signal.SIGKILL)
    _wait(handle, State.CANCELLED)
    assert program.add.enqueue(1).result(5) == 3
    assert running.count("start") == 1
    running.up.stop()


@ONE_SERVER
def test_a_cancellation_while_maintenance_is_away_is_heard_later(mill: StartMill) -> None:
    running = mill(supervisor="lease = 4")
    handle = program.nap.enqueue("long", 60)
    running.wait_for("start", "long")
    maintenance = running.up.maintenance()
    assert maintenance
    os.kill(maintenance, signal.SIGSTOP)
    assert handle.cancel()
    _wait(handle, State.CANCELLED)
    running.up.stop()


@ONE_SERVER
def test_a_cancellation_that_meets_the_start_is_not_missed(mill: StartMill) -> None:
    """Between its delivery and its start a job is in no record; whoever cancels it then is heard all the same."""
    running = mill(processes=2)
    for number in range(100):
        handle = program.nap.enqueue(f"nap{number}", 60)
        end = time.perf_counter() + random.uniform(0, 0.002)
        while time.perf_counter() < end:
            pass
        assert handle.cancel()
        _wait(handle, State.CANCELLED)
    running.up.stop()
