"""A control group's memory is used up, and the kernel kills: whom, and what becomes of the jobs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from millstream import Millstream
from millstream.protocol.info import State
from millstream.worker.program import OOM_SCORE
from tests.ops.namespaces import not_permitted
from tests.support.memory_group import MemoryGroup, memory_group
from tests.support.servers import Server, free_port
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.leaves_jobs,
    pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's"),
]

LIMIT = 384 * 2**20

APP = """
import os, subprocess, sys, time
from pathlib import Path
from millstream import Millstream

app = Millstream()
CHUNK = bytes(range(256)) * 4 * 2**12
TAKE = "import time; taken = [bytearray(b'x' * 2**22) for _ in range(256)]"

@app.job
def take() -> None:
    taken = [bytearray(CHUNK) for _ in range(256)]

@app.job
def let_another_take() -> int:
    return subprocess.run([sys.executable, "-c", TAKE]).returncode

@app.job
def fill_a_file() -> None:
    file = os.memfd_create("memory that no process maps")
    for _ in range(256):
        os.write(file, CHUNK)

@app.job
def score_of_a_subprocess() -> int:
    return int(subprocess.check_output(["cat", "/proc/self/oom_score_adj"]))

@app.job
def until(name: str) -> int:
    while not Path(name).exists():
        time.sleep(0.01)
    return os.getpid()
"""

TOML = """
[workers.default]
queues = ["default"]
processes = 2
crash_delay = 0.1
crash_limit = 2
[web]
bind = "127.0.0.1:{port}"
[supervisor]
restart_intensity = 1000
restart_backoff_max = 0.2
"""


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group(LIMIT) as own:
        if own is None:
            not_permitted("a memory control group")
        assert own is not None
        yield own


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def up(group: MemoryGroup, supervise: Callable[..., Supervised], tmp_path: Path, port: int) -> Supervised:
    """A supervisor in the group."""
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "MILLSTREAM_WEB__BIND": f"127.0.0.1:{port}"}
    own = supervise(APP, TOML.format(port=port), launcher=group.launcher, env=env)
    wait_until(lambda: len(own.workers()) == 2, 10, own.log)
    return own


@pytest.fixture
def app(server: Server, prefix: str) -> Iterator[Millstream]:
    own = Millstream(redis_url=server.url, prefix=prefix)
    yield own
    own.client.close()


def test_a_worker_that_the_kernel_kills_is_told_apart(up: Supervised, app: Millstream, port: int) -> None:
    maintenance, other = up.maintenance(), app.enqueue("until", "go", queue="default")
    wait_until(lambda: other.status() is State.RUNNING, 10, up.log)
    job = app.enqueue("take", queue="default")
    wait_until(lambda: job.status() is State.DEAD, 30, up.log)
    info = job.info()
    assert info.error is not None
    assert (info.error.cause, info.error.signal, info.crashes) == ("oom", "SIGKILL", 2)
    assert [attempt.cause for attempt in info.attempts] == ["oom", "oom"]
    assert "want of memory" in info.error.message
    assert len(re.findall('"cause":"oom","signal":"SIGKILL".*worker.exited', up.log())) == 2
    (up.folder / "go").touch()
    assert other.result(10) and other.info().crashes == 0
    assert up.maintenance() == maintenance
    wanted = 'millstream_worker_exits_total{group="default",reason="oom"} 2.0'
    wait_until(lambda: wanted in metrics(port), 10, lambda: metrics(port))
    up.stop()


def metrics(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_a_subprocess_that_the_kernel_kills_is_its_handlers_business(up: Supervised, app: Millstream) -> None:
    workers = up.workers()
    job = app.enqueue("let_another_take", queue="default")
    assert job.result(30) == -9, up.log()
    assert job.info().crashes == 0
    assert up.workers() == workers
    up.stop()


def test_the_kernel_spares_the_supervisor(up: Supervised, app: Millstream) -> None:
    """Memory of a file that no process maps: by their sizes alone the supervisor would be killed for it."""
    maintenance, job = up.maintenance(), app.enqueue("fill_a_file", queue="default")
    wait_until(lambda: job.status() is State.DEAD, 30, up.log)
    assert [attempt.cause for attempt in job.info().attempts] == ["oom", "oom"]
    assert up.running
    assert up.maintenance() == maintenance
    (up.folder / "go").touch()
    assert app.enqueue("until", "go", queue="default").result(20)
    up.stop()


def test_workers_and_their_subprocesses_are_to_be_killed_first(up: Supervised, app: Millstream) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    own = score(up.pid)
    assert [score(pid) for pid in up.workers()] == [min(1000, own + OOM_SCORE)] * 2
    assert app.enqueue("score_of_a_subprocess", queue="default").result(10) == min(1000, own + OOM_SCORE)
    others = {process.pid for process in up.tree()} - set(up.workers())
    assert {score(pid) for pid in others} == {own}
    up.stop()
