"""Reload, as the supervisor sees it: a rehearsal in a throwaway process, and then no way back."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from millstream.supervisor import endings, signals
from millstream.supervisor.children import fork
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan
from millstream.supervisor.reload import handover, relaunch
from millstream.supervisor.reload.handover import Handover
from millstream.supervisor.reload.relaunch import Launch
from millstream.worker.program import die_with_parent

log = structlog.get_logger("millstream.supervisor")

LIMIT = 120.0
"""Seconds that the rehearsal may take: as long as a worker may take to start."""


class Reload:
    """At most one at a time; what is asked for meanwhile is done afterwards, once."""

    def __init__(self, launch: Launch | None, notifier: Notifier, forget: Callable[[], None]) -> None:
        self.pid: int | None = None
        self.wanted = False
        self.accepted: dict[str, Any] | None = None  # the new plan, as the rehearsal has written it
        self.began = 0.0
        self._launch = launch
        self._notifier = notifier
        self._forget = forget
        self._unfinished = False
        self._file = -1
        self._killed = ""  # why we have killed the rehearsal

    @property
    def idle(self) -> bool:
        """Whether none is on."""
        return self.pid is None and self.accepted is None

    def adopt(self, began: float, *, again: bool) -> None:
        """This process is the successor already; old workers are to be relieved."""
        self.began, self.wanted, self._unfinished = began, again, True

    def finish(self, *, old: int) -> None:
        """The old workers are relieved, and so many still end their jobs: say so, once."""
        if self._unfinished and self.idle:
            self._unfinished = False
            seconds = round(time.monotonic() - self.began, 1)
            log.info("reload.done", seconds=seconds, old_workers=old)
            self._notifier.reloaded()

    def start(self, plan: Plan, state: Handover) -> None:
        """Start the rehearsal for the successor of a supervisor that runs by *plan*.

        It sees what would be handed over now: what it cannot read, the successor could not read either.
        """
        self.wanted, self.began, self._killed = False, time.monotonic(), ""
        log.info("reload.started")
        self._notifier.reloading()
        if self._launch is None:
            return self.refuse("this supervisor was not started by `millstream up`")
        try:
            self._file = handover.write({"plan": handover.as_written(plan), "handover": handover.as_written(state)})
            self.pid = fork(self._program())
        except OSError as error:  # no memory, processes or descriptors left
            self._close()
            self.refuse(f"the process that would load it cannot be started: {error}")
        return None

    def keep_time(self, now: float) -> None:
        """Kill a rehearsal that takes too long."""
        if now - self.began > LIMIT:
            self._kill(f"loading takes longer than {LIMIT:g} s")

    def cancel(self) -> None:
        """The supervisor stops: there is no reload."""
        self.wanted, self.accepted = False, None
        self._kill("the supervisor stops")

    def _kill(self, reason: str) -> None:
        if self.pid is not None and not self._killed:
            self._killed = reason
            endings.kill_leftovers(self.pid)  # its group, as long as it was not reaped it is in there

    def died(self, status: int) -> None:
        """The rehearsal was reaped: it has answered, or ended without a word."""
        assert self.pid is not None
        endings.kill_leftovers(self.pid)
        self.pid = None
        answer = handover.read(self._file)
        self._close()
        if self._killed:
            self.refuse(self._killed)
        elif status == 0 and "accepted" in answer:
            self.accepted = answer["accepted"]
        else:
            self.refuse(*answer.get("problems") or [f"the process that tried to load it {_worded(status)}"])

    def refuse(self, *problems: str) -> None:
        """Say why everything stays as it is."""
        self.accepted = None
        self._notifier.reloaded()
        log.error("reload.refused", problems=list(problems), hint="nothing was changed, the old code goes on")

    def become_successor(self, state: Handover) -> None:
        """Go on as the new code, with these children; returns only where that cannot be started."""
        assert self._launch is not None
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            self._file = handover.write({"plan": self.accepted, "handover": handover.as_written(state)})
            kept = {self._file, *state.descriptors}
            for descriptor in _open_descriptors() | kept:
                os.set_inheritable(descriptor, descriptor in kept)
            self._notifier.feed(time.monotonic())  # the next meal comes when all of the new code is imported
            self._launch.start_again(relaunch.Role.SUCCESSOR, self._file)
        except OSError as error:
            for descriptor in state.descriptors:
                os.set_inheritable(descriptor, False)
            self._close()
            self.refuse(f"the new code cannot be started: {error}")

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _program(self) -> Callable[[], int]:
        parent, launch, file = os.getpid(), self._launch, self._file
        assert launch is not None

        def program() -> int:
            self._forget()
            die_with_parent(parent)
            signals.reset()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.set_inheritable(file, True)
            try:
                launch.start_again(relaunch.Role.REHEARSAL, file)
            except OSError as error:
                handover.write({"problems": [f"it cannot be started: {error}"]}, file)
            return 1

        return program


def _worded(status: int) -> str:
    """How a process has ended without an answer."""
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with exit code {os.waitstatus_to_exitcode(status)} and no answer"


def _open_descriptors() -> set[int]:
    """Ours, without the standard ones: what a library has left inheritable must not pile up with each reload."""
    found: set[int] = set()
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the one that listed them is closed again
            if int(name) > 2 and os.fstat(int(name)):
                found.add(int(name))
    return found
