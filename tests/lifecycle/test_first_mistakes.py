"""What a new user does first: prints, a delay in the wrong place, a program before its supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream import Millstream
from tests.support.acl import as_role
from tests.support.servers import Kind, Server
from tests.support.supervised import ROOT, Supervised
from tests.support.waiting import wait_until

APP = """
import contextlib
import os
import time
from millstream import Millstream, RetryLater

app = Millstream()

@app.job
def says(text: str) -> None:
    print(text)
    time.sleep(60)

@app.job
def dots() -> None:
    with contextlib.suppress(OSError):
        print("dots...", end="")

@app.job(retry=1)
def later() -> None:
    raise RetryLater(5)
"""

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


@pytest.mark.leaves_jobs
def test_a_print_is_seen_at_once_and_survives_a_kill(supervise: Callable[..., Supervised]) -> None:
    up = supervise(APP)
    app = Millstream(redis_url=up.redis_url, prefix=up.prefix)
    handle = app.enqueue("says", "hello from a handler", queue="default")
    wait_until(lambda: "hello from a handler" in up.output(), 10, up.output)
    handle.cancel()
    up.stop()


def test_a_print_without_an_end_is_seen_when_the_job_ends(supervise: Callable[..., Supervised]) -> None:
    up = supervise(APP)
    app = Millstream(redis_url=up.redis_url, prefix=up.prefix)
    app.enqueue("dots", queue="default").result(10)
    wait_until(lambda: "dots..." in up.output(), 10, up.output)
    up.stop()


def test_prints_that_nobody_takes_end_no_worker(server: Server, prefix: str, tmp_path: Path) -> None:
    """The disk of its output is full."""
    (tmp_path / "app_under_test.py").write_text(APP)
    buffered = {"PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT)}
    environ = {**os.environ, **buffered, "MILLSTREAM_PREFIX": prefix, "MILLSTREAM_WEB__BIND": "off"}
    command = [sys.executable, "-m", "millstream", "--redis-url", as_role(server.url, "worker"), "--app"]
    command += ["app_under_test:app"]
    app = Millstream(redis_url=server.url, prefix=prefix)
    with Path("/dev/full").open("w") as full, (tmp_path / "log").open("w") as log:
        up = subprocess.Popen([*command, "up", "--processes", "1"], cwd=tmp_path, env=environ, stdout=full, stderr=log)
    try:
        for _ in range(3):
            app.enqueue("dots", queue="default").result(20)
        up.terminate()
        assert up.wait(30) == 0
    finally:
        up.kill()
        up.wait()
    text = (tmp_path / "log").read_text()
    assert text.count('"worker.started"') == 1, text
    app.client.close()


@pytest.mark.leaves_jobs
def test_a_delay_that_is_given_as_a_reason_is_an_error(supervise: Callable[..., Supervised]) -> None:
    up = supervise(APP)
    app = Millstream(redis_url=up.redis_url, prefix=up.prefix)
    handle = app.enqueue("later", queue="default")
    wait_until(lambda: handle.status() == "dead", 10, up.log)
    error = handle.info().error
    assert error and error.message == "RetryLater(5): the delay is named, as in RetryLater(delay=5)"


def test_processes_of_the_only_group(supervise: Callable[..., Supervised]) -> None:
    up = supervise(APP, arguments=("--processes", "3"))
    assert "3 workers" in up.output()


def test_a_program_before_its_supervisor(server: object, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"{APP}\nsays.enqueue('x')\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM")}
    done = subprocess.run(
        [sys.executable, "shop.py"],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("millstream.protocol.errors.Unavailable: Redis at unix://")
    assert last.endswith("start one with `millstream up`, or name another one: MILLSTREAM_REDIS_URL")
