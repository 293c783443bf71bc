"""Process trees: who descends from us, who is left, and ties that let nobody outlive us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable

import psutil

from tests.support.waiting import wait_until

MARKER = "MILLSTREAM_TEST"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_foreign: set[tuple[int, float]] = set()


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this process when the thread that started it ends."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the new parent of descendants whose parent dies, so that they stay visible.

    An environment marker alone does not find them: a changed process title overwrites the environment.
    """
    if sys.platform == "linux":
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def tree(pid: int) -> list[psutil.Process]:
    """Every living descendant of `pid`, not itself; zombies are not living."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in found if alive(process)]


def alive(process: psutil.Process | int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def titled(pid: int, title: str) -> list[psutil.Process]:
    """Descendants of `pid` whose command line starts with `title` ("millstream: worker")."""
    return [process for process in tree(pid) if command_line(process).startswith(title)]


def command_line(process: psutil.Process) -> str:
    """The command line as one string; empty when the process is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def ours() -> list[psutil.Process]:
    """Living descendants of this process, and any process that carries its marker in the environment."""
    mine = {process.pid: process for process in tree(os.getpid())}
    marker = os.environ.get(MARKER)
    for process in psutil.process_iter() if marker else ():
        if process.pid not in mine and process.pid != os.getpid() and _carries(process, marker):
            mine[process.pid] = process
    return list(mine.values())


def _carries(process: psutil.Process, marker: str | None) -> bool:
    key = (process.pid, process.create_time())
    if key in _foreign:
        return False
    with contextlib.suppress(psutil.Error, OSError):
        if process.environ().get(MARKER) == marker and alive(process):
            return True
    _foreign.add(key)
    return False


def assert_gone(processes: Iterable[psutil.Process | int], timeout: float = 2.0) -> None:
    """Assert that every one of the processes ends within `timeout` seconds."""
    watched = list(processes)

    def left() -> list[psutil.Process | int]:
        return [process for process in watched if alive(process)]

    wait_until(lambda: not left(), timeout, lambda: f"still alive: {left()}")


def reap_adopted() -> None:
    """Collect zombies that were re-parented to this process."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL each of them and wait until they are gone."""
    watched = list(processes)
    for process in watched:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert_gone(watched, timeout=10.0)
    reap_adopted()
