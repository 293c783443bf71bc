"""Whether an embedded server answers: asked on its socket, without a client library."""

from __future__ import annotations

import os
import socket as sockets
import time
from pathlib import Path

from millstream.protocol.errors import EmbeddedUnavailable

POLL = 0.01
"""Seconds between two questions."""

PERIODIC_TASK = 0.1
"""Seconds between two runs of the server's own periodic task, in which it acts on signals."""


def wait_ready(socket: Path, deadline: float, *, pid: int | None = None, log: Path | None = None) -> None:
    """Poll until the server answers PING (not LOADING); `deadline` is on the monotonic clock.

    Raises EmbeddedUnavailable with the last lines of its log if it exits or the time is over.
    """
    while not answers(socket):
        if pid is not None and _exited(pid):
            raise EmbeddedUnavailable(f"the embedded server could not start{_reason(log)}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"the embedded server does not answer on {socket}:\n{_tail(log)}")
        time.sleep(POLL)


def answers(socket: Path, timeout: float = 1.0) -> bool:
    """Whether a server on this socket serves commands now."""
    with _connection(timeout) as client:
        return _connected(client, socket) and _pings(client)


def stays(socket: Path) -> bool:
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


def _reason(log: Path | None) -> str:
    """What its log means, where that is not what it says."""
    if log is None or "Bad file format" not in _tail(log):
        return ""
    return (
        f", because the data in {log.parent} is damaged, or a newer server has written it: "
        "pip install 'millstream[embedded]' brings a new one, and MILLSTREAM_DATA names another folder"
    )


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return "(it wrote no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
