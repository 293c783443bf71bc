"""Many deaths in a short time, amid many jobs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter

import pytest

from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

JOBS = 3000


def _mixed(running: Mill) -> None:
    """Tiny jobs, with short ones among them."""
    drafts = [
        program.nap.job(f"nap{number}", random.uniform(0.0, 0.05)) if number % 30 == 11 else program.noop.job(number)
        for number in range(JOBS)
    ]
    running.app.enqueue_many(drafts)


def _runs(running: Mill) -> Counter[str]:
    """How often each job has begun."""
    return Counter(" ".join(line.split()[:2]) for line in [*running.lines("noop"), *running.lines("start")])


def _all_ended(running: Mill) -> bool:
    return running.counters().get("completed") == JOBS


def test_workers_killed_again_and_again(mill: StartMill) -> None:
    """A kill repeats at most the one job that it hit; no other one is lost or repeated."""
    running = mill(processes=3, crash_delay=0.05, crash_limit=10, supervisor="restart_intensity = 100")
    _mixed(running)
    killed = 0
    while not _all_ended(running) and killed < 25:
        running.wait_for("noop", count=min(100 * killed, JOBS // 2))
        for worker in running.up.workers()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed += 1
    wait_until(lambda: _all_ended(running), 30.0, lambda: f"{running.counters()}\n{running.up.log()[-3000:]}")
    runs = _runs(running)
    assert len(runs) == JOBS
    assert sum(runs.values()) - JOBS <= killed
    assert running.counters().get("crash", 0) <= killed
    assert not {"stale", "recovered", "dead"} & set(running.counters())
    running.up.stop()


def test_maintenance_killed_again_and_again(mill: StartMill) -> None:
    running = mill(processes=3, supervisor="lease = 4")
    _mixed(running)
    killed = 0
    while not _all_ended(running) and killed < 20:
        if maintenance := running.up.maintenance():
            with contextlib.suppress(ProcessLookupError):
                os.kill(maintenance, signal.SIGKILL)
                killed += 1
        running.wait_for("noop", count=min(120 * killed, JOBS // 2))
    wait_until(lambda: _all_ended(running), 30.0, lambda: f"{running.counters()}\n{running.up.log()[-3000:]}")
    assert set(_runs(running).values()) == {1}
    assert not {"stale", "recovered", "crash"} & set(running.counters())
    running.up.stop()


def test_everybody_is_stopped_and_continued_at_random(mill: StartMill) -> None:
    """Stops that are shorter than any bound: they cost time and nothing else."""
    running = mill(processes=3, supervisor="lease = 30")
    _mixed(running)
    for _ in range(40):
        if _all_ended(running):
            break
        everybody = [running.up.pid, *(process.pid for process in running.up.tree())]
        pid = random.choice(everybody)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            before = running.count("noop")
            with contextlib.suppress(AssertionError):
                running.wait_for("noop", count=min(before + 30, JOBS), timeout=0.2)
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: _all_ended(running), 30.0, lambda: f"{running.counters()}\n{running.up.log()[-3000:]}")
    assert set(_runs(running).values()) == {1}
    assert not {"stale", "recovered", "crash"} & set(running.counters())
    running.up.stop()
