"""A user's mistake is a message and an exit code, never a traceback."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.support.commands import Cli, start
from tests.support.filled import Filled
from tests.support.servers import StartServer
from tests.support.waiting import wait_until


def _answer(listener: socket.socket) -> None:
    """Answer one request as some other web server would."""
    client, _ = listener.accept()
    with client:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


class TestFailures:
    def test_redis_cannot_be_reached(self, cli: Cli) -> None:
        code, out, err = cli("queues", "list", "--redis-url", "redis://:secret@127.0.0.1:1/0")
        assert (code, out) == (69, "")
        assert err.startswith("millstream: Redis at redis://:***@127.0.0.1:1/0 cannot be reached")
        assert "Traceback" not in err

    def test_no_embedded_server_runs(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("MILLSTREAM_REDIS_URL")
        code, _, err = cli("queues", "list")
        assert code == 69
        assert f"no server runs for {tmp_path / 'cwd' / '.millstream'}: start one with `millstream up`" in err

    def test_a_misspelt_key_sends_nobody_to_another_server(self, cli: Cli, project: Path) -> None:
        file = project / "millstream.toml"
        file.write_text('app = "project_jobs:app"\nredisurl = "redis://elsewhere"\n')
        for command in (("queues", "list"), ("enqueue", "add", "1")):
            code, out, err = cli(*command)
            assert (code, out) == (78, "")
            assert f"{file}: unknown key 'redisurl'; `millstream check` tells all that is wrong" in err
        code, _, err = cli("check")
        assert (code, "did you mean redis_url?" in err) == (78, True)

    def test_check_knows_what_up_refuses(self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLSTREAM_LOG_LEVEL", "verbose")
        code, _, err = cli("check")
        assert code == 78
        assert "MILLSTREAM_LOG_LEVEL: must be one of debug, info, warning, error, not 'verbose'" in err

    def test_up_with_processes_for_several_groups(self, cli: Cli, project: Path) -> None:
        (project / "millstream.toml").write_text('[workers.a]\nqueues = ["a"]\n[workers.b]\nqueues = ["b"]\n')
        code, _, err = cli("up", "--processes", "3")
        assert (code, "there are a, b: set `processes` of each" in err) == (2, True)

    def test_what_answers_is_no_supervisor(self, cli: Cli, project: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            answer = threading.Thread(target=_answer, args=(listener,))
            answer.start()
            (project / "millstream.toml").write_text(f'[web]\nbind = "127.0.0.1:{port}"\n')
            code, _, err = cli("healthcheck")
            answer.join(10)
        assert (code, f"what answers at 127.0.0.1:{port} is no supervisor" in err) == (69, True)

    def test_a_wrong_password(self, cli: Cli, start_server: StartServer) -> None:
        server = start_server(requirepass="right")
        code, _, err = cli("queues", "list", "--redis-url", f"unix://:wrong@{server.socket}")
        assert code == 78
        assert "refused the user name or password" in err
        assert "wrong@" not in err

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ((), 2),
            (("nothing",), 2),
            (("queues", "list", "-o", "xml"), 2),
            (("queues", "list", "--redis-url", "http://x"), 78),
            (("queues", "list", "--config", "nowhere.toml"), 78),
            (("config", "show", "--config", "nowhere.toml"), 78),
        ],
    )
    def test_exit_codes(self, cli: Cli, arguments: tuple[str, ...], code: int) -> None:
        found, out, err = cli(*arguments)
        assert (found, out) == (code, "")
        assert err

    def test_a_closed_pipe_is_no_traceback(self, filled: Filled) -> None:
        filled.add(400)
        with start("jobs", "list", "--limit", "400", "-o", "ndjson") as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            err = process.stderr.read()
            process.wait(20)
        assert "Traceback" not in err
        assert "BrokenPipe" not in err
        filled.drain()

    def test_ctrl_c(self, filled: Filled) -> None:
        filled.add(1)
        with start("jobs", "watch", "j1") as process:
            wait_until(lambda: filled.link.execute("HKEYS", filled.keys.waiting), 20.0)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert filled.link.execute("HKEYS", filled.keys.waiting) == []
        filled.drain()
