"""The embedded server: a private Valkey that the supervisor runs as one more child.

It listens on a unix socket only and keeps an append-only file, so that its data survives a restart and
`kill -9`. The lock on the data folder is held by the server process itself, through an inherited descriptor:
it is free exactly when no server works on the files, whoever died in whatever order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket as sockets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream.protocol.errors import EmbeddedUnavailable
from millstream.supervisor.embedded_binary import find_binary
from millstream.supervisor.embedded_process import spawn, stop

__all__ = [
    "Server",
    "answers",
    "command",
    "find_binary",
    "refuse_in_production",
    "spawn",
    "start",
    "stop",
    "wait_ready",
]

LOG_NAME = "valkey.log"
LOCK_NAME = "valkey.lock"
LOG_LIMIT = 10 * 1024 * 1024
START_TIMEOUT = 30.0  # loading a large append-only file takes its time
POLL = 0.01
PERIODIC_TASK = 0.1


@dataclass(frozen=True)
class Server:
    """A server that answers on `socket`; `pid` is None where another supervisor runs it."""

    socket: Path
    data: Path
    pid: int | None

    def announcement(self) -> str:
        """One line for the user: what serves, and how to use a real server instead."""
        whose = "started" if self.pid is not None else "already running"
        return f"Redis: private server in {self.data} ({whose}); set MILLSTREAM_REDIS_URL to use another one"


def refuse_in_production(*, production: bool) -> None:
    """Raise EmbeddedUnavailable if this is a production environment."""
    if production:
        raise EmbeddedUnavailable(
            "no Redis URL is configured, and MILLSTREAM_ENV=production refuses the embedded server: "
            "set MILLSTREAM_REDIS_URL, or redis_url in millstream.toml"
        )


def start(
    data: Path, socket: Path, *, timeout: float = START_TIMEOUT, environ: Mapping[str, str] = os.environ
) -> Server:
    """Start the server on this data folder and wait until it answers; use the one that is already there.

    The caller must reap `pid` (or call `stop`). Raises EmbeddedUnavailable if there is no server program, or
    if it does not answer within `timeout` seconds; then nothing is left running.
    """
    deadline = time.monotonic() + timeout
    while True:
        _prepare(data, socket)
        lock = _lock(data)
        if lock is not None:
            try:
                pid = spawn(command(find_binary(environ), data, socket), data / LOG_NAME, lock)
            finally:
                os.close(lock)  # the server keeps the copy that it inherited
            return _started(pid, data, socket, deadline)
        if _stays(socket):
            return Server(socket, data, None)
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"{data}: another process holds {LOCK_NAME} but does not answer on {socket}")
        time.sleep(POLL)


def respawn(data: Path, socket: Path, *, environ: Mapping[str, str] = os.environ) -> int:
    """Start the server again after it died, without waiting for it to answer; its pid, for the caller to reap.

    Raises EmbeddedUnavailable.
    """
    _prepare(data, socket)
    lock = _lock(data)
    if lock is None:
        raise EmbeddedUnavailable(f"{data}: another process holds {LOCK_NAME}")
    try:
        return spawn(command(find_binary(environ), data, socket), data / LOG_NAME, lock)
    finally:
        os.close(lock)  # the server keeps the copy that it inherited


def _started(pid: int, data: Path, socket: Path, deadline: float) -> Server:
    try:
        wait_ready(socket, deadline, pid=pid, log=data / LOG_NAME)
    except BaseException:
        stop(pid)
        raise
    return Server(socket, data, pid)


def _prepare(data: Path, socket: Path) -> None:
    """Create the private folders and see that nobody else can put a socket or files there."""
    for folder in (data, socket.parent):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise EmbeddedUnavailable(f"{folder}: cannot be used for data: {error.strerror}") from error
        if status.st_uid != os.geteuid():
            raise EmbeddedUnavailable(f"{folder}: belongs to another user; set MILLSTREAM_DATA to a folder of yours")
        if status.st_mode & 0o022:
            raise EmbeddedUnavailable(f"{folder}: others may write to it; chmod 700 it, or set MILLSTREAM_DATA")
    with contextlib.suppress(FileExistsError), (data / ".gitignore").open("x") as ignore:
        ignore.write("*\n")
    log = data / LOG_NAME
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))


def _lock(data: Path) -> int | None:
    """A descriptor with the lock on the data folder, or None where a server holds it."""
    descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def command(binary: Path, data: Path, socket: Path) -> list[str]:
    """The server's command line: unix socket only, append-only file, nothing evicted."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "logfile": str(data / LOG_NAME),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def wait_ready(socket: Path, deadline: float, *, pid: int | None = None, log: Path | None = None) -> None:
    """Poll until the server answers PING (not LOADING); `deadline` is on the monotonic clock.

    Raises EmbeddedUnavailable with the last lines of its log if it exits or the time is over.
    """
    while not answers(socket):
        if pid is not None and _exited(pid):
            raise EmbeddedUnavailable(f"the embedded server could not start:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"the embedded server does not answer on {socket}:\n{_tail(log)}")
        time.sleep(POLL)


def answers(socket: Path, timeout: float = 1.0) -> bool:
    """Whether a server on this socket serves commands now."""
    with _connection(timeout) as client:
        return _connected(client, socket) and _pings(client)


def _stays(socket: Path) -> bool:
    """Whether the server is not only there, but not about to leave.

    One that got TERM when its supervisor died still answers until its next periodic task, 10 times a second.
    """
    with _connection(1.0) as client:
        if not (_connected(client, socket) and _pings(client)):
            return False
        time.sleep(PERIODIC_TASK * 3)
        return _pings(client)


def _connection(timeout: float) -> sockets.socket:
    client = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    client.settimeout(timeout)
    return client


def _connected(client: sockets.socket, socket: Path) -> bool:
    try:
        client.connect(str(socket))
    except OSError:
        return False
    return True


def _pings(client: sockets.socket) -> bool:
    try:
        client.sendall(b"PING\r\n")
        return client.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _exited(pid: int) -> bool:
    if not hasattr(os, "waitid"):
        return False  # macOS before Python 3.13: the deadline will tell
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return "(it wrote no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
