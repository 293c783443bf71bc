"""The supervisor is killed: nothing of its tree survives, and the next one goes on at once."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill, lives
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


@pytest.mark.leaves_jobs
def test_no_child_and_no_grandchild_survives(mill: StartMill) -> None:
    running = mill(processes=2)
    program.with_child.enqueue("a")
    grandchild = int(running.wait_for("start", "a")[0].split()[3])
    family = running.up.tree()
    assert grandchild in {process.pid for process in family}
    assert len(family) >= 4
    os.kill(running.up.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(_alive, family)), 2.0, lambda: str([p for p in family if _alive(p)]))
    assert not lives(grandchild)
    running.up.wait()


def _alive(process: psutil.Process) -> bool:
    return lives(process.pid)


@pytest.mark.leaves_jobs
def test_workers_die_with_their_parent_even_without_maintenance(mill: StartMill) -> None:
    running = mill(processes=2)
    program.until.enqueue("job", "go")
    running.wait_for("start", "job")
    family, maintenance = running.up.tree(), running.up.maintenance()
    assert maintenance
    os.kill(maintenance, signal.SIGSTOP)
    os.kill(running.up.pid, signal.SIGKILL)
    os.kill(maintenance, signal.SIGKILL)
    wait_until(lambda: not any(map(_alive, family)), 2.0, lambda: str([p for p in family if _alive(p)]))
    running.up.wait()


def test_a_new_supervisor_recovers_at_once(mill: StartMill) -> None:
    running = mill(supervisor="lease = 30")
    handle = program.until.enqueue("job", "go")
    running.wait_for("start", "job")
    os.kill(running.up.pid, signal.SIGKILL)
    running.up.wait()
    started = time.monotonic()
    running.up.start()
    running.wait_for("start", "job", count=2, timeout=5.0)
    assert time.monotonic() - started < 4.0, "far less than the lease of 30 s, even on a busy machine"
    running.touch("go")
    assert handle.result(10) == "job"
    info = handle.info()
    assert (info.crashes, info.attempt, info.run) == (0, 1, 1) or info.crashes == 0
    running.up.stop()


def test_what_a_dead_tree_could_not_give_back_is_recovered_at_once(mill: StartMill) -> None:
    """The whole tree is killed at one stroke: nobody is left to give the job back."""
    running = mill(supervisor="lease = 30")
    handle = program.until.enqueue("job", "go")
    running.wait_for("start", "job")
    tree = [running.up.pid, *(process.pid for process in running.up.tree())]
    for pid in tree:
        os.kill(pid, signal.SIGSTOP)
    for pid in reversed(tree):
        os.kill(pid, signal.SIGKILL)
    running.up.wait()
    wait_until(lambda: not any(map(lives, tree)), 5.0)
    assert str(handle.status()) == "running"  # by a consumer whose process is gone
    running.up.start()
    running.wait_for("start", "job", count=2, timeout=5.0)
    running.touch("go")
    assert handle.result(10) == "job"
    assert handle.info().crashes == 0
    running.up.stop()
