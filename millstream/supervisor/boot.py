"""From settings to a running supervisor: check everything that can be checked before the first fork."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from functools import partial

import orjson
import structlog
from setproctitle import setproctitle

from millstream.protocol import transitions
from millstream.protocol.app import Millstream
from millstream.protocol.errors import ConfigError, ImportFailed, MillstreamError, NameTaken
from millstream.protocol.importing import import_app
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.supervisor import embedded, logs
from millstream.supervisor.children import fork
from millstream.supervisor.config import Settings
from millstream.supervisor.identity import Identity, identify, runtime_path
from millstream.supervisor.maintenance.heartbeat import identity as identity_of
from millstream.supervisor.master import Supervisor
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan, make_plan
from millstream.supervisor.preflight import check_server
from millstream.supervisor.web.folder import MetricsFolder, metrics_folder
from millstream.worker import cells

log = structlog.get_logger("millstream.supervisor")


def run(settings: Settings, *, burst: bool = False) -> int:
    """Run a supervisor until it is told to stop; returns the exit code.

    Raises :class:`ConfigError`, :class:`Unavailable`, :class:`Unsupported`, :class:`NameTaken` where it cannot start.
    """
    logs.configure()
    _warn_of_what_is_not_used(settings)
    if settings.web.bind == "off":
        return _run(settings, None, burst=burst)
    with metrics_folder() as folder:
        return _run(settings, folder, burst=burst)


def _run(settings: Settings, folder: MetricsFolder | None, *, burst: bool) -> int:
    notifier = Notifier.from_environment()
    if not settings.app:
        raise ConfigError('app: name your application, as in app = "shop.jobs:app" (or --app, or MILLSTREAM_APP)')
    app = _preload(settings.app, folder) if settings.supervisor.preload else None
    queues = _queues_of_app(settings, app)
    location = settings.location
    server: embedded.Server | None = None
    if location.embedded:
        embedded.refuse_in_production(production=settings.production)
        server = embedded.start(location.data, location.socket)
        print(server.announcement(), file=sys.stderr, flush=True)
    try:
        plan = _claim(settings, queues, folder, burst=burst)
        setproctitle("millstream: supervisor")
        ready = partial(_say_ready, plan)
        supervisor = Supervisor(plan, app=app, server=server, notifier=notifier, on_ready=ready)
    except BaseException:
        if server is not None and server.pid is not None:
            embedded.stop(server.pid)
        raise
    gc.collect()
    gc.freeze()  # what is shared with the children is not to be written to by their collectors
    return supervisor.run()


def _warn_of_what_is_not_used(settings: Settings) -> None:
    """Say which accepted settings change nothing yet, rather than ignore them without a word."""
    for name, group in settings.workers.items():
        if group.concurrency > 1:
            log.warning("config.not_used", key=f"workers.{name}.concurrency", hint="async jobs run one at a time")


def _claim(settings: Settings, queues: tuple[str, ...], folder: MetricsFolder | None, *, burst: bool) -> Plan:
    """Check the server and claim our name on it; the connection is closed before anything is forked."""
    location = settings.location
    link = Link(location.url, timeout=5.0, connect_timeout=2.0)
    try:
        check_server(link, Keys(location.prefix))
        own = identify(settings.supervisor.name, location.url, location.prefix)
        gone = _gone(link, Keys(location.prefix), own)
        if folder is not None:
            folder.succeed(runtime_path(own.name, location.url, location.prefix, "web"))
        plan = make_plan(settings, own, gone, queues, burst=burst, metrics=str(folder or ""))
        if not plan.queues:
            raise ConfigError(f"app {plan.app!r} registers no jobs, and no [workers] group names a queue")
        beat = orjson.dumps({**identity_of(plan), "pid": os.getpid(), "state": "starting", "groups": {}, "workers": []})
        holder = link.run(transitions.host(plan.keys, own.name, own.instance, "claim", beat, gone))
        if holder:
            where = json.loads(holder)
            raise NameTaken(
                f"a live supervisor on {where.get('host')} (pid {where.get('pid')}) has the name {own.name!r}; "
                "give this one another name: supervisor.name or MILLSTREAM_SUPERVISOR__NAME"
            )
        return plan
    finally:
        link.close()


def _gone(link: Link, keys: Keys, own: Identity) -> str:
    """The instance that had our name before, if it is known to be dead with all its children."""
    beat = link.execute("HGET", keys.hosts, own.name)
    try:
        holder = json.loads(beat) if beat else {}
    except ValueError:
        return ""
    return str(holder.get("instance", "")) if holder and own.tree_is_gone(holder) else ""


def _preload(reference: str, folder: MetricsFolder | None) -> Millstream:
    """Import the application here, so that all workers share its memory. Raises :class:`ImportFailed`."""
    if folder is not None:
        cells.install(str(folder), cells.SUPERVISOR)
    app = import_app(reference)
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise ImportFailed(
            f"app {reference!r} leaves threads running ({', '.join(others)}); forking would break them: "
            "start them in an on_worker_start hook, or set supervisor.preload = false"
        )
    return app


def _queues_of_app(settings: Settings, app: Millstream | None) -> tuple[str, ...]:
    """The queues of the registered jobs, if some group needs to know: asked of a throwaway child."""
    if all(group.queues for group in settings.workers.values()):
        return ()
    if app is not None:
        return tuple(app.registry.queues)
    reader, writer = os.pipe()
    reference = settings.app or ""

    def program() -> int:
        os.close(reader)
        try:
            answer = {"queues": import_app(reference).registry.queues}
        except MillstreamError as error:
            answer = {"error": [str(error)]}
        os.write(writer, orjson.dumps(answer))
        return 0

    pid = fork(program, own_group=False)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        raise ImportFailed(f"app {reference!r} cannot be imported: the process that tried ended without a word")
    found = orjson.loads(answer)
    if "error" in found:
        raise ImportFailed(found["error"][0])
    return tuple(found["queues"])


def _say_ready(plan: Plan) -> None:
    count = sum(group.processes for group in plan.groups)
    print(
        f"millstream is ready: supervisor {plan.identity.name} (pid {os.getpid()}), {count} workers, "
        f"queues {', '.join(plan.queues)}",
        file=sys.stderr,
        flush=True,
    )
