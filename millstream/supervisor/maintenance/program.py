"""The program of the maintenance child, from its fork to its end."""

from __future__ import annotations

import os
import threading

import structlog
from setproctitle import setproctitle

from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor import signals
from millstream.supervisor.maintenance.counting import Counting, Uncounted
from millstream.supervisor.maintenance.duties import Duties
from millstream.supervisor.maintenance.orphans import end_the_tree
from millstream.supervisor.maintenance.urgent import Urgent
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")


def run_maintenance(plan: Plan, board: Scoreboard, wake: int, parent: int) -> int:
    """Do the duties until the supervisor says that it stops, or is gone; returns the exit code."""
    signals.ignore_in_child()
    setproctitle("millstream: maintenance")
    structlog.contextvars.bind_contextvars(pid=os.getpid())

    counts = Counting(plan, board) if plan.metrics else Uncounted()
    urgent = Urgent(plan, board, wake, parent, counts)
    duties = Duties(plan, board, counts, may_recover=urgent.came_to_renew)
    thread = threading.Thread(target=duties.run, name="duties", daemon=True)
    thread.start()
    urgent.run()
    duties.stop()
    if urgent.orphaned:
        end_the_tree(plan, board, urgent)
    duties.leave()  # its thread may still listen for a while; it beats no more, and what else it does is atomic
    return 0
