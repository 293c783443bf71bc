"""The successor of a reload: the same process with new code goes on with the children that it finds."""

from __future__ import annotations

import os

import structlog

from millstream.protocol.app import Millstream
from millstream.protocol.errors import ConfigError, ImportFailed
from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor import application, logs
from millstream.supervisor.boot import supervise
from millstream.supervisor.master import Supervisor
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan
from millstream.supervisor.reload import handover
from millstream.supervisor.reload.handover import Handover
from millstream.supervisor.reload.relaunch import VARIABLE, Launch
from millstream.supervisor.reload.ticking import Ticking
from millstream.supervisor.signals import Signals
from millstream.supervisor.web.folder import MetricsFolder

log = structlog.get_logger("millstream.supervisor")


def take_over(descriptor: int, launch: Launch) -> int:
    """Go on as the supervisor that this process was before a reload; returns the exit code.

    Nothing is read that could be wrong by now: the plan is that of the rehearsal. Raises :class:`ConfigError` where
    *descriptor* is not what a supervisor has left for us.
    """
    try:
        content = handover.read(descriptor)
        found, plan = handover.handover_of(content), handover.plan_of(content)
        if found.pid != os.getpid():
            raise ValueError("this handover is meant for another process")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{VARIABLE}: is for the supervisor's own use; remove it") from error
    os.close(descriptor)
    for kept in found.descriptors:
        os.set_inheritable(kept, False)
    logs.configure()
    signals = Signals()
    signals.install()
    folder = None if found.folder is None else MetricsFolder.adopt(found.folder)
    try:
        return _succeed(found, plan, signals, folder, launch)
    finally:
        if folder is not None:
            folder.remove()


def _succeed(found: Handover, plan: Plan, signals: Signals, folder: MetricsFolder | None, launch: Launch) -> int:
    notifier = Notifier.from_environment()
    app = _preload_again(found, plan, notifier) if plan.preload else None
    plan, board = handover.inherit(found, plan)
    supervisor = Supervisor(
        plan, board=board, signals=signals, app=app, folder=folder, notifier=notifier, launch=launch
    )
    supervisor.adopt(found)
    return supervise(supervisor)


def _preload_again(found: Handover, plan: Plan, notifier: Notifier) -> Millstream | None:
    """Import the application for all new workers. Old ones run meanwhile, so the supervisor goes on to tick.

    None where it cannot be imported (it could a moment ago): each worker tries by itself, the old ones stay.
    """
    with Ticking(Scoreboard(found.board, found.records), notifier):
        try:
            app = application.import_here(plan.app, plan.metrics)
        except ImportFailed as error:
            log.error("reload.preload_failed", error=str(error), hint="each worker imports it by itself")
            return None
    application.refuse_threads(plan.app)
    return app
