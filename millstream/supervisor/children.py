"""Forking: how each kind of child comes to life."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import structlog

from millstream.protocol.app import Millstream
from millstream.protocol.scoreboard import Order, Record, RecordState, Scoreboard, Word, anonymous_file
from millstream.supervisor import signals
from millstream.supervisor.maintenance.program import run_maintenance
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.slot import Lane, Process
from millstream.worker.program import run_worker

# The children's programs are imported here, before the first fork: one version for the supervisor's whole life, even
# where the package is upgraded under it; their memory is shared, and a new worker is there sooner.

log = structlog.get_logger("millstream.supervisor")


def fork(program: Callable[[], int], *, own_group: bool = True) -> int:
    """Fork a child that runs *program* and exits with what it returns; the child's pid.

    The parent has one thread, so the child inherits no lock that somebody else holds. Signals are blocked around the
    fork; the program unblocks them when its own handlers are in place.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    assert threading.active_count() == 1, "a process with threads must not fork"
    before = signals.block()
    try:
        pid = os.fork()
    except OSError:
        signals.unblock(before)
        raise
    if pid == 0:
        _be_child(program, own_group=own_group)
    if own_group:
        # Both sides do it: whoever comes first, the group exists before anybody signals it.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
    signals.unblock(before)
    return pid


def _be_child(program: Callable[[], int], *, own_group: bool) -> None:
    code = 70
    try:
        if own_group:
            os.setpgid(0, 0)
        code = program()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def spawn_worker(
    group: GroupPlan,
    slot: int,
    incarnation: int,
    record: Record,
    lanes: Sequence[Record],
    app: Millstream | None,
    forget: Callable[[], None],
) -> Process:
    """Fork a worker into a free record and its lanes. *forget* lets go, in the child, of what is the supervisor's."""
    words = record.words
    words[Word.INCARNATION], words[Word.GROUP], words[Word.SLOT] = incarnation, group.index, slot
    words[Word.SPAWNED] = time.monotonic_ns()
    for lane in lanes:
        for word in (Word.INCARNATION, Word.GROUP, Word.SLOT):
            lane.words[word] = words[word]
    stack_file = anonymous_file("millstream-stack")
    parent = os.getpid()
    spec = group.spec(slot, incarnation)

    def program() -> int:
        forget()
        return run_worker(spec, record, stack_file, parent, app, lanes)

    try:
        pid = fork(program)
    except OSError:
        os.close(stack_file)
        raise
    words[Word.PID] = pid
    words[Word.STATE] = RecordState.ALIVE
    return with_lanes(Process(pid, incarnation, record, stack_file, time.monotonic()), lanes)


def with_lanes(process: Process, lanes: Sequence[Record]) -> Process:
    """The handle of a process that has these lanes."""
    pid, incarnation, stack_file = process.pid, process.incarnation, process.stack_file
    for lane in lanes:
        lane.words[Word.ORDER] = Order.WORK  # a supervisor before us may have let it halt
    process.lanes = [Lane(pid, incarnation, lane, stack_file, process.started, process=process) for lane in lanes]
    return process


def spawn_maintenance(plan: Plan, board: Scoreboard, wake: int, forget: Callable[[], None]) -> int:
    """Fork the maintenance child; it is woken through the descriptor *wake*."""
    parent = os.getpid()

    def program() -> int:
        forget()
        return run_maintenance(plan, board, wake, parent)

    return fork(program)


def spawn_web(plan: Plan, board: Scoreboard, forget: Callable[[], None]) -> int:
    """Fork the web child."""
    parent = os.getpid()

    def program() -> int:
        from millstream.supervisor.web.program import run_web

        forget()
        return run_web(plan, board, parent)

    return fork(program)
