"""The runbook: each command is run against a system that has what the text speaks of; events and causes are real."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import redis

from millstream import Millstream
from millstream.protocol.scoreboard import Phase
from millstream.supervisor.web import health
from tests.docs.documents import DOCS, blocks, code, commands, rows, sections
from tests.support.acl import as_role
from tests.support.servers import StartServer
from tests.support.supervised import ROOT, Supervised
from tests.support.waiting import wait_until

TEXT = (DOCS / "runbook.md").read_text()
SECTIONS = {title: text for title, text in sections(TEXT).items() if commands(text)}

APP = """
import time
from millstream import Fail, Millstream

app = Millstream()

@app.job(queue="reports")
def render() -> None:
    raise Fail("no paper")

@app.job(queue="reports")
def wait(seconds: float) -> None:
    time.sleep(seconds)
"""

TOML = """
[workers.reports]
queues = ["reports"]
processes = 2
kill_after = 0.2
[supervisor]
drain_timeout = 3
"""

ENDS = {"A drain takes too long"}
"""The sections whose commands end the supervisor."""


def variables(own: Supervised, app: Millstream) -> dict[str, str]:
    """What the commands name: a dead job, a running one, the supervisor's pid."""
    dead = app.enqueue("render", queue="reports")
    running = app.enqueue("wait", 60.0, queue="reports")
    wait_until(lambda: dead.status() == "dead" and running.status() == "running", 20, own.log)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    names = {"PID": str(own.pid), "DEAD": dead.id, "RUNNING": running.id, "PATH": path}
    operator = {"MILLSTREAM_REDIS_URL": as_role(own.environment["MILLSTREAM_REDIS_URL"], "operator")}
    return {**own.environment, **operator, **names, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.leaves_jobs
@pytest.mark.parametrize("title", SECTIONS)
def test_commands(title: str, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(tcp=True)
    with Supervised(tmp_path / "app", APP, TOML, redis_url=server.tcp_url) as own:
        environ = variables(own, Millstream(redis_url=server.url))
        for command in commands(SECTIONS[title]):
            done = subprocess.run(
                ["bash", "-c", command.text], cwd=own.folder, env=environ, capture_output=True, text=True, timeout=30
            )
            assert done.returncode == 0, f"{command.text}\n{done.stdout}{done.stderr}"
        if title in ENDS:
            assert own.wait() == 0
        else:
            assert own.running


def test_every_event_is_real() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "millstream").rglob("*.py"))
    events = {name for name in code(TEXT) if re.fullmatch(r"[a-z]+\.[a-z_]+", name)} - {"supervisor.name"}
    assert len(events) > 8
    assert not [name for name in sorted(events) if f'"{name}"' not in source]


def test_every_cause_is_explained() -> None:
    source = "\n".join(
        path.read_text() for path in (ROOT / "millstream").rglob("*.*") if path.suffix in (".py", ".lua")
    )
    causes = {"error", "timeout", "memory", "crash", "exit", "unknown_job", "malformed", "result", "lease_expired"}
    assert causes <= set(code(SECTIONS["Dead letters grow"]))
    assert not [cause for cause in sorted(causes) if not re.search(rf"[\"']{cause}[\"']", source)]


def test_every_reason_of_a_health_check_has_something_to_do() -> None:
    source = inspect.getsource(health)
    phases = {phase.name.lower() for phase in Phase if phase is not Phase.RUNNING}
    reasons = {*re.findall(r'Reason\(\s*"(\w+)"', source), *phases}
    told = {code(row[0])[0] for row in rows(sections(TEXT)["A health check complains"])}
    explained = {name for row in rows(sections((DOCS / "metrics.md").read_text())["Health"]) for name in code(row[0])}
    assert reasons == told == explained


def test_the_deployment_document_names_files_that_exist() -> None:
    text = (DOCS / "deployment.md").read_text()
    named = re.findall(r"ops/[\w./-]+\w", "".join(block.text for block in blocks(text)))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_image_in_the_deployment_document_is_the_dockerfiles() -> None:
    dockerfile, text = (ROOT / "Dockerfile").read_text(), (DOCS / "deployment.md").read_text()
    for line in blocks(text, "dockerfile")[0].text.splitlines():
        assert f"#   {line}\n" in dockerfile
    for value in ("10001", "7070", "/dev/shm", "30s"):
        assert value in dockerfile
        assert value.removesuffix("s") in text


def test_folders_and_files_of_contributing_exist() -> None:
    named = {name for name in code((ROOT / "CONTRIBUTING.md").read_text()) if re.fullmatch(r"[\w.]+/[\w./]*", name)}
    assert len(named) > 10
    assert not [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()]


def _refused(own: Supervised, client: redis.Redis) -> subprocess.CompletedProcess[str] | None:
    """Fill the server to the brim and enqueue; None where something made room in that moment."""
    for size in (10_000, 1_000, 100):
        with contextlib.suppress(redis.OutOfMemoryError):
            while True:
                client.set(f"ms:filler:{uuid.uuid4()}", size * "x")
    done = own.command("enqueue", "wait", "0.1", "--queue", "reports")
    return done if done.returncode == 69 else None


def test_a_full_server_refuses_jobs_and_nothing_else(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(maxmemory=8 * 1024 * 1024)
    with Supervised(tmp_path / "app", APP, TOML, redis_url=server.url) as own:
        client = server.client()
        enqueued = own.command("enqueue", "wait", "0.5", "--queue", "reports").stdout.strip()
        refused = wait_until(lambda: _refused(own, client), 20)
        assert "is full (maxmemory)" in refused.stderr
        assert own.command("jobs", "watch", enqueued, "--json").returncode == 0
        assert own.command("queues", "list").returncode == 0
        own.stop()
