"""While the supervisor executes itself nobody ticks: leases go on, for a while."""

from __future__ import annotations

import os
import signal
import time

import pytest

from millstream.supervisor.maintenance import urgent
from tests.lifecycle.conftest import StartReloading
from tests.lifecycle.reloading import Reloading, code, executing, toml
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

LEASE = 1.0


def stop_in_execution(running: Reloading) -> None:
    """HUP, and stop the supervisor in the middle of its execution: as imports on a machine that is busy."""
    running.deploy(code("two"))
    running.hup()
    wait_until(lambda: executing(running.pid), 20.0, running.up.log, interval=0.001)
    os.kill(running.pid, signal.SIGSTOP)
    assert "reload.taken_over" not in running.up.log()


def recovered(running: Reloading) -> int:
    return running.counters().get("recovered", 0)


def test_leases_do_not_end_while_the_new_code_is_imported(reloading: StartReloading) -> None:
    running = reloading(toml(f"lease = {LEASE}"))
    long = running.begin("long")
    stop_in_execution(running)
    time.sleep(urgent.SUPERVISOR_SILENT + 2 * LEASE)  # the time itself, not a synchronisation
    assert recovered(running) == 0
    os.kill(running.pid, signal.SIGCONT)
    running.wait_event("reload.done")
    running.touch("go")
    assert long.result(10) == "one"
    assert running.count("start", "long") == 1
    assert running.runs() == "two"
    assert recovered(running) == 0
    running.up.stop()


@pytest.mark.slow
def test_a_supervisor_that_hangs_in_its_execution_loses_its_leases(reloading: StartReloading) -> None:
    running = reloading(toml(f"lease = {LEASE}"))
    long = running.begin("long")
    stop_in_execution(running)
    stopped = time.monotonic()
    wait_until(lambda: recovered(running) == 1, urgent.EXECUTING + 3 * LEASE + 2.0, running.up.log)
    assert time.monotonic() - stopped > urgent.EXECUTING - 2.0
    os.kill(running.pid, signal.SIGCONT)
    running.wait_event("reload.done")
    running.touch("go")
    assert long.result(10) in ("one", "two"), "whoever was free"
    assert running.count("start", "long") >= 2, "also the worker that got it then was in nobody's care"
    running.up.stop()
