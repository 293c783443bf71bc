"""How processes end: what an exit status says, and what is left to be stopped."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from millstream.protocol.scoreboard import Cause
from millstream.supervisor import embedded

log = structlog.get_logger("millstream.supervisor")


class Ending(NamedTuple):
    """Why a process ended. ``cause``: clean, timeout, memory, drain, cancel, lease_lost, crash (a signal) or exit."""

    cause: str
    signal: str | None
    exit_code: int | None

    @property
    def clean(self) -> bool:
        return self.cause == "clean"


def describe(status: int, cause: Cause) -> Ending:
    """Decode the status of waitpid; *cause* says why we killed it, if we did."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        return Ending(cause.name.lower() if cause else "crash", name, None)
    code = os.waitstatus_to_exitcode(status)
    return Ending("clean" if code == 0 else "exit", None, code)


def kill_leftovers(group: int) -> None:
    """Kill what is left of a dead process's group: the subprocesses of its handlers."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def dump_stacks(processes: Iterable[tuple[str, int, int]]) -> None:
    """Write every worker's Python stack to the log."""
    asked = []
    for name, pid, stack_file in processes:
        os.ftruncate(stack_file, 0)
        os.lseek(stack_file, 0, os.SEEK_SET)
        os.kill(pid, signal.SIGUSR1)
        asked.append((name, pid, stack_file))
    select.select([], [], [], 0.1 if asked else 0)  # faulthandler answers within microseconds of CPU time
    for name, pid, stack_file in asked:
        stack = os.pread(stack_file, 65536, 0).decode(errors="replace")
        os.ftruncate(stack_file, 0)  # should it crash later, this is not the stack of its crash
        os.lseek(stack_file, 0, os.SEEK_SET)
        log.info("worker.stack", worker=name, pid=pid, stack=stack or "(no answer: it waits in the kernel)")


def stop_server(pid: int | None) -> None:
    """Stop the embedded server, if it is ours."""
    if pid is not None:
        embedded.stop(pid)
