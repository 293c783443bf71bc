"""The supervisor ends during or after a reload: by TERM it drains, by KILL nothing survives it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from millstream import Millstream
from tests.lifecycle.conftest import StartReloading, lives
from tests.lifecycle.reloading import Reloading, code, environment, executing, toml
from tests.ops.namespaces import first_process, need
from tests.support.processes import assert_gone, titled
from tests.support.servers import Kind, Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

MOMENTS = ("at once", "rehearsal", "execution", "rolling", "done")


def reach(running: Reloading, moment: str) -> None:
    """HUP, and wait for a moment of the reload."""
    slow = {
        "rehearsal": "time.sleep(5)\n",
        "rolling": "\n@app.on_worker_start\ndef slowly() -> None:\n    time.sleep(1)\n",
    }
    running.deploy(code("two", slow.get(moment, "")))
    running.hup()
    if moment == "rehearsal":
        wait_until(lambda: running.others("rehearsal"), 20.0, interval=0.001)
    elif moment == "execution":
        wait_until(lambda: executing(running.pid), 20.0, running.up.log, interval=0.0005)
    elif moment == "rolling":
        wait_until(lambda: running.up.log().count('"event":"worker.started"') == 4, 20.0, running.up.log)
    elif moment == "done":
        running.wait_event("reload.done")


@pytest.mark.parametrize("moment", MOMENTS)
def test_term_drains(reloading: StartReloading, moment: str) -> None:
    running = reloading()
    job = running.begin("job", limit=2.0)
    family = running.up.tree()
    reach(running, moment)
    family += running.up.tree()
    running.up.send(signal.SIGTERM)
    assert running.up.wait() == 0, running.up.log()
    assert_gone(set(family))
    assert job.result(5) == "one"
    assert running.count("start", "job") == 1
    assert running.up.log().count('"stage":"draining"') == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGHUP])
def test_no_signal_of_the_execution_is_lost(reloading: StartReloading, signum: signal.Signals) -> None:
    running = reloading()
    reach(running, "execution")
    running.up.send(signum)
    if signum in (signal.SIGTERM, signal.SIGQUIT):
        assert running.up.wait() == (0 if signum is signal.SIGTERM else 1)
        return
    running.wait_event("reload.done")
    assert running.up.log().count(f'"signal":"{signum.name}"') == (2 if signum is signal.SIGHUP else 1)
    if signum is signal.SIGHUP:
        running.wait_event("reload.started", 2)
    if signum is signal.SIGTTIN:
        wait_until(lambda: len(running.up.workers()) == 3, 10.0)
    running.up.stop()


@pytest.mark.leaves_jobs
@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_survives_kill(reloading: StartReloading, moment: str) -> None:
    running = reloading()
    job = running.begin("job")
    family = running.up.tree()
    reach(running, moment)
    family += running.up.tree()
    os.kill(running.pid, signal.SIGKILL)
    running.up.wait()
    assert_gone(set(family))
    running.deploy(code("two"))
    running.up.start()
    running.wait_for("start", "job", count=2, timeout=5.0)
    running.touch("go")
    assert job.result(10) == "two"
    assert job.info().crashes == 0
    running.up.stop()


@pytest.mark.leaves_jobs
def test_the_workers_of_a_successor_die_with_it_even_without_maintenance(reloading: StartReloading) -> None:
    running = reloading()
    running.begin("job")
    running.reload(code("two"))
    running.begin("other")
    family, maintenance = running.up.tree(), running.up.maintenance()
    assert maintenance
    os.kill(maintenance, signal.SIGSTOP)
    os.kill(running.pid, signal.SIGKILL)
    os.kill(maintenance, signal.SIGKILL)
    assert_gone(family)
    running.up.wait()


def test_a_worker_that_dies_during_the_execution_is_settled(reloading: StartReloading) -> None:
    running = reloading()
    job = running.begin("job")
    victim = int(running.lines("start", "job")[0].split()[3])
    reach(running, "execution")
    os.kill(victim, signal.SIGKILL)
    running.wait_for("start", "job", count=2, timeout=10.0)
    running.touch("go")
    assert job.result(10) in ("one", "two")
    assert job.info().crashes == 1
    running.up.stop()


def _zombies(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if child.status() == psutil.STATUS_ZOMBIE]


@pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")
def test_process_1_reloads_and_drains(server: Server, prefix: str, tmp_path: Path) -> None:
    need("pid", "fork", "mount-proc")
    prepared = Supervised(
        tmp_path / "app", code("one"), toml(), redis_url=server.url, prefix=prefix, env=environment(tmp_path)
    )
    command = [sys.executable, "-m", "millstream", "up"]
    with first_process(command, prepared.folder, tmp_path / "log", prepared.environment, "mount-proc") as own:
        own.wait_ready()
        app = Millstream(redis_url=server.url, prefix=prefix)
        pid = own.pid
        old = [process.pid for process in titled(pid, "millstream: worker")]
        assert len(old) == 2
        (prepared.folder / "app_under_test.py").write_text(code("two"))
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: "reload.done" in own.text(), 30.0, own.text)
        assert own.pid == pid
        assert app.enqueue("work", "probe", queue="default").result(10) == "two"
        wait_until(lambda: not any(map(lives, old)), 5.0, own.text)
        wait_until(lambda: not _zombies(pid), 2.0, own.text)
        app.client.close()
        assert own.drain() == 0, own.text()
