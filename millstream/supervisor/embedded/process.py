"""Starts the embedded server as a child that does not outlive its parent, and stops it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

STOP_TIMEOUT = 10.0
POLL = 0.01

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: a forked child should do as little as possible.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def spawn(arguments: list[str], log: Path, lock: int) -> int:
    """Fork and execute a server in a session of its own; INT, its clean end, reaches it when this process dies.

    TERM is blocked in it: whoever signals a whole tree (systemd's control group) must not take the server away
    from jobs that are still being drained.

    Returns its pid. Not subprocess.Popen: the supervisor reaps all its children itself.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _execute(arguments, log, lock, parent)
    return pid


def _execute(arguments: list[str], log: Path, lock: int, parent: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # ignored by Python; exec would hand that on
            signal.signal(ignored, signal.SIG_DFL)
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it died before the signal was armed
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
        os.umask(0o077)
        _redirect(log, lock)
        os.execv(arguments[0], arguments)
    except BaseException as error:
        os.write(2, f"{arguments[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _redirect(log: Path, lock: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(lock, 3) if lock != 3 else os.set_inheritable(3, True)
    for name in os.listdir("/dev/fd"):
        if int(name) > 3:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.set_inheritable(int(name), False)


def stop(pid: int, timeout: float = STOP_TIMEOUT) -> None:
    """End a server that this process started: INT, so that it writes everything; KILL after `timeout` s."""
    for signum, patience in ((signal.SIGINT, timeout), (signal.SIGKILL, STOP_TIMEOUT)):
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return
        if _reaped(pid, time.monotonic() + patience):
            return


def _reaped(pid: int, deadline: float) -> bool:
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return True
        except ChildProcessError:  # reaped by somebody else
            return True
        time.sleep(POLL)
    return False
