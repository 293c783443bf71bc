"""Two supervisors on one queue: takeover after a lease, late settles, names."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from millstream.protocol.handle import Handle
from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.servers import Kind
from tests.support.waiting import wait_until

LEASE = 2.0


def _settings(name: str) -> str:
    return f'name = "{name}"\nlease = {LEASE}'


def _two_hosts_the_first_busy(mill: StartMill) -> tuple[Mill, Mill, Handle[str]]:
    """Both are up; the first one runs a job that ends when somebody touches ``go`` there."""
    first, second = mill(supervisor=_settings("a")), mill(supervisor=_settings("b"))
    second.up.send(signal.SIGTSTP)
    second.up.wait_log("SIGTSTP")
    handle = program.until.enqueue("job", "go")
    first.wait_for("start", "job")
    second.up.send(signal.SIGCONT)
    return first, second, handle


def test_a_stopped_host_loses_its_job_and_its_late_settle_changes_nothing(mill: StartMill) -> None:
    first, second, handle = _two_hosts_the_first_busy(mill)
    first.up.send_tree(signal.SIGSTOP)
    stopped = time.monotonic()
    second.wait_for("start", "job", timeout=LEASE + 10)
    assert LEASE - 0.8 <= time.monotonic() - stopped <= LEASE + 2.0, "the lease, renewed a moment before, + 2 s"
    assert "job" not in " ".join(first.lines("end"))
    second.touch("go")
    assert handle.result(10) == "job"
    before = handle.info()

    first.touch("go")
    first.up.send_tree(signal.SIGCONT)
    first.wait_for("end", "job")
    wait_until(lambda: first.counters().get("stale", 0) >= 1, 10.0, first.up.log)
    after = handle.info()
    assert after == before
    assert (after.state, len(after.attempts), after.attempts[0].worker) == (State.COMPLETED, 1, "b:default/0")
    assert first.counters()["completed"] == 1
    assert first.counters()["recovered"] == 1
    again = [program.add.enqueue(number) for number in range(20)]
    assert [handle.result(10) for handle in again] == list(range(2, 22)), "both go on working"
    first.up.stop()
    second.up.stop()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_a_handler_that_lost_its_lease_hears_of_it(mill: StartMill) -> None:
    """It goes on for long after the takeover: it is interrupted, and what it does is not recorded."""
    first, second, handle = _two_hosts_the_first_busy(mill)
    first.up.send_tree(signal.SIGSTOP)
    second.wait_for("start", "job", timeout=LEASE + 10)
    first.up.send_tree(signal.SIGCONT)
    first.up.wait_log("job.lease_lost")
    second.touch("go")
    assert handle.result(10) == "job"
    assert first.count("end") == 0
    assert handle.info().attempts[0].worker == "b:default/0"
    first.up.stop()
    second.up.stop()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_a_killed_host_is_taken_over_within_its_lease(mill: StartMill) -> None:
    first, second, handle = _two_hosts_the_first_busy(mill)
    tree = [psutil.Process(first.up.pid), *first.up.tree()]
    for process in tree:
        os.kill(process.pid, signal.SIGSTOP)  # at one stroke: maintenance must not clean up
    killed = time.monotonic()
    for process in reversed(tree):
        os.kill(process.pid, signal.SIGKILL)
    first.up.wait()
    second.wait_for("start", "job", timeout=LEASE + 10)
    assert time.monotonic() - killed <= LEASE + 2.0
    second.touch("go")
    assert handle.result(10) == "job"
    info = handle.info()
    assert (info.crashes, info.attempt) == (0, 1), "an expired lease is not a crash"
    second.up.stop()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_two_hosts_share_a_queue(mill: StartMill) -> None:
    first, second = mill(supervisor=_settings("a")), mill(supervisor=_settings("b"))
    handles = [program.nap.enqueue(f"nap{number}", 0.05) for number in range(30)]
    for number, handle in enumerate(handles):
        assert handle.result(10) == f"nap{number}"
    assert first.count("start") + second.count("start") == 30
    assert first.count("start") > 5
    assert second.count("start") > 5
    first.up.stop()
    second.up.stop()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_a_live_name_is_not_shared(mill: StartMill) -> None:
    running = mill(supervisor='name = "one"')
    second = running.up.command("up")
    assert second.returncode == 75
    assert second.stderr == (
        "millstream: a supervisor named 'one' runs on this machine already; "
        "give this one another name: supervisor.name or MILLSTREAM_SUPERVISOR__NAME\n"
    )
    assert program.add.enqueue(1).result(5) == 3
    running.up.stop()
    again = mill(supervisor='name = "one"')
    again.up.stop()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_a_name_that_lives_elsewhere_is_not_shared(mill: StartMill) -> None:
    """Another machine, as far as one can see from here: the lock is in another folder."""
    running = mill(supervisor='name = "one"')
    elsewhere = running.up.folder / "elsewhere"
    elsewhere.mkdir()
    running.up._env["XDG_RUNTIME_DIR"] = str(elsewhere)
    second = running.up.command("up")
    assert second.returncode == 75, second.stderr
    assert f"(pid {running.up.pid}) has the name 'one'; give this one another name" in second.stderr
    assert program.add.enqueue(1).result(5) == 3
    running.up.stop()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_a_supervisor_whose_name_was_taken_leaves(mill: StartMill) -> None:
    """It was stopped for longer than its lease; another machine has its name by now."""
    first = mill(supervisor=_settings("one"))
    first.up.send_tree(signal.SIGSTOP)
    elsewhere = first.up.folder / "elsewhere"
    elsewhere.mkdir()
    time.sleep(LEASE)  # the lease itself, not a synchronisation
    second = mill(supervisor=_settings("one"), env={"XDG_RUNTIME_DIR": str(elsewhere)})
    first.up.send_tree(signal.SIGCONT)
    assert first.up.wait(15.0) == 75
    assert "supervisor.name_lost" in first.up.log()
    assert program.add.enqueue(1).result(5) == 3
    second.up.stop()
