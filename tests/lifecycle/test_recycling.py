"""Workers that are replaced: after so many jobs, above so much memory, because they cannot start; preloading."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from itertools import accumulate

import psutil
import pytest

from millstream.protocol.info import State
from millstream.protocol.scoreboard import Header
from millstream.supervisor.restart import HEALTHY
from ops.benchmarks.deadlines import open_board
from tests.lifecycle import program
from tests.lifecycle.conftest import PROGRAM, StartMill
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def test_workers_are_recycled_without_losing_a_job(mill: StartMill) -> None:
    running = mill(processes=2, max_jobs=100)
    sent, end = 0, time.monotonic() + 30
    while running.count("worker_start") < 6 and time.monotonic() < end:  # one is replaced while the other one works
        running.app.enqueue_many(program.noop.job(number) for number in range(sent, sent + 300))
        sent += 300
        wait_until(lambda: running.counters().get("completed") == sent, 20.0, running.up.log)  # noqa: B023
    assert Counter(running.lines("noop")) == Counter(f"noop {number}" for number in range(sent))
    assert running.count("worker_start") >= 6
    assert running.count("worker_stop") >= running.count("worker_start") - 2, "each ended in good order"
    assert not {"stale", "recovered", "crash"} & set(running.counters())
    assert "degraded" not in running.up.log()
    running.up.stop()


@pytest.mark.leaves_jobs
def test_a_job_beyond_the_memory_limit_is_killed(mill: StartMill) -> None:
    running = mill(memory_limit='"200MiB"')
    handle = program.fill_memory.enqueue(300)
    wait_until(lambda: handle.status() is State.DEAD, 10.0, running.up.log)
    info = handle.info()
    assert info.error is not None
    assert (info.error.cause, info.error.signal) == ("memory", "SIGKILL")
    assert "in fill_memory" in info.error.stack
    assert program.add.enqueue(1).result(5) == 3
    running.up.stop()


def test_a_worker_that_has_grown_is_replaced_between_jobs(mill: StartMill) -> None:
    running = mill(max_rss='"10MiB"')  # less than any: it ends as soon as it has looked at itself
    assert [program.add.enqueue(number).result(10) for number in range(5)] == [2, 3, 4, 5, 6]
    wait_until(lambda: running.count("worker_start") >= 2, 10.0, running.up.log)
    assert running.count("worker_stop") >= 1
    running.up.stop()


def test_preloaded_memory_is_shared_and_works_the_same(mill: StartMill) -> None:
    running = mill(processes=2, supervisor="preload = true")
    assert program.add.enqueue(1).result(5) == 3
    os.kill(running.up.workers()[0], signal.SIGKILL)
    wait_until(lambda: running.count("worker_start") >= 3, 5.0, running.up.log)
    assert [program.add.enqueue(number).result(5) for number in range(20)] == list(range(2, 22))
    running.up.stop()


def test_workers_that_keep_dying_make_the_group_degraded_not_a_hot_loop(mill: StartMill) -> None:
    running = mill(supervisor="restart_intensity = 3\nrestart_backoff_max = 2")
    for _ in range(5):
        (worker,) = wait_until(running.up.workers, 10.0, running.up.log)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda worker=worker: worker not in running.up.workers(), 5.0)  # type: ignore[misc]
    running.up.wait_log("group.degraded")
    begun, supervisor = time.monotonic(), psutil.Process(running.up.pid)
    before = sum(supervisor.cpu_times()[:2])
    assert program.add.enqueue(1).result(20) == 3, "it goes on, slowly"
    used = sum(supervisor.cpu_times()[:2]) - before
    assert used < 0.3 + 0.2 * (time.monotonic() - begun)
    running.up.stop()


DIES_AT_ONCE = """

@app.on_worker_start
def dies_at_once() -> None:
    if Path("broken").exists():
        os._exit(9)
"""


def test_a_degraded_group_stays_so_while_it_is_broken_and_recovers_by_itself(mill: StartMill) -> None:
    """The slow restarts alone are below the intensity: that does not mend anything."""
    slow = "restart_intensity = 1\nrestart_period = 1\nrestart_backoff = 2\nrestart_backoff_max = 2"
    running = mill(processes=2, supervisor=slow)
    (running.up.folder / "app_under_test.py").write_text(PROGRAM + DIES_AT_ONCE)
    header = open_board(running.up.pid).header
    assert header[Header.DOWN_SINCE] == 0
    running.touch("broken")
    for worker in running.up.workers():
        os.kill(worker, signal.SIGKILL)
    running.up.wait_log("group.degraded")
    begun = running.up.log().count("worker.started")
    wait_until(lambda: running.up.log().count("worker.started") >= begun + 6, 40.0, running.up.log)
    assert running.up.log().count("group.degraded") == 1
    assert "group.recovered" not in running.up.log()
    down = (time.monotonic_ns() - header[Header.DOWN_SINCE]) / 1e9
    assert 3 < down < 60, "for so long no worker was ready"
    (running.up.folder / "broken").unlink()
    mended = time.monotonic()
    assert program.add.enqueue(1).result(10) == 3, "it is tried every 2 s"
    assert "group.recovered" not in running.up.log(), "that proves little"
    wait_until(lambda: not header[Header.DOWN_SINCE], 1.0, running.up.log)
    running.up.wait_log("group.recovered", HEALTHY + 10)
    assert time.monotonic() - mended >= HEALTHY
    assert len(running.up.workers()) == 2
    running.up.stop()


def test_a_start_hook_that_fails_ends_the_start(mill: StartMill) -> None:
    running = mill()
    running.up.stop()
    broken = '\n\n@app.on_worker_start\ndef broken() -> None:\n    raise OSError("no model")\n'
    (running.up.folder / "app_under_test.py").write_text(PROGRAM + broken)
    running.up.start(wait=False)
    assert running.up.wait(20.0) == 78
    assert "the on_worker_start hook broken failed: OSError: no model" in running.up.output()


@pytest.mark.parametrize("worn", [{"max_jobs": 20}, {"max_age": 1}, {"max_rss": '"10MiB"'}], ids=str)
def test_never_two_thirds_of_a_group_are_replaced_at_once(mill: StartMill, worn: dict[str, object]) -> None:
    """All six are worn out at about the same time, again and again."""
    running = mill(processes=6, **worn)
    running.app.enqueue_many(program.nap.job(str(number), 0.01) for number in range(1500))
    wait_until(lambda: running.counters().get("completed") == 1500, 60.0, running.up.log)
    wait_until(lambda: running.count("worker_start") >= 12, 20.0, running.up.log)
    changes = [line.split()[0] for line in running.lines() if line.startswith("worker_")]
    assert changes[:6] == ["worker_start"] * 6
    alive = list(accumulate(1 if change == "worker_start" else -1 for change in changes))
    assert min(alive[6:]) >= 4, "at most a third is away"
    assert "degraded" not in running.up.log()
    running.up.stop()
