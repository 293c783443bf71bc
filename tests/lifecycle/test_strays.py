"""What handlers start dies with their worker, wherever it has gone: another session, no parent, no program."""

from __future__ import annotations

import os
import signal
import time

import pytest

from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill, lives
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.leaves_jobs, pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)]

WAYS = 4
"""How many processes a job starts."""

PROMPTLY = 1.0
"""Seconds: the promise is 250 ms; a machine that others use as well may take longer."""


def strays_of(running: Mill, name: str) -> list[int]:
    """The pids of what a job has started, one for each of the ways, once all of them are orphans or leaders."""
    notes = running.wait_for("start", name)[-1].split()
    running.wait_for("stray", name, count=WAYS)
    pids = [int(line.split()[2]) for line in running.lines("stray", name)]
    assert all(map(lives, pids))
    worker = int(notes[2])
    wait_until(lambda: worker not in map(os.getpgid, pids), 5.0)  # they have left its group
    return pids


def assert_dead(running: Mill, pids: list[int], within: float = PROMPTLY) -> None:
    wait_until(
        lambda: not any(map(lives, pids)), within, lambda: f"{[p for p in pids if lives(p)]}\n{running.up.log()}"
    )


def test_they_die_at_the_hard_deadline(mill: StartMill) -> None:
    running = mill(kill_after=0.5, timeout=1.5)
    handle = program.stray.enqueue("one", "hang")
    pids = strays_of(running, "one")
    wait_until(lambda: not lives(int(running.lines("start", "one")[0].split()[2])), 10.0, running.up.log)
    assert_dead(running, pids)
    wait_until(lambda: handle.status() is State.DEAD, 10.0, running.up.log)
    running.up.stop()


def test_they_die_with_a_worker_that_crashes(mill: StartMill) -> None:
    running = mill()
    program.stray.enqueue("one", "crash")
    pids = strays_of(running, "one")
    running.touch("go")
    running.up.wait_log("SIGSEGV")
    assert_dead(running, pids)
    running.up.stop()


def test_they_die_at_the_memory_limit(mill: StartMill) -> None:
    running = mill(memory_limit='"200MiB"')
    handle = program.stray.enqueue("one", "memory")
    pids = strays_of(running, "one")
    running.touch("go")
    running.up.wait_log('"cause":"memory"')
    assert_dead(running, pids)
    wait_until(lambda: handle.status() is State.DEAD, 10.0, running.up.log)
    running.up.stop()


def test_they_die_with_a_worker_that_is_replaced(mill: StartMill) -> None:
    running = mill()
    handle = program.stray.enqueue("one", "return")
    pids = strays_of(running, "one")
    running.touch("go")
    handle.result(10)
    assert all(map(lives, pids)), "the end of the job ends nothing"
    os.kill(running.up.workers()[0], signal.SIGTERM)
    running.up.wait_log('"cause":"clean"')
    assert_dead(running, pids)
    running.up.stop()


def test_they_die_when_the_supervisor_is_drained(mill: StartMill) -> None:
    running = mill()
    handle = program.stray.enqueue("one", "return")
    pids = strays_of(running, "one")
    running.touch("go")
    handle.result(10)
    begin = time.monotonic()
    running.up.send(signal.SIGTERM)
    assert running.up.wait() == 0
    assert not [pid for pid in pids if lives(pid)], "the supervisor is the last to go"
    assert time.monotonic() - begin < 5.0


def test_they_die_when_the_supervisor_is_killed(mill: StartMill) -> None:
    running = mill(processes=2)
    program.stray.enqueue("one", "hang")
    program.stray.enqueue("two", "return")
    pids = strays_of(running, "one") + strays_of(running, "two")
    os.kill(running.up.pid, signal.SIGKILL)
    assert_dead(running, pids, within=2.0)
    running.up.wait()


def test_the_next_supervisor_kills_what_was_left_when_all_were_killed(mill: StartMill) -> None:
    """Except what still holds the lock: a fork that has kept the descriptors that it has inherited."""
    running = mill()
    program.stray.enqueue("one", "hang")
    pids = strays_of(running, "one")
    workers = set(running.up.workers()) - set(pids)  # one of them has kept the title
    tree = [running.up.pid, running.up.maintenance(), *workers]
    for pid in tree:
        os.kill(pid or 0, signal.SIGSTOP)
    for pid in reversed(tree):
        os.kill(pid or 0, signal.SIGKILL)
    running.up.wait()
    assert all(map(lives, pids))
    running.up.start()
    assert_dead(running, pids)
    running.up.stop()


def test_they_die_with_an_old_worker_after_a_reload(mill: StartMill) -> None:
    running = mill()
    handle = program.stray.enqueue("one", "return")
    pids = strays_of(running, "one")
    running.up.send(signal.SIGHUP)
    running.up.wait_log("reload.taken_over", 30.0)
    assert all(map(lives, pids)), "the worker still runs its job"
    running.touch("go")
    handle.result(20)
    running.up.wait_log("reload.done", 30.0)
    assert_dead(running, pids)
    running.up.stop()


def test_those_of_a_living_worker_are_left_alone(mill: StartMill) -> None:
    running = mill(processes=2)
    kept = program.stray.enqueue("kept", "return")
    pids = strays_of(running, "kept")
    program.stray.enqueue("gone", "crash")
    gone = strays_of(running, "gone")
    running.touch("go")
    assert_dead(running, gone, within=10.0)
    kept.result(10)
    assert all(map(lives, pids))
    running.up.stop()
    assert not any(map(lives, pids))


def test_what_bears_no_mark_is_left_alone(mill: StartMill) -> None:
    running = mill()
    program.unmarked.enqueue().result(10)
    (line,) = running.wait_for("unmarked")
    worker, child = map(int, line.split()[1:])
    os.kill(worker, signal.SIGKILL)
    running.up.wait_log('"signal":"SIGKILL"')
    running.up.send(signal.SIGTERM)
    assert running.up.wait() == 0
    assert lives(child)
    os.kill(child, signal.SIGKILL)
