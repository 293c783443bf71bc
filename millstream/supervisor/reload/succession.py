"""The successor of a reload: the same process with new code goes on with the children that it finds."""

from __future__ import annotations

import gc
import os

from millstream.protocol.errors import ConfigError
from millstream.supervisor import logs
from millstream.supervisor.boot import supervise
from millstream.supervisor.master import Supervisor
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan
from millstream.supervisor.reload import handover
from millstream.supervisor.reload.handover import Handover
from millstream.supervisor.reload.relaunch import VARIABLE, Launch
from millstream.supervisor.signals import Signals
from millstream.supervisor.web.folder import MetricsFolder


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
    # Also with `preload` nothing is imported here: while it lasted nobody would reap, kill or recover. Each new worker
    # imports the application by itself.
    notifier = Notifier.from_environment()
    gc.freeze()  # or the collection before the first fork takes long, while nobody renews leases
    plan, board = handover.inherit(found, plan)
    supervisor = Supervisor(plan, board=board, signals=signals, folder=folder, notifier=notifier, launch=launch)
    supervisor.adopt(found)
    return supervise(supervisor)
