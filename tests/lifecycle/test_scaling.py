"""A group with a least and a most: it grows with its backlog and shrinks when it is calm; no job is harmed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from millstream.protocol import control
from millstream.protocol.app import Millstream
from millstream.supervisor import scaling
from millstream.supervisor.maintenance import backlog
from tests.lifecycle import program
from tests.lifecycle.conftest import PROGRAM, Mill, config, with_workers
from tests.support.proxy import Proxy
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import stays, wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

CALM = 1.0

SHORT = """
from millstream.supervisor import scaling
scaling.CALM = {}
"""
"""Loaded by the supervisor itself, since it preloads the application: half a minute is too long for a test."""

StartScaled = Callable[..., Mill]


@pytest.fixture
def scaled(supervise: Callable[..., Supervised], app: Millstream) -> StartScaled:
    """Start one with one to four workers: `scaled(max_jobs=20, calm=2.0, url=...)`."""

    def start(
        *, most: int = 4, calm: float = CALM, supervisor: str = "", url: str | None = None, **group: object
    ) -> Mill:
        own = f"preload = true\n{supervisor}"
        text = config(processes=f"{{ max = {most} }}", supervisor=own, **group)  # type: ignore[arg-type]
        elsewhere = {} if url is None else {"redis_url": url}
        return with_workers(Mill(supervise(PROGRAM + SHORT.format(calm), text, **elsewhere), app), 1)

    return start


def steps(running: Mill) -> list[tuple[int, int]]:
    """How the target has changed so far."""
    found = re.findall(r'"from":(\d+),"to":(\d+),"why":"[^"]+","event":"group.scaled"', running.up.log())
    return [(int(before), int(after)) for before, after in found]


def fill(running: Mill, count: int, seconds: float = 0.05) -> None:
    running.app.enqueue_many(program.nap.job(f"nap{number}", seconds) for number in range(count))


def assert_all_ran_once(running: Mill, count: int) -> None:
    names = Counter(line.split()[1] for line in running.lines("start"))
    assert names == {f"nap{number}": 1 for number in range(count)}
    assert running.count("end") == count
    assert running.counters().get("completed") == count
    assert not {"crash", "stale", "recovered"} & set(running.counters())


def wait_for_workers(running: Mill, count: int, timeout: float = 15.0) -> None:
    wait_until(lambda: len(running.up.workers()) == count, timeout, running.up.log)


def test_it_grows_with_the_backlog_and_shrinks_when_it_is_calm(scaled: StartScaled) -> None:
    running = scaled()
    (first,) = running.up.workers()
    begun = time.monotonic()
    fill(running, 200)
    wait_for_workers(running, 4, 8.0)
    assert steps(running) == [(1, 2), (2, 4)]
    running.wait_for("end", count=200)
    assert time.monotonic() - begun < 9.0, "one alone would take 10 s"
    wait_for_workers(running, 1)
    assert steps(running)[2:] == [(4, 3), (3, 2), (2, 1)]
    wait_until(lambda: running.counters().get("completed") == 200, 5.0)
    assert_all_ran_once(running, 200)
    assert running.count("worker_stop") == 3, "who left did so in good order"
    assert running.up.workers() == [first]
    assert "config.not_used" not in running.up.log()
    running.up.stop()


def test_shrinking_harms_no_job(scaled: StartScaled) -> None:
    """Jobs keep coming, one at a time, while workers are sent away: each is run at once, and once."""
    running = scaled()
    fill(running, 120)
    wait_for_workers(running, 4)
    running.wait_for("end", count=120)
    number, slowest = 120, 0.0
    while len(running.up.workers()) > 1:
        begun = time.monotonic()
        assert program.nap.enqueue(f"nap{number}", 0.0).result(5) == f"nap{number}"
        slowest = max(slowest, time.monotonic() - begun)
        number += 1
    assert number > 200, "it took a while"
    assert slowest < 0.5
    wait_until(lambda: running.counters().get("completed") == number, 5.0)
    assert_all_ran_once(running, number)
    running.up.stop()


def test_who_is_busy_stays_and_who_idles_leaves(scaled: StartScaled) -> None:
    running = scaled(most=3)
    fill(running, 100)
    wait_for_workers(running, 3)
    running.wait_for("end", count=100)
    gate = program.until.enqueue("gate", "go")
    busy = int(running.wait_for("start", "gate")[0].split()[2])
    wait_for_workers(running, 2)
    left = steps(running)[2:]
    assert left == [(3, 2)], "and not one more: the other one could not be busy for half of its time only"
    stays(lambda: len(running.up.workers()) == 2 and steps(running)[2:] == left, 2 * CALM)
    assert busy in running.up.workers()
    running.touch("go")
    assert gate.result(5) == "gate"
    wait_for_workers(running, 1)
    running.up.stop()


def test_a_paused_queue_does_not_make_it_grow(scaled: StartScaled) -> None:
    running = scaled()
    client, keys = running.operator, running.app.queue_keys("default")
    gate = program.until.enqueue("nap0", "go")
    running.wait_for("start")
    running.app.enqueue_many(program.nap.job(f"nap{number}", 0.05) for number in range(1, 100))
    client.run(control.pause(keys))
    running.app.enqueue_many(program.nap.job(f"nap{number}", 0.05) for number in range(100, 200))
    stays(lambda: steps(running) == [], 3.0, "its worker is busy, and 199 jobs wait, but nobody may fetch them")
    control.resume_all(client, keys)
    wait_for_workers(running, 4)
    running.touch("go")
    gate.result(5)
    running.wait_for("end", count=200)
    wait_until(lambda: running.counters().get("completed") == 200, 5.0)
    assert_all_ran_once(running, 200)
    running.up.stop()


def test_a_group_that_is_quiet_does_not_grow(scaled: StartScaled) -> None:
    running = scaled()
    gate = program.until.enqueue("nap0", "go")
    running.wait_for("start")
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    running.app.enqueue_many(program.nap.job(f"nap{number}", 0.01) for number in range(1, 50))
    stays(lambda: steps(running) == [], 3.0)
    running.up.send(signal.SIGCONT)
    wait_until(lambda: steps(running), 5.0, running.up.log)
    running.touch("go")
    gate.result(5)
    running.wait_for("end", count=50)
    running.up.stop()


def test_jobs_behind_a_long_one_in_its_batch_make_it_grow(scaled: StartScaled) -> None:
    """They were fetched, so Redis does not count them; but they wait, and a second worker would get them."""
    running = scaled()
    running.app.enqueue_many(program.noop.job(number) for number in range(600))
    running.wait_for("noop", count=600)
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    tiny = [program.noop.job(number) for number in range(600, 700)]
    running.app.enqueue_many([*tiny[:50], program.until.job("long", "go"), *tiny[50:]])
    running.up.send(signal.SIGCONT)
    running.wait_for("start", "long")
    assert running.count("noop") < 700
    running.wait_for("noop", count=700)
    assert running.count("end", "long") == 0
    assert steps(running)[0] == (1, 2)
    running.touch("go")
    running.wait_for("end", "long")
    running.up.stop()


def test_the_death_of_maintenance_does_no_harm(scaled: StartScaled) -> None:
    running = scaled()
    fill(running, 200)
    killed: set[int] = set()
    while not (len(running.up.workers()) == 4 and len(killed) >= 3):
        # Each lives for long enough to count: who has none to count never grows, which is as it should be.
        grown = len(steps(running))
        maintenance = wait_until(running.up.maintenance)
        os.kill(maintenance, signal.SIGKILL)
        killed.add(maintenance)
        wait_until(lambda grown=grown: len(steps(running)) > grown or steps(running)[-1:] == [(2, 4)], 10.0)  # type: ignore[misc]
    running.wait_for("end", count=200)
    wait_until(lambda: running.counters().get("completed") == 200, 5.0)
    assert_all_ran_once(running, 200)
    wait_for_workers(running, 1)
    running.up.stop()


def test_nothing_changes_while_redis_is_away(scaled: StartScaled, proxy: Proxy) -> None:
    calm = 2 * scaling.STALE
    running = scaled(most=2, calm=calm, url=proxy.url)
    fill(running, 60)
    wait_for_workers(running, 2)
    running.wait_for("end", count=60)
    wait_until(lambda: running.counters().get("completed") == 60, 5.0)
    stays(lambda: steps(running) == [(1, 2)], 2 * backlog.EVERY, "and it is seen that nothing waits")
    proxy.refuse()
    stays(lambda: steps(running) == [(1, 2)], calm + 1.0)
    proxy.resume()
    wait_for_workers(running, 1)
    running.up.stop()


def test_a_degraded_group_does_not_grow(scaled: StartScaled) -> None:
    running = scaled(supervisor="restart_intensity = 2\nrestart_backoff_max = 0.2")
    for _ in range(3):
        (worker,) = wait_until(running.up.workers, 10.0, running.up.log)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda worker=worker: worker not in running.up.workers(), 5.0)  # type: ignore[misc]
    running.up.wait_log("group.degraded")
    fill(running, 40, 0.1)
    running.wait_for("end", count=40)
    assert steps(running) == []
    running.up.stop()


def test_ttin_and_ttou_move_both_bounds(scaled: StartScaled) -> None:
    running = scaled(most=2)
    running.up.send(signal.SIGTTIN)
    wait_for_workers(running, 2)
    stays(lambda: len(running.up.workers()) == 2, 2 * CALM, "calm does not undo it")
    fill(running, 100)
    wait_for_workers(running, 3)
    running.up.send(signal.SIGTTOU)
    wait_for_workers(running, 2)
    running.wait_for("end", count=100)
    wait_for_workers(running, 1)
    assert steps(running) == [(1, 2), (2, 3), (3, 2), (2, 1)]
    wait_until(lambda: running.counters().get("completed") == 100, 5.0)
    assert_all_ran_once(running, 100)
    running.up.stop()


def test_workers_that_are_replaced_all_the_time_do_not_keep_it_from_growing(scaled: StartScaled) -> None:
    running = scaled(max_jobs=8)
    fill(running, 200)
    wait_for_workers(running, 4)
    running.wait_for("end", count=200)
    wait_until(lambda: running.counters().get("completed") == 200, 5.0)
    assert_all_ran_once(running, 200)
    wait_for_workers(running, 1)
    running.up.stop()


def test_a_reload_keeps_the_number_of_workers(scaled: StartScaled) -> None:
    running = scaled(calm=60.0)
    fill(running, 100)
    wait_for_workers(running, 4)
    running.wait_for("end", count=100)
    before = running.up.workers()
    running.up.send(signal.SIGHUP)
    running.up.wait_log("reload.done", 30.0)
    wait_until(lambda: len(running.up.workers()) == 4 and not {*before} & {*running.up.workers()}, 15.0, running.up.log)
    assert steps(running) == [(1, 2), (2, 4)]
    wait_until(lambda: running.counters().get("completed") == 100, 5.0)
    running.up.stop()
