"""A whole process tree that was stopped for longer than its runs may last: the time does not count."""

from __future__ import annotations

import signal
import time

import pytest

from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill
from tests.support.waiting import stays

LEASE, TIMEOUT, KILL_AFTER = 2.0, 6.0, 1.0


@pytest.mark.parametrize("job", [program.until, program.until_with_the_gil], ids=["python", "gil"])
def test_a_lone_host_that_was_stopped_does_not_take_its_own_runs(mill: StartMill, job: object) -> None:
    """It was stopped until a lease after the hard limit, and runs on for longer than a lease."""
    running = mill(processes=2, timeout=TIMEOUT, kill_after=KILL_AFTER, supervisor=f"lease = {LEASE}")
    handle = job.enqueue("job", "go")  # type: ignore[attr-defined]
    running.wait_for("start", "job")
    running.up.send_tree(signal.SIGSTOP)
    time.sleep(TIMEOUT + KILL_AFTER + LEASE + 0.5)  # that is the fault
    running.up.send_tree(signal.SIGCONT)
    running.up.wait_log("supervisor.was_stopped")
    stays(lambda: running.count("start", "job") == 1, LEASE + 1.5)
    running.touch("go")
    assert handle.result(10) == "job"
    info = handle.info()
    assert (info.state, info.run, len(info.attempts)) == (State.COMPLETED, 1, 1)
    assert not {"stale", "recovered"} & running.counters().keys()
    running.up.stop()
