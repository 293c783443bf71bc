"""The scene of a measurement of recovery: a server, supervisors to start, and the evidence that jobs leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ops.benchmarks.evidence import Failed
from ops.benchmarks.ours import in_child
from tests.chaos import evidence
from tests.chaos.evidence import Run
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

PREFIX = "recovery:"
WORKERS = 2
LEASE = 2.0
APP = "from tests.chaos.jobs import app\n"
TOML = f"""
[workers.chaos]
queues = ["chaos"]
processes = {WORKERS}

[supervisor]
name = "{{name}}"
lease = {LEASE}
restart_backoff = 0.05
restart_backoff_max = 0.1
restart_intensity = 10000
drain_timeout = 2
"""


def _enqueue(jobs: int, seconds: float) -> list[str]:
    from tests.chaos.jobs import app, slow

    return [handle.id for handle in app.enqueue_many(slow.job(seconds) for _ in range(jobs))]


class Scene:
    """Everything lies in *folder*; jobs are those of the chaos suite."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._path = folder / "evidence"

    def host(self, name: str) -> Supervised:
        """A supervisor of this name, not started yet, with :data:`WORKERS` workers."""
        env = {evidence.VARIABLE: str(self._path)}
        toml = TOML.format(name=name)
        return Supervised(self._folder / name, APP, toml, redis_url=self._url, prefix=PREFIX, env=env)

    def enqueue(self, jobs: int, seconds: float) -> list[str]:
        """Enqueue so many jobs that wait for so long; their ids."""
        env = {evidence.VARIABLE: str(self._path), "MILLSTREAM_REDIS_URL": self._url, "MILLSTREAM_PREFIX": PREFIX}
        return in_child(env, _enqueue, jobs, seconds)  # type: ignore[no-any-return]

    def runs(self) -> list[Run]:
        """All runs so far, in the order of their begin."""
        runs, problems = evidence.read(self._path)
        if problems:
            raise Failed(problems[0])
        return runs

    def wait_for_run(self, wanted: Callable[[Run], bool], timeout: float, what: str, interval: float = 0.02) -> Run:
        """The first run that is wanted."""
        return wait_until(lambda: next(filter(wanted, self.runs()), None), timeout, what, interval)
