"""The memory limit: a run whose worker has grown beyond it is killed, with cause ``memory``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psutil
import structlog

from millstream.protocol.scoreboard import Cause
from millstream.supervisor.deadlines import kill_with_stack
from millstream.supervisor.slot import Slot

log = structlog.get_logger("millstream.supervisor")

INTERVAL = 0.25
"""Seconds between two looks at the workers' memory."""


def enforce(slots: Iterable[Slot], limits: Mapping[str, int | None]) -> None:
    """Kill the runs whose processes are over their group's limit: bytes resident, subprocesses not counted."""
    for slot in slots:
        limit, process = limits.get(slot.group), slot.process
        if limit is None or process is None or not (run := process.record.running):
            continue
        try:
            resident = psutil.Process(process.pid).memory_info().rss
        except psutil.Error:
            continue  # it died just now; the next reap says why
        if resident > limit:
            kill_with_stack(slot, process, run, Cause.MEMORY)
