"""/healthz, /readyz and `millstream healthcheck`: the reasons, and what a restart would not mend."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.supervisor.identity import runtime_folder
from millstream.supervisor.web.folder import ADDRESS, serves_another
from tests.supervisor.web.conftest import Mill, StartMill
from tests.support.servers import Kind, StartServer
from tests.support.waiting import stays, wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def wait_for(running: Mill, path: str, code: int, *reasons: str, timeout: float = 20.0) -> None:
    """Wait until a path is answered with this code and these reasons."""
    wait_until(
        lambda: (answer := running.get(path)).code == code and answer.reasons() == {*reasons},
        timeout,
        lambda: f"{path}: {running.get(path)}\n{running.up.log()}",
    )


def test_well_and_ready(mill: StartMill) -> None:
    running = mill()
    wait_for(running, "/healthz", 200)
    wait_for(running, "/readyz", 200)
    assert running.get("/healthz").json()["status"] == "ok"
    assert running.get("/readyz").json()["status"] == "ready"
    assert running.get("/nothing").code == 404
    running.up.stop()


def test_the_command(mill: StartMill) -> None:
    running = mill()
    wait_for(running, "/readyz", 200)
    done = running.up.command("healthcheck")
    assert (done.returncode, done.stdout) == (0, "status  ok\n")
    assert running.up.command("healthcheck", "--ready", "--json").returncode == 0
    running.up.send(signal.SIGTSTP)
    wait_for(running, "/readyz", 503, "quiet", "workers")
    done = running.up.command("healthcheck", "--ready")
    assert done.returncode == 1 and "quiet" in done.stdout
    assert running.up.command("healthcheck").returncode == 0
    running.up.send(signal.SIGCONT)
    wait_for(running, "/readyz", 200)
    running.up.stop()
    done = running.up.command("healthcheck")
    assert done.returncode == 69 and "no supervisor" in done.stderr


def test_another_projects_supervisor_does_not_answer_for_ours(mill: StartMill) -> None:
    running = mill()
    wait_for(running, "/readyz", 200)
    address = running.address
    other = running.up.folder / "other"
    other.mkdir()
    (other / "millstream.toml").write_text(f'[supervisor]\nname = "other"\n[web]\nbind = "{address}"\n')
    environ = {**running.up.environment, "MILLSTREAM_WEB__BIND": address}
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "healthcheck"], cwd=other, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 69
    assert f"what answers at {address} is the supervisor of another project" in done.stderr
    running.up.stop()


def test_what_a_killed_supervisor_left_does_not_speak_for_ours(
    mill: StartMill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was another project's, had the same address, and was killed before it could remove its folder."""
    running = mill()
    monkeypatch.setenv("XDG_RUNTIME_DIR", running.up.environment["XDG_RUNTIME_DIR"])
    wait_for(running, "/readyz", 200)
    left = tmp_path / "metrics-left"
    left.mkdir()
    (left / ADDRESS).write_text(running.address)
    link = runtime_folder() / "left.web"
    link.symlink_to(left)
    try:
        done = running.up.command("healthcheck")
    finally:
        link.unlink()
    assert (done.returncode, done.stdout) == (0, "status  ok\n"), done.stderr
    assert serves_another(running.address, "other", "redis://elsewhere", "ms:")
    running.up.stop()
    assert not serves_another(running.address, "other", "redis://elsewhere", "ms:")


def test_a_drain_is_unready_but_healthy(mill: StartMill) -> None:
    running = mill()
    running.enqueue("until", "go")
    running.wait_metric('millstream_workers{group="default",state="busy"}', 1)
    running.up.send(signal.SIGTERM)
    wait_for(running, "/readyz", 503, "draining", "workers")
    assert running.get("/healthz").code == 200
    assert running.metrics()["millstream_draining"] == 1
    (running.up.folder / "go").touch()
    assert running.up.wait() == 0


def test_an_outage_of_redis_is_unready_not_dead(mill: StartMill, start_server: StartServer) -> None:
    server = start_server(Kind.VALKEY, appendonly=True)
    running = mill(redis_url=server.url)
    running.enqueue("ok", 1).result(10)
    wait_for(running, "/readyz", 200)
    web, workers = running.web(), running.up.workers()
    server.kill9()
    wait_for(running, "/readyz", 503, "redis", timeout=30)
    health = running.get("/healthz")
    assert health.code == 200 and health.json()["status"] == "degraded" and health.reasons() == {"redis"}
    assert running.finished("ok", "completed") == 1
    assert running.metrics()['millstream_redis_errors_total{op="exchange"}'] > 0
    server.restart()
    wait_for(running, "/readyz", 200, timeout=30)
    assert (web, workers) == (running.web(), running.up.workers())
    running.up.stop()


def test_a_supervisor_that_stands_still_is_unhealthy(mill: StartMill) -> None:
    running = mill()
    wait_for(running, "/healthz", 200)
    running.up.send(signal.SIGSTOP)
    wait_for(running, "/healthz", 503, "supervisor")
    running.up.send(signal.SIGCONT)
    wait_for(running, "/healthz", 200)
    running.up.stop()


def test_a_group_that_keeps_dying_is_unhealthy(mill: StartMill) -> None:
    running = mill(supervisor="restart_period = 5", env={"MILLSTREAM_SUPERVISOR__RESTART_INTENSITY": "1"})
    for _ in range(3):
        pids = wait_until(running.up.workers, describe=running.up.log)
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda old=pids[0]: old not in running.up.workers())  # type: ignore[misc]
    wait_for(running, "/healthz", 503, "group")
    wait_for(running, "/healthz", 200, timeout=40)  # one has to live for 10 s
    running.up.stop()


@pytest.mark.parametrize("threshold", ["1", "{ b = 1 }"])
def test_an_old_backlog_is_degraded(mill: StartMill, threshold: str) -> None:
    running = mill(web=f"max_backlog_age = {threshold}")
    running.enqueue("until", "go")
    running.wait_metric('millstream_workers{group="default",state="busy"}', 1)
    running.enqueue("until", "go")
    wait_for(running, "/healthz", 200, "backlog")
    assert running.get("/healthz").json()["status"] == "degraded"
    (running.up.folder / "go").touch()
    wait_for(running, "/healthz", 200)
    running.up.stop()


def test_where_nothing_can_be_kept_jobs_run_on(mill: StartMill) -> None:
    """A disk that is full for new files, as a limit has it: said once, shown, and over when there is room again."""
    running = mill()
    running.enqueue("ok", 1).result(10)
    running.wait_finished("ok", "completed", 1)
    unlimited = resource.prlimit(running.up.pid, resource.RLIMIT_FSIZE, (16 * 1024, resource.RLIM_INFINITY))
    for pid in (*running.up.workers(), running.up.maintenance()):
        os.kill(pid or 0, signal.SIGKILL)
    running.up.wait_log("metrics.not_kept")  # only the worker's: the next maintenance has its predecessor's files
    for number in range(20):
        running.enqueue("ok", number).result(10)
    wait_for(running, "/healthz", 200, "metrics")
    assert "1 of 2 processes cannot count" in running.get("/healthz").text
    assert running.up.log().count("metrics.not_kept") == 1, "once"
    assert running.finished("ok", "completed") == 1

    (worker,), maintenance = running.up.workers(), running.up.maintenance()
    for pid in (running.up.pid, worker, maintenance):
        resource.prlimit(pid or 0, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: _ok_again(running), 40.0, running.up.log)
    running.wait_finished("ok", "completed", running.jobs, timeout=20)
    assert running.up.workers() == [worker]
    running.up.stop()


def _ok_again(running: Mill) -> bool:
    """Whether all counts are kept; a process finds out when it counts."""
    running.enqueue("ok", 1).result(10)
    return not running.get("/healthz").reasons()


def test_a_taken_address_stops_nothing(mill: StartMill) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        running = mill(env={"MILLSTREAM_WEB__BIND": f"127.0.0.1:{port}"})
        running.up.wait_log("web.bind.*web.not_listening")
        running.enqueue("ok", 1).result(10)
    assert running.up.log().count("web.not_listening") == 1
    wait_for(running, "/readyz", 200)
    assert running.up.command("healthcheck").returncode == 0
    running.up.stop()


def test_nothing_is_served_where_it_is_off(mill: StartMill) -> None:
    running = mill(env={"MILLSTREAM_WEB__BIND": "off"})
    running.enqueue("ok", 1).result(10)
    assert "web.listening" not in running.up.log()
    assert not [*running.up.folder.parent.glob("run/millstream-*/metrics-*")]
    done = running.up.command("healthcheck")
    assert done.returncode == 69 and "off" in done.stderr
    running.up.stop()


def test_the_web_child_is_replaced_and_ignores_signals(mill: StartMill) -> None:
    running = mill()
    wait_for(running, "/readyz", 200)
    web = running.web()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(web, number)
    stays(lambda: running.web() == web, 0.5)
    os.kill(web, signal.SIGKILL)
    wait_until(lambda: running.web() != web, describe=running.up.log)
    wait_until(lambda: running.up.log().count("web.listening") == 2)
    wait_for(running, "/readyz", 200)
    assert "worker.exited" not in running.up.log()
    running.up.stop()
