"""The trials of recovery: workers are killed, hosts vanish, the server is restarted. Each returns milliseconds."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil

from ops.benchmarks.scene import LEASE, WORKERS, Scene
from tests.support import processes
from tests.support.servers import Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

AWAY = (0.2, 6.0)
"""Seconds for which the server is away: up to the longest pauses between the workers' tries."""


def worker_deaths(scene: Scene, kills: int, waiting: int, seconds: float) -> tuple[list[float], int]:
    """From the kill of a busy worker to the next run of its job, while *waiting* others wait.

    Also returns how many of those started in between at most.
    """
    rng, overtaken = random.Random(0), 0
    times: list[float] = []
    scene.enqueue(waiting, seconds)
    with scene.host("workers") as host:
        while len(times) < kills:
            wait_until(lambda: _both_busy(scene, host), 10.0, lambda: f"busy workers:\n{host.log()[-2000:]}", 0.05)
            time.sleep(rng.uniform(0.0, 0.05))
            victim = rng.choice(host.workers())
            at = time.monotonic_ns()
            os.kill(victim, signal.SIGKILL)
            processes.assert_gone([victim])
            cut = [run for run in scene.runs() if run.pid == victim and run.end is None]
            if not cut:
                continue  # it was between two jobs
            again = scene.wait_for_run(
                lambda run, cut=cut[-1]: run.id == cut.id and run.run > cut.run,  # type: ignore[misc]
                10.0,
                f"a run after {cut[-1]}",
                0.1,
            )
            overtaken = max(overtaken, sum(at < run.begin < again.begin for run in scene.runs()))
            times.append((again.begin - at) / 1e6)
        host.stop()
    return times, overtaken


def _both_busy(scene: Scene, host: Supervised) -> bool:
    workers = host.workers()
    seen = {run.pid for run in scene.runs()}
    return len(workers) == WORKERS and seen.issuperset(workers)


def host_deaths(scene: Scene, kills: int) -> list[float]:
    """From the death of all processes of a host to the run of its only job by another one; nothing else happens."""
    rng, times = random.Random(0), []
    hosts = [scene.host(f"host-{number}").start() for number in range(2)]
    try:
        for number in range(kills):
            [job] = scene.enqueue(1, 2 * LEASE)
            first = scene.wait_for_run(lambda run, job=job: run.id == job, 10.0, "its run")  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, LEASE))  # the lease is renewed meanwhile: at any time before the death
            [victim] = [host for host in hosts if host.pid == first.supervisor]
            at = _kill_tree(victim)
            again = scene.wait_for_run(
                lambda run, first=first: run.id == first.id and run.run > first.run,  # type: ignore[misc]
                60.0,
                f"a run after {first}",
            )
            times.append((again.begin - at) / 1e6)
            hosts[hosts.index(victim)] = scene.host(f"host-{number + 2}").start()
            _wait_for_end(scene, [job])
    finally:
        for host in hosts:
            host.close()
    return times


def _kill_tree(host: Supervised) -> int:
    """Kill all processes of a host as if at once: none of them sees another die. Returns when, in nanoseconds."""
    tree = [psutil.Process(host.pid), *host.tree()]
    for process in tree:
        process.send_signal(signal.SIGSTOP)
    at = time.monotonic_ns()
    for process in tree:
        process.kill()
    host.wait()
    processes.assert_gone(tree)
    return at


def server_restarts(scene: Scene, server: Server, restarts: int) -> list[float]:
    """From the server's first answer after it was killed to the moment at which all workers have run a job again."""
    rng, times = random.Random(0), []
    with scene.host("waiting") as host:
        for _ in range(restarts):
            _wait_for_end(scene, scene.enqueue(2 * WORKERS, 0.2))  # all is well before
            server.kill9()
            time.sleep(rng.uniform(*AWAY))
            server.start()
            at = time.monotonic_ns()
            jobs = scene.enqueue(2 * WORKERS, 0.2)
            _wait_for_end(scene, jobs)
            begins: dict[int, int] = {}
            for run in scene.runs():
                if run.id in jobs:
                    begins.setdefault(run.pid, run.begin)
            begun = max(begins.values()) if len(begins) == WORKERS else max(run.end or 0 for run in scene.runs())
            times.append((begun - at) / 1e6)
        host.stop()
    return times


def _wait_for_end(scene: Scene, jobs: list[str]) -> None:
    def ended() -> bool:
        return {run.id for run in scene.runs() if run.completed}.issuperset(jobs)

    wait_until(ended, 60.0, f"the ends of {len(jobs)} jobs", 0.05)
