"""The program of the maintenance child, from its fork to its end."""

from __future__ import annotations

import os
import signal
import threading

import structlog
from setproctitle import setproctitle

from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor.maintenance.counting import Counting, Uncounted
from millstream.supervisor.maintenance.duties import Duties
from millstream.supervisor.maintenance.orphans import end_the_tree
from millstream.supervisor.maintenance.urgent import Urgent
from millstream.supervisor.plan import Plan

log = structlog.get_logger("millstream.maintenance")

IGNORED = (
    signal.SIGTERM,  # it may reach every process of the tree; the supervisor says when we leave
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGTSTP,
    signal.SIGPIPE,
)


def run_maintenance(plan: Plan, board: Scoreboard, wake: int, parent: int) -> int:
    """Do the duties until the supervisor says that it stops, or is gone; returns the exit code."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    setproctitle("millstream: maintenance")
    structlog.contextvars.bind_contextvars(pid=os.getpid())

    counts = Counting(plan) if plan.metrics else Uncounted()
    duties = Duties(plan, board, counts)
    thread = threading.Thread(target=duties.run, name="duties", daemon=True)
    thread.start()
    urgent = Urgent(plan, board, wake, parent, counts)
    urgent.run()
    duties.stop()
    if urgent.orphaned:
        end_the_tree(plan, board, urgent)
    duties.leave()  # its thread may still listen for a while; it beats no more, and what else it does is atomic
    return 0
