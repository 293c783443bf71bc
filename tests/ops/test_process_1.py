"""As process 1 of a PID namespace, as in a container without an init."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from millstream import Millstream
from tests.ops.namespaces import first_process, need
from tests.support import processes
from tests.support.servers import Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")

APP = """
import os, subprocess
from millstream import Millstream

app = Millstream()

@app.job
def leave_an_orphan(seconds: str) -> int:
    subprocess.run(["sh", "-c", f"setsid sleep {seconds} &"], check=True)
    return os.getppid()
"""

SECONDS = "1.0625"


def test_the_supervisor_is_a_good_process_1(server: Server, prefix: str, tmp_path: Path) -> None:
    need("pid", "fork", "mount-proc")
    prepared = Supervised(tmp_path / "app", APP, redis_url=server.url, prefix=prefix)
    command = [sys.executable, "-m", "millstream", "up"]
    with first_process(command, prepared.folder, tmp_path / "log", prepared.environment, "mount-proc") as own:
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
