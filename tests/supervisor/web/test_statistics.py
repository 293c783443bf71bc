"""What a supervisor's processes do is in the statistics, each run once, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import json

import psutil
import redis as redis_py

from millstream.protocol.link import Link
from millstream.protocol.statistics import Statistics, read_statistics
from tests.supervisor.web.conftest import Mill, StartMill
from tests.support.acl import as_role
from tests.support.processes import titled
from tests.support.waiting import wait_until


def counted(mill: Mill, queue: str) -> dict[str | None, Statistics]:
    with contextlib.closing(Link(as_role(str(mill.up.redis_url), "operator"))) as link:
        return {one.job: one for one in read_statistics(link, mill.app.queue_keys(queue), 3600)}


def wait_counted(mill: Mill, queue: str, job: str, outcomes: dict[str, int]) -> Statistics:
    """Wait until a job was counted so."""

    def found() -> Statistics | None:
        one = counted(mill, queue).get(job)
        return one if one and dict(one.outcomes) == outcomes else None

    return wait_until(found, 30.0, lambda: f"{counted(mill, queue)}\n{mill.up.log()}")


def test_every_run_once_though_maintenance_and_a_worker_die(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill(processes=2)
    for _ in range(3):
        for number in range(100):
            running.enqueue("ok", number)
        (maintenance,) = wait_until(lambda: titled(running.up.pid, "millstream: maintenance"))
        psutil.Process(maintenance.pid).kill()
    running.enqueue("fail")
    running.enqueue("die_once", "died")
    ok = wait_counted(running, "a", "ok", {"completed": 300})
    assert ok.duration.count == ok.wait.count == 300
    assert wait_counted(running, "b", "fail", {"retried": 1, "dead": 1}).failed == 2
    died = wait_counted(running, "b", "die_once", {"retried": 1, "completed": 1})
    assert died.duration.count == 2
    printed = running.up.command("stats", "--since", "1h", "--json")
    rows = {(row["queue"], row["job"]): row for row in json.loads(printed.stdout)}
    assert rows["a", "ok"]["processed"] == 300 and rows["b", None]["failed"] == 3
    running.up.stop()
    redis.delete(running.app.queue_keys("b").dead)


def test_the_last_runs_are_added_before_the_end(mill: StartMill) -> None:
    running = mill(processes=1)
    for number in range(5):
        running.enqueue("ok", number)
    wait_counted(running, "a", "ok", {"completed": 5})
    job = running.enqueue("ok", 5)
    job.result(timeout=10)
    running.up.stop()
    assert dict(counted(running, "a")["ok"].outcomes) == {"completed": 6}
