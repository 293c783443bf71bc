"""A user's mistake is a message and an exit code, never a traceback."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.commands import Cli, start
from tests.support.filled import Filled
from tests.support.servers import StartServer
from tests.support.waiting import wait_until


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
