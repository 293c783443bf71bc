"""Millstream's own figures through its public API, under a real supervisor."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ops.benchmarks import bare, evidence
from ops.benchmarks.evidence import Failed
from ops.benchmarks.figures import RATE, TIME, Figures, percentile
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

_fork = multiprocessing.get_context("fork")
APP = "from ops.benchmarks.jobs import app\n"
TOML = """
[workers.bench]
queues = ["bench"]
processes = 2
"""


def our_round(url: str, prefix: str, jobs: int, figures: Figures) -> None:
    """Enqueue, run under two workers, measure idle latency; checks that each job ran exactly once."""
    with tempfile.TemporaryDirectory(prefix="ms-bench-") as name:
        folder = Path(name)
        env = {evidence.FOLDER: name, evidence.JOBS: str(jobs)}
        client_env = {**env, "MILLSTREAM_REDIS_URL": url, "MILLSTREAM_PREFIX": prefix}
        single, many = in_child(client_env, _enqueue_all, jobs)
        figures.add("enqueue one by one", RATE, single)
        figures.add("enqueue_many", RATE, many)
        with Supervised(folder / "up", APP, TOML, redis_url=url, prefix=prefix, env=env) as supervised:
            _wait_completed(url, prefix, jobs, supervised)
            latencies = in_child(client_env, _idle_latencies, folder)
            supervised.stop()
        seconds = _check_runs(folder, jobs)
    figures.add("no-op jobs, 2 workers", RATE, jobs / seconds)
    figures.add("idle latency p50", TIME, percentile(latencies, 0.5))
    figures.add("idle latency p99", TIME, percentile(latencies, 0.99))


def in_child(env: dict[str, str], function: Callable[..., Any], *args: object) -> Any:
    """Call the function in a forked process with these variables: the application reads them once."""
    receiver, sender = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_answer, args=(env, function, args, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise Failed(f"{function.__name__} failed, see above") from None
    finally:
        process.join()


def _answer(env: dict[str, str], function: Callable[..., Any], args: Any, sender: Connection) -> None:
    os.environ.update(env)
    sender.send(function(*args))


def _enqueue_all(jobs: int) -> tuple[float, float]:
    from ops.benchmarks.jobs import app, noop

    single = jobs // 10
    noop.enqueue(0)  # connects and loads the script
    begin = time.monotonic()
    for number in range(1, single):
        noop.enqueue(number)
    middle = time.monotonic()
    app.enqueue_many(noop.job(number) for number in range(single, jobs))
    end = time.monotonic()
    return (single - 1) / (middle - begin), (jobs - single) / (end - middle)


def _wait_completed(url: str, prefix: str, jobs: int, supervised: Supervised, timeout: float = 120) -> None:
    key = prefix + "{bench}:stats"
    with bare.connect(url) as client:

        def completed() -> int:
            assert supervised.running, f"the supervisor ended:\n{supervised.output()}"
            return int(client.hget(key, "completed") or 0)

        wait_until(
            lambda: completed() >= jobs,
            timeout,
            lambda: f"{jobs} jobs completed, so far {completed()}; log:\n{supervised.log()[-3000:]}",
            interval=0.1,
        )


def _idle_latencies(folder: Path) -> list[float]:
    from ops.benchmarks.jobs import SAMPLES, stamp

    stamps = evidence.open_stamps(SAMPLES, folder)
    for number in range(SAMPLES):
        time.sleep(0.003)  # the workers are to be idle: that is what is measured
        stamp.enqueue(number, time.monotonic_ns())
        wait_until(lambda at=number: stamps.values[at], 10.0, f"sample {number}", interval=0.0005)  # type: ignore[misc]
    return [value / 1000 for value in stamps.values]


def _check_runs(folder: Path, jobs: int) -> float:
    seconds, runs = evidence.read_marks(folder)
    lost = [number for number, count in enumerate(runs) if count == 0]
    twice = [number for number, count in enumerate(runs) if count > 1]
    if len(runs) != jobs or lost or twice:
        raise Failed(f"{len(lost)} jobs lost {lost[:5]}, {len(twice)} run more than once {twice[:5]}")
    return seconds
