"""The supervisor is dead: end its tree, and settle what that leaves, uncounted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import structlog

from millstream.protocol.errors import MillstreamError
from millstream.protocol.scoreboard import Record, RecordState, Scoreboard, Word
from millstream.supervisor import strays
from millstream.supervisor.maintenance.urgent import Urgent
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

PATIENCE = 1.0
"""Seconds to wait for killed workers to be gone."""


def end_the_tree(plan: Plan, board: Scoreboard, urgent: Urgent) -> None:
    """Kill every worker with its subprocesses, wait until they are gone, and give their jobs back uncounted."""
    log.error("supervisor.gone", hint="killing all workers; their jobs go back uncounted")
    alive = [record for record in board.in_state(RecordState.ALIVE) if record.words[Word.PID]]
    for record in alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(record.words[Word.PID], signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while any(map(_lives, alive)) and time.monotonic() < deadline:
        time.sleep(0.005)
    strays.end_all_of(plan.instance)
    for record in alive:
        record.words[Word.STATE] = RecordState.DEAD
    with contextlib.suppress(MillstreamError):
        urgent.settle_dead(uncounted=True)


def _lives(record: Record) -> bool:
    """Whether the process is there and no zombie: its new parent may take its time to reap it."""
    try:
        status = Path(f"/proc/{record.words[Word.PID]}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
