"""How processes end: what an exit status says, and what is left to be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from millstream.protocol.scoreboard import Cause
from millstream.supervisor.slot import Process, Slot

log = structlog.get_logger("millstream.supervisor")


class Ending(NamedTuple):
    """Why a process ended. ``cause``: a :class:`Cause` of ours, else clean, crash (a signal) or exit."""

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
        try:
            name = signal.Signals(number).name
        except ValueError:  # a real-time signal without a name
            name = f"signal {number}"
        return Ending(cause.name.lower() if cause else "crash", name, None)
    code = os.waitstatus_to_exitcode(status)
    return Ending("clean" if code == 0 else "exit", None, code)


def ended_by(status: int, number: int) -> bool:
    """Whether it died by this signal, whoever sent it."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == number


def kill_leftovers(group: int) -> None:
    """Kill what is left of a dead process's group: the subprocesses of its handlers."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def dump_stacks(processes: Sequence[tuple[Slot, Process]]) -> None:
    """Write every worker's Python stack to the log."""
    for _, process in processes:
        process.request_stack()
    time.sleep(0.1 if processes else 0)  # faulthandler answers within microseconds of CPU time
    for slot, process in processes:
        stack = process.read_stack().decode(errors="replace")
        process.forget_stack()  # should it crash later, this is not the stack of its crash
        log.info("worker.stack", worker=slot.name, pid=process.pid, stack=stack or "(no answer: it is in the kernel)")
