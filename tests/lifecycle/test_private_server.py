"""The private server is one more supervised child: it is started again, and nothing that was settled is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from millstream import Millstream
from millstream.protocol.location import DATA_FOLDER, socket_path
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

APP = """
import time
from pathlib import Path
from millstream import Millstream

app = Millstream()

@app.job
def add(a: int, b: int) -> int:
    return a + b

@app.job
def nap(seconds: float) -> str:
    Path("napping").touch()
    time.sleep(seconds)
    return "rested"
"""


def _server(up: Supervised) -> int | None:
    assert up.process is not None
    for child in psutil.Process(up.process.pid).children():
        if "valkey-server" in child.name() or "redis-server" in child.name():
            return child.pid
    return None


ONE_FIXTURE = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
"""The shared server plays no part here."""


@ONE_FIXTURE
def test_a_killed_server_is_started_again_with_its_data(supervise: Callable[..., Supervised]) -> None:
    up = supervise(APP, redis_url=None)
    app = Millstream(redis_url=f"unix://{socket_path(up.folder / DATA_FOLDER)}", prefix=up.prefix, patience=4.0)
    before = app.enqueue("add", 1, 2, queue="default")
    assert before.result(10) == 3
    workers = sorted(up.workers())
    running = app.enqueue("nap", 1.0, queue="default")
    wait_until((up.folder / "napping").exists, describe=up.log)
    first = _server(up)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: (pid := _server(up)) != first and pid, describe=up.log)
    assert second
    assert running.result(10) == "rested"
    assert before.info().result == 3
    assert app.enqueue("add", 3, 4, queue="default").result(10) == 7
    assert sorted(up.workers()) == workers, "no worker was restarted"
    assert running.info().attempt == 1
    app.client.close()
    up.stop()


@ONE_FIXTURE
def test_term_to_the_whole_tree_does_not_take_the_server_away(supervise: Callable[..., Supervised]) -> None:
    up = supervise(APP, redis_url=None)
    app = Millstream(redis_url=f"unix://{socket_path(up.folder / DATA_FOLDER)}", prefix=up.prefix)
    running = app.enqueue("nap", 2.0, queue="default")
    wait_until((up.folder / "napping").exists, describe=up.log)
    assert up.process is not None
    app.client.close()
    tree = [up.process.pid, *(child.pid for child in psutil.Process(up.process.pid).children(recursive=True))]
    for pid in tree:
        os.kill(pid, signal.SIGTERM)
    assert up.process.wait(15) == 0
    up.start()
    assert running.info().result == "rested", "it was settled during the drain"
    assert len(running.info().attempts) == 1
    app.client.close()
    up.stop()


@ONE_FIXTURE
def test_who_stays_takes_the_server_over_from_who_leaves(supervise: Callable[..., Supervised]) -> None:
    """Two supervisors of one folder: the first one runs the server, and ends it when it goes."""
    first = supervise(APP, redis_url=None, env={"MILLSTREAM_SUPERVISOR__NAME": "first"})
    data = {"MILLSTREAM_DATA": str(first.folder / DATA_FOLDER)}
    second = supervise(APP, redis_url=None, env={**data, "MILLSTREAM_SUPERVISOR__NAME": "second"})
    assert "(already running)" in second.output()
    assert (_server(first) is not None, _server(second)) == (True, None)
    app = Millstream(redis_url=f"unix://{socket_path(first.folder / DATA_FOLDER)}", prefix=first.prefix, patience=10.0)
    before = app.enqueue("nap", 2.0, queue="default")
    first.stop()
    wait_until(lambda: _server(second), describe=second.log)
    assert before.result(20) == "rested"
    assert app.enqueue("add", 1, 2, queue="default").result(20) == 3
    second.stop()
    assert processes_of(first.folder / DATA_FOLDER) == []
    app.client.close()


def processes_of(folder: Path) -> list[int]:
    """The servers that work on this folder."""
    processes = psutil.process_iter(["cmdline"])  # None where it has just ended
    return [process.pid for process in processes if str(folder) in " ".join(process.info["cmdline"] or [])]
