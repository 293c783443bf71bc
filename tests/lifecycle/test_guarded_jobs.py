"""Unique jobs, jobs that expire and delayed ones through a real supervisor."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millstream import Handle, Job, JobCancelled, JobExpired, JobFailed, State
from millstream.protocol import control
from millstream.protocol.link import Link
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.acl import as_role
from tests.support.waiting import wait_until


def held(running: Mill) -> list[str]:
    """The locks that exist."""
    link = Link(as_role(running.app.client.url, "admin"))
    found = link.execute("KEYS", running.app.queue_keys("default").uniques + "*")
    link.close()
    return [key.decode() for key in found]


def is_held(job: Job[..., Any], *args: object) -> bool:
    """Whether another enqueue of the same call is told of a holder. Enqueues nothing where it is."""
    return not job.enqueue(*args).created


def bury(running: Mill, handle: Handle[Any]) -> None:
    """Delete a dead job."""
    assert control.delete_dead(running.operator, running.app.queue_keys("default"), [handle.id]) == 1


def over(handle: Handle[Any]) -> bool:
    expires = handle.info().expires_at
    return expires is not None and datetime.now(UTC) > expires + timedelta(milliseconds=50)


def test_a_job_that_is_met_after_its_deadline_is_not_started(mill: StartMill) -> None:
    running = mill()
    program.until.enqueue("gate", "go")
    running.wait_for("start", "gate")
    late = program.noop.using(expires_in=0.2).enqueue(1)
    ended = program.noop.using(expires_in=60).enqueue(2)
    wait_until(lambda: over(late))
    running.touch("go")
    with pytest.raises(JobExpired, match="was not started before its deadline"):
        late.result(10)
    ended.result(10)
    assert running.lines("noop") == ["noop 2"]
    info = late.info()
    assert info.error is not None
    assert (info.state, info.error.cause, info.attempt) == (State.EXPIRED, "deadline", 0)
    assert running.counters()["expired"] == 1
    running.up.wait_log("job.expired")
    running.up.stop()


def test_a_deadline_cuts_retries(mill: StartMill) -> None:
    """The next run would be due in a minute."""
    running = mill()
    handle = program.fail_slowly.using(expires_in=30).enqueue("no")
    with pytest.raises(JobFailed, match="ValueError: no"):
        handle.result(10)
    info = handle.info()
    bury(running, handle)
    assert (info.state, info.attempt, info.error and info.error.cause) == (State.DEAD, 1, "error")
    running.up.stop()


def test_a_key_is_held_while_its_job_lives_whatever_becomes_of_its_worker(mill: StartMill) -> None:
    running = mill()
    unique = program.until.using(unique_for=60)
    first = unique.enqueue("x", "go")
    running.wait_for("start", "x")
    second = unique.enqueue("x", "go")
    assert (second.created, second.id) == (False, first.id)
    os.kill(running.up.workers()[0], signal.SIGKILL)
    running.wait_for("start", "x", count=2)
    assert is_held(unique, "x", "go"), "it runs again"
    running.touch("go")
    assert second.result(10) == first.result(10) == "x"
    assert held(running) == []
    assert unique.enqueue("x", "go").result(10) == "x"
    running.up.stop()


def test_a_key_that_is_held_until_the_start(mill: StartMill) -> None:
    running = mill()
    unique = program.until.using(unique_for=60, unique_until="started")
    first = unique.enqueue("x", "go")
    running.wait_for("start", "x")
    waiting = unique.enqueue("x", "go")
    assert waiting.created, "one runs"
    assert is_held(unique, "x", "go"), "one waits"
    running.touch("go")
    assert (first.result(10), waiting.result(10)) == ("x", "x")
    assert held(running) == []
    running.up.stop()


def test_whatever_ends_a_job_frees_its_key(mill: StartMill) -> None:
    """Dead by failure, cancelled by the kill path while it holds the GIL, cancelled while it waits."""
    running = mill(kill_after=0.5)
    busy = program.busy.using(unique_for=60)
    deaf = busy.enqueue("deaf", 10**12)
    running.wait_for("start", "deaf")
    delayed = program.noop.using(unique_for=60, delay=60).enqueue(1)
    assert len(held(running)) == 2
    assert delayed.cancel()
    assert len(held(running)) == 1
    assert deaf.cancel()
    with pytest.raises(JobCancelled):
        deaf.result(10)
    failing = program.fail.using(unique_for=60).enqueue("no")
    with pytest.raises(JobFailed):
        failing.result(10)
    assert held(running) == []
    bury(running, failing)
    running.up.stop()


def test_a_delayed_job_starts_on_time_where_nothing_else_happens(mill: StartMill) -> None:
    running = mill()
    lateness = []
    for number in range(9):
        handle = program.add.using(delay=0.4 + number / 50).enqueue(1)
        due = handle.info().due_at
        assert handle.result(10) == 3
        started = handle.info().started_at
        assert due is not None
        assert started is not None
        assert started >= due - timedelta(milliseconds=1)
        lateness.append(started - due)
    assert sorted(lateness)[4] < timedelta(milliseconds=200), lateness
    running.up.stop()
