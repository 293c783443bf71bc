"""From settings to a running supervisor: check everything that can be checked before the first fork."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import orjson
import structlog
from setproctitle import setproctitle

from millstream.protocol import transitions
from millstream.protocol.connection import AccessDenied
from millstream.protocol.errors import ConfigError, NameTaken, Unavailable
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.supervisor import application, embedded, logs, strays
from millstream.supervisor.config import Settings
from millstream.supervisor.identity import Identity, identify, runtime_path
from millstream.supervisor.maintenance.heartbeat import identity as identity_of
from millstream.supervisor.master import Supervisor
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan, make_plan
from millstream.supervisor.preflight import check_server
from millstream.supervisor.reload.relaunch import Launch
from millstream.supervisor.web.folder import MetricsFolder

log = structlog.get_logger("millstream.supervisor")

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds for which a start tries again to reach Redis."""


def run(settings: Settings, *, burst: bool = False, launch: Launch | None = None) -> int:
    """Run a supervisor until it is told to stop; returns the exit code. Without *launch* it cannot reload.

    Raises :class:`ConfigError`, :class:`Unavailable`, :class:`Unsupported`, :class:`NameTaken` where it cannot start.
    """
    logs.configure()
    folder = None if settings.web.bind == "off" else MetricsFolder.make()
    try:
        return _run(settings, folder, burst=burst, launch=launch)
    finally:
        if folder is not None:
            folder.remove()


def _run(settings: Settings, folder: MetricsFolder | None, *, burst: bool, launch: Launch | None) -> int:
    notifier = Notifier.from_environment()
    reference = application.reference_of(settings)
    app = application.preload(reference, str(folder or "")) if settings.supervisor.preload else None
    queues = application.queues_of(reference) if app is None else tuple(app.registry.queues)
    location = settings.location
    server: embedded.Server | None = None
    if location.embedded:
        embedded.refuse_in_production(production=settings.production)
        server = embedded.start(location.data, location.socket)
        print(server.announcement(), file=sys.stderr, flush=True)
    try:
        plan = _claim(settings, queues, folder, burst=burst)
        ready = partial(_say_ready, plan)
        supervisor = Supervisor(
            plan, app=app, server=server, folder=folder, notifier=notifier, launch=launch, on_ready=ready
        )
    except BaseException:
        if server is not None and server.pid is not None:
            embedded.stop(server.pid)
        raise
    return supervise(supervisor)


def supervise(supervisor: Supervisor) -> int:
    """Run a supervisor that has all it needs; returns the exit code."""
    setproctitle("millstream: supervisor")
    strays.adopt_orphans()
    gc.collect()
    gc.freeze()  # what is shared with the children is not to be written to by their collectors
    return supervisor.run()


def check_queues(plan: Plan, registered: Sequence[str]) -> None:
    """Say of which queues with registered jobs nobody fetches.

    Raises :class:`ConfigError` where there is nothing to fetch from.
    """
    if not plan.queues:
        raise ConfigError(f"app {plan.app!r} registers no jobs, and no [workers] group names a queue")
    for queue in sorted({*registered} - {*plan.queues}):
        log.warning("queue.not_served", queue=queue, hint="no group names it: its jobs wait for another supervisor")


def _claim(settings: Settings, queues: tuple[str, ...], folder: MetricsFolder | None, *, burst: bool) -> Plan:
    """Check the server and claim our name on it; the connection is closed before anything is forked."""
    location = settings.location
    link = Link(location.url, timeout=5.0, connect_timeout=2.0)
    try:
        _patiently(lambda: check_server(link, Keys(location.prefix)))
        own = identify(settings.supervisor.name, location.url, location.prefix)
        # Asked once: after a claim whose reply was lost, the holder of the name is ourselves.
        gone = _patiently(lambda: _gone(link, Keys(location.prefix), own))
        if gone:
            strays.end_all_of(gone)
        if folder is not None:
            folder.succeed(runtime_path(own.name, location.url, location.prefix, "web"))
        plan = make_plan(settings, own, gone, queues, burst=burst, metrics=str(folder or ""))
        check_queues(plan, queues)
        beat = orjson.dumps({**identity_of(plan), "pid": os.getpid(), "state": "starting", "groups": {}, "workers": []})
        claim = transitions.host(plan.keys, own.name, own.instance, "claim", beat, gone)
        holder = _patiently(lambda: link.run(claim))
        if holder:
            where = json.loads(holder)
            raise NameTaken(
                f"a live supervisor on {where.get('host')} (pid {where.get('pid')}) has the name {own.name!r}; "
                "give this one another name: supervisor.name or MILLSTREAM_SUPERVISOR__NAME"
            )
        return plan
    finally:
        link.close()


def _patiently(step: Callable[[], T]) -> T:
    """Take a step that may be repeated, again where Redis cannot be reached: it may be starting as we are.

    At least once, also where a connection that has gone silent has taken longer than that.
    """
    until = time.monotonic() + PATIENCE
    tried = False
    while True:
        try:
            return step()
        except AccessDenied:
            raise
        except Unavailable:
            if tried and time.monotonic() >= until:
                raise
            tried = True
            time.sleep(0.1)


def _gone(link: Link, keys: Keys, own: Identity) -> str:
    """The instance that had our name before, if it is known to be dead with all its children."""
    beat = link.execute("HGET", keys.hosts, own.name)
    try:
        holder = json.loads(beat) if beat else {}
    except ValueError:
        return ""
    return str(holder.get("instance", "")) if holder and own.tree_is_gone(holder) else ""


def _say_ready(plan: Plan) -> None:
    count = sum(group.processes for group in plan.groups)
    print(
        f"millstream is ready: supervisor {plan.identity.name} (pid {os.getpid()}), "
        f"{count} worker{'' if count == 1 else 's'}, queues {', '.join(plan.queues)}",
        file=sys.stderr,
        flush=True,
    )
