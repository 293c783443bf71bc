"""As process 1 of a PID namespace, as in a container without an init."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from millstream import Millstream
from millstream.protocol.info import State
from tests.ops.namespaces import first_process, need
from tests.support import processes
from tests.support.servers import Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")

APP = """
import os, subprocess, time
from millstream import Millstream

app = Millstream()

@app.job
def leave_an_orphan(seconds: str) -> int:
    subprocess.run(["sh", "-c", f"setsid sleep {seconds} &"], check=True)
    return os.getppid()

@app.job
def until(name: str) -> int:
    while not os.path.exists(name):
        time.sleep(0.01)
    return os.getppid()
"""

IMPORTING = """
import time
from pathlib import Path
Path("importing").touch()
time.sleep(600)
"""

SECONDS = "1.0625"


UP = [sys.executable, "-m", "millstream", "up"]


def test_the_supervisor_is_a_good_process_1(server: Server, prefix: str, tmp_path: Path) -> None:
    need("pid", "fork", "mount-proc")
    prepared = Supervised(tmp_path / "app", APP, redis_url=server.url, prefix=prefix)
    with first_process(UP, prepared.folder, tmp_path / "log", prepared.environment, "mount-proc") as own:
        own.wait_ready()
        supervisor = psutil.Process(own.pid)

        def adopted() -> psutil.Process | None:
            wanted = f"sleep {SECONDS}"
            return next((child for child in supervisor.children() if processes.command_line(child) == wanted), None)

        app = Millstream(redis_url=server.url, prefix=prefix)
        handle = app.enqueue("leave_an_orphan", SECONDS, queue="default")
        orphan = wait_until(adopted, 10, own.text)
        assert handle.result(timeout=10) == 1
        wait_until(lambda: not psutil.pid_exists(orphan.pid), 10, "the orphan is a zombie")
        zombies = [child for child in supervisor.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]
        assert zombies == []
        assert own.drain() == 0, own.text()


@pytest.mark.leaves_jobs
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_process_1_drains_or_stops_at_once(
    server: Server, prefix: str, tmp_path: Path, number: signal.Signals
) -> None:
    need("pid", "fork", "mount-proc")
    prepared = Supervised(tmp_path / "app", APP, redis_url=server.url, prefix=prefix)
    with first_process(UP, prepared.folder, tmp_path / "log", prepared.environment, "mount-proc") as own:
        own.wait_ready()
        app = Millstream(redis_url=server.url, prefix=prefix)
        handle = app.enqueue("until", "go", queue="default")
        wait_until(lambda: handle.status() is State.RUNNING, 10, own.text)
        os.kill(own.pid, number)
        wait_until(lambda: "supervisor.stage" in own.text(), 10, own.text)
        (prepared.folder / "go").touch()
        if number is signal.SIGTERM:
            assert handle.result(timeout=10) == 1
        assert own.wait() == (0 if number is signal.SIGTERM else 1), own.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_process_1_can_be_ended_while_it_starts(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    need("pid", "fork", "mount-proc")
    toml = "[supervisor]\npreload = true\n"
    prepared = Supervised(tmp_path / "app", IMPORTING, toml, redis_url=server.url)
    with first_process(UP, prepared.folder, tmp_path / "log", prepared.environment, "mount-proc") as own:
        wait_until((prepared.folder / "importing").exists, 20, own.text)
        os.kill(own.pid, number)
        assert own.wait() == 128 + number
