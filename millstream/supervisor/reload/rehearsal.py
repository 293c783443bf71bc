"""The rehearsal of a reload: a process that loads new code and configuration as a start would, and says how that went.

It runs the new code. What it answers is the plan that the supervisor goes on with, so that nothing is read again when
there is no way back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from setproctitle import setproctitle

from millstream.protocol.errors import ConfigError, MillstreamError, Unsupported
from millstream.protocol.importing import import_app
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.supervisor import application, boot, embedded, logs
from millstream.supervisor.config import Settings
from millstream.supervisor.plan import Plan, make_plan
from millstream.supervisor.preflight import check_server
from millstream.supervisor.reload import handover


def rehearse(descriptor: int, load: Callable[[], Settings], *, burst: bool) -> NoReturn:
    """Answer the supervisor that has started us, in the file in which it asks, and end."""
    setproctitle("millstream: rehearsal")
    try:
        logs.configure()
        plan = _plan(_running(descriptor), load(), burst=burst)
        handover.write({"accepted": handover.as_written(plan)}, descriptor)
    except ConfigError as error:
        handover.write({"problems": list(error.problems)}, descriptor)
    except MillstreamError as error:
        handover.write({"problems": [str(error)]}, descriptor)
    sys.stderr.flush()
    os._exit(0)  # the application may have threads, and an interpreter that ends waits for them


def _running(descriptor: int) -> Plan:
    """The plan of the supervisor that asks. Raises :class:`Unsupported` where we could not go on with its workers."""
    asked = handover.read(descriptor)
    try:
        handover.handover_of(asked)
        return handover.plan_of(asked)
    except ValueError:
        raise Unsupported(
            "this version of millstream cannot take over from the one that runs: it needs a restart"
        ) from None


def _plan(running: Plan, settings: Settings, *, burst: bool) -> Plan:
    """The plan by which the successor would run. Raises :class:`MillstreamError`."""
    if fixed := _fixed(running, settings):
        raise ConfigError([f"{key}: cannot be changed by a reload, it needs a restart" for key in fixed])
    if settings.location.embedded:
        embedded.refuse_in_production(production=settings.production)
    app = import_app(application.reference_of(settings))
    link = Link(settings.location.url, timeout=5.0, connect_timeout=2.0)
    try:
        check_server(link, Keys(settings.location.prefix), enter=False)
    finally:
        link.close()
    queues = tuple(app.registry.queues)
    plan = make_plan(settings, running.identity, running.gone, queues, burst=burst, metrics=running.metrics)
    boot.check_queues(plan, queues)
    application.check_handlers(app, plan)
    return replace(plan, started=running.started)


def _fixed(running: Plan, settings: Settings) -> list[str]:
    """The keys that differ and must not: they are how others know this supervisor, or what its old workers go by."""
    pairs = {
        "redis_url": (running.url, settings.location.url),
        "prefix": (running.prefix, settings.location.prefix),
        "supervisor.name": (running.identity.name, settings.supervisor.name),
        "supervisor.lease": (running.lease, settings.supervisor.lease),
        'web.bind (from or to "off")': (bool(running.metrics), settings.web.bind != "off"),
    }
    return [key for key, (old, new) in pairs.items() if old != new]
