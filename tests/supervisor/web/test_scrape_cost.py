"""A scrape stays cheap with many workers and queues; on synthetic records and files, without any process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from millstream.protocol.scoreboard import Header, Record, RecordState, Scoreboard, Word
from millstream.supervisor.identity import Identity
from millstream.supervisor.maintenance.facts import FILE
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.web.exposition import Exposition
from millstream.supervisor.web.facts import Facts
from millstream.worker.spec import WorkerSpec

WORKERS, QUEUES = 64, 100
LIMIT = 4.0
"""What a scrape may cost, in reference loops of the same run: 20 ms where one takes 5 ms, on an idle core of 2026."""

COUNT_SOMETHING = """
import os, sys
from millstream.worker import cells, metrics
from millstream.worker.metrics import Ended, JobSeries
folder, workers, queues = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def count(worker):
    # The worst case: each worker has run jobs of every queue, in an order of its own.
    cells.install(folder, str(worker))
    names = [f"queue{(number * 37 + worker) % queues}" for number in range(queues)]
    series = JobSeries({queue: frozenset(["render"]) for queue in names})
    for queue in names if worker == 0 else ():
        series.prepare(queue, ["render"])
    for queue in names:
        series.count(queue, {("render", "completed"): Ended(2, [0.1, 2.0], [0.0, 0.2], [1.0, 2.0], [1, 2])})

for worker in range(workers):
    if not os.fork():
        count(worker)
        os._exit(0)
    os.wait()
"""


def plan_of(folder: Path) -> Plan:
    queues = tuple(f"queue{number}" for number in range(QUEUES))
    spec = WorkerSpec("unix:///nowhere", "t00000000:", "i-1", "g", 0, 1, "x:app", queues)
    group = GroupPlan(0, "g", queues, WORKERS, WORKERS, 25.0, None, 3, 10.0, spec)
    own = Identity("i", "i-1", "", "", 0)
    return Plan(
        "x:app",
        "unix:///nowhere",
        "t00000000:",
        own,
        "",
        30.0,
        False,
        (group,),
        0.1,
        30.0,
        10,
        60.0,
        metrics=str(folder),
    )


def facts() -> bytes:
    queues = [
        {
            "queue": f"queue{number}",
            "paused": False,
            "ready": 5,
            "held": 0,
            "running": 2,
            "delayed": 1,
            "dead": 3,
            "oldest": 1.8e9,
        }
        for number in range(QUEUES)
    ]
    consumers = [{"queue": f"queue{number}", "state": "idle", "count": 64} for number in range(QUEUES)]
    return orjson.dumps({"at": time.time(), "duration": 0.01, "queues": queues, "consumers": consumers, "instances": 1})


def board_of(plan: Plan) -> Scoreboard:
    board = Scoreboard.create(plan.records)
    board.header[Header.SUPERVISOR_TICK] = time.monotonic_ns()
    for record in board.records[:WORKERS]:
        _busy(record)
    return board


def _busy(record: Record) -> None:
    words = record.words
    words[Word.STATE], words[Word.READY], words[Word.PID] = RecordState.ALIVE, 1, os.getpid()
    words[Word.RUN], words[Word.STARTED] = 1, time.monotonic_ns()


@pytest.fixture
def exposition(tmp_path: Path) -> Exposition:
    counting = [sys.executable, "-c", COUNT_SOMETHING, str(tmp_path), str(WORKERS), str(QUEUES)]
    root = str(Path(__file__).resolve().parents[3])
    subprocess.run(counting, check=True, env={**os.environ, "PYTHONPATH": root})
    (tmp_path / FILE).write_bytes(facts())
    plan = plan_of(tmp_path)
    return Exposition(plan, board_of(plan), Facts(str(tmp_path)))


def reference() -> None:
    """Pure computation: how fast this machine is at this moment."""
    sum(number * number for number in range(100_000))


def cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def test_a_scrape_is_cheap(exposition: Exposition) -> None:
    text = exposition.text()
    assert text.count("\nmillstream_job_duration_seconds_count") == QUEUES
    assert 'millstream_jobs_finished_total{job="render",outcome="completed",queue="queue0"} 128.0' in text
    assert 'millstream_workers{group="g",state="busy"} 64' in text
    # Interleaved, so that both see the same machine.
    costs, loops = zip(*((cpu_seconds(exposition.text), cpu_seconds(reference)) for _ in range(20)), strict=True)
    print(f"{len(text) / 1000:.0f} kB, best {min(costs) * 1000:.1f} ms, a loop {min(loops) * 1000:.1f} ms")
    assert min(costs) < LIMIT * min(loops)
