"""Starts the embedded server on a data folder, under a lock that it holds itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream.protocol.errors import EmbeddedUnavailable
from millstream.supervisor.embedded.binary import find_binary
from millstream.supervisor.embedded.probe import POLL, stays, wait_ready
from millstream.supervisor.embedded.process import spawn, stop

LOG_NAME = "valkey.log"
LOCK_NAME = "valkey.lock"
LOG_LIMIT = 10 * 1024 * 1024
START_TIMEOUT = 30.0  # loading a large append-only file takes its time


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
        if stays(socket):
            return Server(socket, data, None)
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"{data}: another process holds {LOCK_NAME} but does not answer on {socket}")
        time.sleep(POLL)


def respawn(data: Path, socket: Path, *, environ: Mapping[str, str] = os.environ) -> int | None:
    """Start the server again after it died, without waiting for it to answer; its pid, for the caller to reap.

    None where one is there: another supervisor runs it. Raises EmbeddedUnavailable.
    """
    _prepare(data, socket)
    lock = _lock(data)
    if lock is None:
        return None
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
