"""A group may serve several queues, and a supervisor several groups."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from millstream.protocol import control
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.servers import Kind

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def _fill(running: Mill, *queues: str, count: int) -> None:
    """Put naps of no length into each queue while nobody fetches; their names tell the queue."""
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    for queue in queues:
        running.app.enqueue_many(program.nap.using(queue=queue).job(queue, 0) for _ in range(count))
    running.up.send(signal.SIGCONT)


def _order(running: Mill) -> list[str]:
    return [line.split()[1] for line in running.lines("end")]


def test_queues_are_served_in_strict_order(mill: StartMill) -> None:
    running = mill(queues='["urgent", "default"]')
    _fill(running, "default", "urgent", count=50)
    running.wait_for("end", count=100)
    assert _order(running) == ["urgent"] * 50 + ["default"] * 50
    running.up.stop()


def test_weights_share_the_time(mill: StartMill) -> None:
    running = mill(queues="{ urgent = 4, default = 1 }")
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    for queue in ("default", "urgent"):
        running.app.enqueue_many(program.nap.using(queue=queue).job(queue, 0.006) for _ in range(150))
    running.up.send(signal.SIGCONT)
    running.wait_for("end", count=100, timeout=20.0)
    first = Counter(_order(running)[:100])
    assert 60 <= first["urgent"] <= 95, first
    running.wait_for("end", count=300, timeout=20.0)
    running.up.stop()


def test_a_job_of_any_queue_wakes_an_idle_worker(mill: StartMill) -> None:
    running = mill(queues='["a", "b", "default"]')
    for queue in ("default", "b", "a", "default"):
        assert program.add.using(queue=queue).enqueue(1).result(5) == 3
    running.up.stop()


def test_a_paused_queue_does_not_stop_the_others(mill: StartMill) -> None:
    running = mill(queues='["urgent", "default"]')
    client, keys = running.operator, running.app.queue_keys("urgent")
    client.run(control.pause(keys))
    held = program.add.using(queue="urgent").enqueue(1)
    assert [program.add.enqueue(number).result(5) for number in range(5)] == [2, 3, 4, 5, 6]
    assert held.status() == "queued"
    control.resume_all(client, keys)
    assert held.result(5) == 3
    running.up.stop()


def test_a_crash_gives_back_what_was_held_of_each_queue(mill: StartMill) -> None:
    running = mill(queues='["urgent", "default"]')
    _fill(running, "default", "urgent", count=100)
    running.wait_for("end", count=100)
    handle = program.until.using(queue="urgent").enqueue("gate", "go")
    running.wait_for("start", "gate")
    os.kill(running.up.workers()[0], signal.SIGKILL)
    running.wait_for("start", "gate", count=2)
    running.touch("go")
    assert handle.result(5) == "gate"
    running.wait_for("end", "default", count=100)
    assert Counter(line.split()[1] for line in running.lines("start")) == {"urgent": 100, "default": 100, "gate": 2}
    running.up.stop()


def test_each_group_has_its_own_workers(mill: StartMill) -> None:
    """A group that is busy keeps no other one waiting."""
    running = mill(crash_delay='0.2\n[workers.second]\nqueues = ["other"]\nprocesses = 1')
    gate = program.until.enqueue("gate", "go")
    running.wait_for("start", "gate")
    assert program.add.using(queue="other").enqueue(1).result(5) == 3
    assert len(running.up.workers("default")) == len(running.up.workers("second")) == 1
    running.touch("go")
    assert gate.result(5) == "gate"
    running.up.stop()
