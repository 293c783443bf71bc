"""The command `ops/recovery`: how soon a killed worker's job runs again while many others wait."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from ops.benchmarks.bench import remove_keys, server_url
from ops.benchmarks.evidence import Failed
from ops.benchmarks.figures import percentile
from ops.benchmarks.ours import in_child
from tests.chaos import evidence
from tests.chaos.evidence import Run
from tests.support import processes
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

PREFIX = "recovery:"
LIMIT = 100.0  # ms, for the 99th percentile
APP = "from tests.chaos.jobs import app\n"
TOML = """
[workers.chaos]
queues = ["chaos"]
processes = 2

[supervisor]
restart_backoff = 0.05
restart_backoff_max = 0.1
restart_intensity = 10000
drain_timeout = 2
"""


def enqueue(waiting: int, seconds: float) -> None:
    """Fill the queue."""
    from tests.chaos.jobs import app, slow

    app.enqueue_many(slow.job(seconds) for _ in range(waiting))


class Trial:
    """A supervisor with two busy workers, and the evidence of their jobs."""

    def __init__(self, supervised: Supervised, path: Path) -> None:
        self.supervised = supervised
        self.path = path
        self.times: list[float] = []  # ms from each kill to the next run of its job
        self.overtaken: list[int] = []  # jobs that started in between
        self._rng = random.Random(0)

    def kill_one(self) -> None:
        """Kill a busy worker and see when its job runs again; counts nothing where it was between two jobs."""
        wait_until(self._both_busy, 10.0, lambda: f"two busy workers:\n{self.supervised.log()[-2000:]}", 0.05)
        time.sleep(self._rng.uniform(0.0, 0.05))
        victim = self._rng.choice(self.supervised.workers())
        at = time.monotonic_ns()
        os.kill(victim, signal.SIGKILL)
        processes.assert_gone([victim])
        interrupted = [run for run in self._runs() if run.pid == victim and run.end is None]
        if not interrupted:
            return
        again = wait_until(lambda: self._run_after(interrupted[-1]), 10.0, lambda: f"run after {interrupted[-1]}", 0.1)
        self.overtaken.append(sum(at < run.begin < again.begin for run in self._runs()))
        self.times.append((again.begin - at) / 1e6)

    def _runs(self) -> list[Run]:
        runs, problems = evidence.read(self.path)
        if problems:
            raise Failed(problems[0])
        return runs

    def _run_after(self, interrupted: Run) -> Run | None:
        later = (run for run in self._runs() if run.id == interrupted.id and run.run > interrupted.run)
        return next(later, None)

    def _both_busy(self) -> bool:
        workers = self.supervised.workers()
        seen = {run.pid for run in self._runs()}
        return len(workers) == 2 and seen.issuperset(workers)


def measure(url: str, kills: int, waiting: int, seconds: float, console: Console) -> Trial:
    """Kill so many busy workers."""
    with tempfile.TemporaryDirectory(prefix="ms-recovery-") as name:
        path = Path(name) / "evidence"
        env = {evidence.VARIABLE: str(path)}
        in_child({**env, "MILLSTREAM_REDIS_URL": url, "MILLSTREAM_PREFIX": PREFIX}, enqueue, waiting, seconds)
        console.print(f"{waiting:,} jobs wait")
        with Supervised(Path(name) / "up", APP, TOML, redis_url=url, prefix=PREFIX, env=env) as supervised:
            trial = Trial(supervised, path)
            while len(trial.times) < kills:
                trial.kill_one()
            supervised.stop()
    return trial


@click.command()
@click.option("--kills", default=50, show_default=True)
@click.option("--waiting", default=100_000, show_default=True, help="Jobs in the queue.")
@click.option("--seconds", default=0.03, show_default=True, help="Length of a job.")
@click.option("--server", default="embedded", show_default=True, help="embedded, redis, or a Redis URL.")
@click.option("--json", "as_json", is_flag=True)
def main(kills: int, waiting: int, seconds: float, server: str, as_json: bool) -> None:
    """Kill busy workers; the killed job is to run again within 100 ms (p99), else exit 1."""
    processes.adopt_orphans()
    with server_url(server) as url:
        try:
            trial = measure(url, kills, waiting, seconds, Console(stderr=True))
        finally:
            remove_keys(url, PREFIX)
    times, overtaken = trial.times, max(trial.overtaken)
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    if as_json:
        click.echo(json.dumps({"kills": kills, "p50_ms": p50, "p99_ms": p99, "overtaken": overtaken, "ms": times}))
    else:
        figures = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {max(times):.1f} ms"
        Console().print(f"{kills} kills: {figures}; at most {overtaken} other jobs started before", highlight=False)
    sys.exit(0 if p99 <= LIMIT else 1)


if __name__ == "__main__":
    main()
