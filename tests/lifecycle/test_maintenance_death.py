"""Maintenance is killed or hangs: it is replaced, no lease lapses, no job runs twice."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import pytest
from redis import Redis

from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

LEASE = 3.0
BOUND = max(1.0, LEASE / 6)


def _replaced(running: Mill, old: int) -> int | None:
    new = running.up.maintenance()
    return new if new not in (None, old) else None


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_stopped_maintenance_is_replaced(mill: StartMill, signum: signal.Signals) -> None:
    running = mill(processes=2, supervisor=f"lease = {LEASE}")
    handle = program.nap.enqueue("long", 8)
    running.wait_for("start", "long")
    running.app.enqueue_many(program.noop.job(number) for number in range(100))
    for _round in range(2):
        old = running.up.maintenance()
        assert old is not None
        struck = time.monotonic()
        os.kill(old, signum)
        wait_until(lambda old=old: _replaced(running, old), 5.0, running.up.log)  # type: ignore[misc]
        took = time.monotonic() - struck
        assert took < (BOUND + 1.0 if signum == signal.SIGSTOP else 1.0)
        assert not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE
    assert handle.result(20) == "long"
    info = handle.info()
    assert (info.run, info.crashes, len(info.attempts)) == (1, 0, 1)
    assert running.count("start", "long") == 1
    assert sorted(running.lines("noop")) == sorted(f"noop {number}" for number in range(100))
    assert not {"recovered", "stale", "release"} & set(running.counters())
    running.up.stop()


def test_leases_of_a_job_longer_than_the_lease_are_renewed(mill: StartMill) -> None:
    """With a job that holds the GIL all the time, so that the worker itself could not renew anything."""
    running = mill(processes=2, supervisor="lease = 1")
    program.busy.enqueue("gil", 2 * 10**8)
    running.wait_for("end", "gil", timeout=60.0)
    assert running.count("start", "gil") == 1
    running.up.stop()


def test_what_a_dead_worker_got_late_is_found_by_the_next_maintenance(mill: StartMill, redis: Redis) -> None:
    """The one before meant to look at that consumer again; it is long before the lease is over."""
    running = mill()
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    handle = program.add.enqueue(1)
    (host,) = json.loads(running.up.command("ps", "--json").stdout)
    stream = running.app.queue_keys("default").stream("normal")
    dead = f"{host['instance']}:default/9:99"
    redis.xreadgroup("millstream", dead, {stream: ">"}, count=1)
    old = running.up.maintenance()
    os.kill(old or 0, signal.SIGKILL)
    wait_until(lambda: _replaced(running, old or 0), 5.0)
    running.up.send(signal.SIGCONT)
    assert handle.result(15) == 3
    running.up.stop()
