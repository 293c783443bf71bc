"""What ``millstream up`` refuses, before it starts: the cause, the message, the exit code."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as redis_py

from tests.support.acl import as_role
from tests.support.proxy import Proxy
from tests.support.servers import StartServer
from tests.support.supervised import ROOT, Supervised

APP = """
from millstream import Millstream

app = Millstream()

@app.job(queue="q")
def add(a: int, b: int = 1) -> int:
    return a + b
"""


def fake_server(reply: bytes) -> tuple[int, Callable[[], None]]:
    """Listen and answer everything with *reply*; returns the port and what stops it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def stop() -> None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)

    return listener.getsockname()[1], stop


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an application."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "shop.py").write_text(APP)
    (folder / "millstream.toml").write_text('app = "shop:app"\n[workers.default]\nprocesses = 1\n')
    return folder


def up(project: Path, url: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run ``millstream up`` where it should refuse; exit code and stderr."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(project), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "millstream", *arguments, "--redis-url", as_role(url, "worker"), "up"],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 78, "is not a Redis or Valkey server"),
        (b"-ERR unknown command 'COMMAND'\r\n", 78, "is too old: Millstream needs Redis 7.0 or Valkey 7.2"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", 69, "is still loading its data"),
        (b"-NOAUTH Authentication required.\r\n", 78, "refused the user name or password"),
        (b"", 69, "cannot be reached"),
    ],
    ids=["http", "old", "loading", "password", "silent"],
)
def test_servers_that_will_not_do(project: Path, reply: bytes, code: int, message: str) -> None:
    port, stop = fake_server(reply)
    try:
        found, err = up(project, f"redis://127.0.0.1:{port}/0")
    finally:
        stop()
    assert (found, message in err) == (code, True), err


def test_no_server(project: Path) -> None:
    code, err = up(project, "redis://:secret@127.0.0.1:1/0")
    assert code == 69
    assert "millstream: Redis at redis://:***@127.0.0.1:1/0 cannot be reached" in err
    assert "secret" not in err


@pytest.mark.parametrize("maxmemory", [None, 1 << 30])
def test_a_server_that_may_evict_is_said_loudly(
    project: Path, start_server: StartServer, maxmemory: int | None
) -> None:
    server = start_server(maxmemory=maxmemory, extra=("--maxmemory-policy", "allkeys-lru"))
    with Supervised(project / "up", APP, redis_url=server.url, env={"XDG_RUNTIME_DIR": str(project)}) as up:
        line = up.wait_log(r'.*"redis.may_evict".*')[0]
        assert "allkeys-lru" in line and "warning" in line
        up.stop()


@pytest.mark.parametrize("hang", [False, True], ids=["ends", "silent"])
def test_lost_replies_at_the_start(project: Path, start_server: StartServer, hang: bool) -> None:
    """One of each step is lost, that to the claim of the name after it was made: it starts nevertheless."""
    server = start_server(tcp=True)
    with Proxy(("127.0.0.1", server.port)) as proxy:
        lost = [proxy.drop_reply(command, hang=hang) for command in (b"COMMAND", b"HGET", b"EVALSHA\r\n$40")]
        up = Supervised(project / "up", APP, redis_url=proxy.url, env={"XDG_RUNTIME_DIR": str(project)})
        with up.start(timeout=30.0):
            up.stop()
        assert [loss.lost for loss in lost] == [1, 1, 1]


def test_a_wrong_password(project: Path, start_server: StartServer) -> None:
    server = start_server(requirepass="right", tcp=True)
    code, err = up(project, f"redis://:wrong@127.0.0.1:{server.port}/0")
    assert code == 78
    assert f"Redis at redis://:***@127.0.0.1:{server.port}/0 refused the user name or password" in err


@pytest.mark.parametrize("queues", ["", 'queues = ["q"]\n'], ids=["queues of the jobs", "given queues"])
@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("nowhere", "", "there is no module 'nowhere'"),
        ("broken", "x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero"),
        ("syntax", "def f(:\n", "SyntaxError"),
        ("needs", "import nowhere_else\n", "ModuleNotFoundError: No module named 'nowhere_else'"),
        ("leaves", "raise SystemExit(3)\n", "SystemExit: 3"),
        ("empty", "", "module 'empty' has no 'app'"),
        ("other", "app = 1\n", "is a int, not a Millstream application"),
        ("again", APP + APP.replace("app = Millstream()", ""), "there are two jobs 'add'"),
    ],
    ids=["missing", "raises", "syntax", "imports", "exits", "without app", "no app", "duplicate"],
)
def test_applications_that_cannot_be_used(
    project: Path, url: str, prefix: str, module: str, text: str, message: str, queues: str
) -> None:
    with (project / "millstream.toml").open("a") as file:
        file.write(queues)
    if module != "nowhere":
        (project / f"{module}.py").write_text(text)
    code, err = up(project, url, "--app", f"{module}:app", MILLSTREAM_PREFIX=prefix)
    assert (code, message in err) == (78, True), err


def test_a_queue_that_nobody_serves_is_said(project: Path, supervise: Callable[..., Supervised]) -> None:
    own = supervise(APP, '[workers.default]\nqueues = ["qq"]\nprocesses = 1\n')
    line = next(line for line in own.log().splitlines() if "queue.not_served" in line)
    assert '"queue":"q"' in line.replace(" ", "")
    own.stop()


def test_no_application(project: Path, url: str) -> None:
    (project / "millstream.toml").write_text("[workers.default]\nprocesses = 1\n")
    code, err = up(project, url)
    assert code == 78
    assert "app" in err


def test_a_toml_with_several_faults(project: Path, url: str) -> None:
    (project / "millstream.toml").write_text(
        'app = 3\ncolour = "red"\n[workers.w]\nprocesses = "many"\nmax_rss = "big"\n[supervisor]\nlease = -1\n'
    )
    code, err = up(project, url)
    assert code == 78
    for key in ("app", "colour", "workers.w.processes", "workers.w.max_rss", "supervisor.lease"):
        assert any(line.startswith(f"millstream: {key}") for line in err.splitlines()), (key, err)


def test_keys_of_a_newer_format(project: Path, url: str, prefix: str, redis: redis_py.Redis) -> None:
    redis.set(f"{prefix}schema", "3")
    code, err = up(project, url, MILLSTREAM_PREFIX=prefix)
    assert code == 78
    assert "have format '3', this version knows up to 2" in err


@pytest.mark.parametrize(("stored", "kept"), [("0", b"1"), ("1", b"1"), ("2", b"2")])
def test_keys_of_the_formats_beside_ours(
    supervise: Callable[..., Supervised], redis: redis_py.Redis, prefix: str, stored: str, kept: bytes
) -> None:
    """The one before is raised to ours; the one after is left as it is, its supervisors may run beside us."""
    redis.set(f"{prefix}schema", stored)
    own = supervise(APP)
    assert redis.get(f"{prefix}schema") == kept
    own.stop()


def test_a_name_that_is_taken(project: Path, supervise: Callable[..., Supervised], url: str, prefix: str) -> None:
    with supervise(APP) as first:
        for runtime in (first.folder, project):  # with and without a view of the other's lock
            code, err = up(project, url, MILLSTREAM_PREFIX=prefix, XDG_RUNTIME_DIR=str(runtime))
            assert code == 75
            assert "supervisor" in err
            assert "give this one another name" in err
        assert first.running
        first.stop()
