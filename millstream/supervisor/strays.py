"""Strays: processes that a dead worker's handlers have started, and that its process group does not hold any more."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Set as AbstractSet
from pathlib import Path

import psutil
import structlog

from millstream.worker.mark import mark_of

log = structlog.get_logger("millstream.supervisor")

BUDGET = 0.003
"""Seconds of a turn of the loop that a search may take; it goes on in the next one."""

PATIENCE = 1.0
"""Seconds for which a process is looked at again that shows nothing yet: it ends, or begins."""

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents die; not inherited by forks, kept by what we execute. Linux only.

    Workers do not: nobody would reap there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Strays:
    """Kills, among the orphans that we have adopted, those whose mark is that of a dead worker of this instance.

    Only our own children are killed, before they are reaped, so no pid can be that of somebody else. ``left`` tells
    whether there may be more, ``behind`` whether there was no time to look at all.
    """

    def __init__(self, instance: str) -> None:
        self.left = False
        self.behind = False
        self._instance = instance
        self._until = 0.0
        self._killed: set[int] = set()
        self._passed: set[int] = set()  # those that are no strays, until another worker dies

    def look_out(self, now: float) -> None:
        """A worker was reaped: what it has left is adopted now, and what that leaves when it is killed, later."""
        self.left, self._until = True, now + PATIENCE
        self._passed.clear()

    def end(self, own: AbstractSet[int | None], living: AbstractSet[int], now: float) -> None:
        """Kill those that are there. *own*: children that are none; *living*: incarnations of the workers that live."""
        adopted = [pid for pid in _children() if pid not in own]
        self._killed.intersection_update(adopted)  # the others were reaped, and their children are ours now
        self.behind = unclear = False
        until = time.monotonic() + BUDGET
        for pid in reversed(adopted):  # what was adopted last first
            if pid in self._killed or pid in self._passed:
                continue
            if time.monotonic() > until:
                self.behind = True
                return
            mark = mark_of(pid)
            if mark is None:
                unclear = True
            elif _incarnation(mark, self._instance) in {None, *living} or not _kill(pid):
                self._passed.add(pid)
            else:
                self._killed.add(pid)
        self.left = bool(self._killed) or (unclear and now < self._until)


def end_all_of(instance: str) -> None:
    """Kill every process of this user that bears the mark of a worker of *instance*, and wait until none is left.

    It looks at all processes of the machine, for :data:`PATIENCE` at most.
    """
    until = time.monotonic() + PATIENCE
    known: set[int] = set()
    while found := {pid for pid in psutil.pids() if _is_of(pid, instance) and _kill_stranger(pid, instance)}:
        for pid in found - known:
            log.warning("stray.killed", stray=pid)
        if time.monotonic() > until:
            return
        known |= found
        time.sleep(0.005)


def _is_of(pid: int, instance: str) -> bool:
    try:
        same_user = os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except OSError:
        return False
    return same_user and _incarnation(mark_of(pid) or "", instance) is not None


def _kill_stranger(pid: int, instance: str) -> bool:
    """Kill a process that is no child of ours: seen again through a descriptor, it cannot be another one by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if found := _is_of(pid, instance):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return found
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _incarnation(mark: str, instance: str) -> int | None:
    """Which worker's a mark is; None for one that is of no worker of this instance."""
    of, _, incarnation = mark.rpartition(":")
    return int(incarnation) if of == instance and re.fullmatch("[0-9]{1,19}", incarnation) else None


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:  # it has become another user's
        return False
    log.warning("stray.killed", stray=pid)
    return True


def _children() -> list[int]:
    """Our children: the kernel's list, where it has one. It misses none: nobody but us removes one, by reaping it."""
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return [child.pid for child in psutil.Process().children()]
    return list(map(int, listed.split()))
