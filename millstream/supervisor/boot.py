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
from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor import embedded, handover, logs
from millstream.supervisor.children import fork
from millstream.supervisor.config import Settings
from millstream.supervisor.handover import Handover
from millstream.supervisor.identity import Identity, identify, runtime_path
from millstream.supervisor.maintenance.heartbeat import identity as identity_of
from millstream.supervisor.master import Supervisor
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan, make_plan
from millstream.supervisor.preflight import check_server
from millstream.supervisor.relaunch import VARIABLE, Launch
from millstream.supervisor.signals import Signals
from millstream.supervisor.ticking import Ticking
from millstream.supervisor.web.folder import MetricsFolder
from millstream.worker import cells

log = structlog.get_logger("millstream.supervisor")


def run(settings: Settings, *, burst: bool = False, launch: Launch | None = None) -> int:
    """Run a supervisor until it is told to stop; returns the exit code. Without *launch* it cannot reload.

    Raises :class:`ConfigError`, :class:`Unavailable`, :class:`Unsupported`, :class:`NameTaken` where it cannot start.
    """
    logs.configure()
    warn_of_what_is_not_used(settings)
    folder = None if settings.web.bind == "off" else MetricsFolder.make()
    try:
        return _run(settings, folder, burst=burst, launch=launch)
    finally:
        if folder is not None:
            folder.remove()


def _run(settings: Settings, folder: MetricsFolder | None, *, burst: bool, launch: Launch | None) -> int:
    notifier = Notifier.from_environment()
    reference = reference_of(settings)
    app = _preload(reference, str(folder or "")) if settings.supervisor.preload else None
    queues = _queues_of_app(settings, app)
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
    return _supervise(supervisor)


def _supervise(supervisor: Supervisor) -> int:
    setproctitle("millstream: supervisor")
    gc.collect()
    gc.freeze()  # what is shared with the children is not to be written to by their collectors
    return supervisor.run()


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
    signals = Signals(found.signals)
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
    return _supervise(supervisor)


def warn_of_what_is_not_used(settings: Settings) -> None:
    """Say which accepted settings change nothing yet, rather than ignore them without a word."""
    for name, group in settings.workers.items():
        if group.concurrency > 1:
            log.warning("config.not_used", key=f"workers.{name}.concurrency", hint="async jobs run one at a time")


def reference_of(settings: Settings) -> str:
    """The application, as ``module:object``. Raises :class:`ConfigError` where none is named."""
    if not settings.app:
        raise ConfigError('app: name your application, as in app = "shop.jobs:app" (or --app, or MILLSTREAM_APP)')
    return settings.app


def refuse_without_queues(plan: Plan) -> None:
    """Raise :class:`ConfigError` where there is nothing to fetch from."""
    if not plan.queues:
        raise ConfigError(f"app {plan.app!r} registers no jobs, and no [workers] group names a queue")


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
        refuse_without_queues(plan)
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


def _preload(reference: str, metrics: str) -> Millstream:
    """Import the application here, so that all workers share its memory. Raises :class:`ImportFailed`."""
    if metrics:
        cells.install(metrics, cells.SUPERVISOR)
    app = import_app(reference)
    refuse_threads(reference)
    return app


def _preload_again(found: Handover, plan: Plan, notifier: Notifier) -> Millstream | None:
    """The same for a successor. Old workers run meanwhile, so the supervisor goes on to tick.

    None where it cannot be imported (it could a moment ago): each worker tries by itself, the old ones stay.
    """
    with Ticking(Scoreboard(found.board, found.records), notifier):
        try:
            if plan.metrics:
                cells.install(plan.metrics, cells.SUPERVISOR)
            app = import_app(plan.app)
        except ImportFailed as error:
            log.error("reload.preload_failed", error=str(error), hint="each worker imports it by itself")
            return None
    refuse_threads(plan.app)
    return app


def refuse_threads(reference: str) -> None:
    """Raise :class:`ImportFailed` where the import of the application has left threads running."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise ImportFailed(
            f"app {reference!r} leaves threads running ({', '.join(others)}); forking would break them: "
            "start them in an on_worker_start hook, or set supervisor.preload = false"
        )


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
