"""The application, as the supervisor meets it: imported in a throwaway process, or once for all workers."""

from __future__ import annotations

import os
import threading

import orjson

from millstream.protocol.app import Millstream
from millstream.protocol.errors import ConfigError, ImportFailed, MillstreamError
from millstream.protocol.importing import import_app
from millstream.supervisor.children import fork
from millstream.supervisor.config import Settings
from millstream.supervisor.plan import Plan
from millstream.worker import async_loop, cells


def reference_of(settings: Settings) -> str:
    """The application, as ``module:object``. Raises :class:`ConfigError` where none is named."""
    if not settings.app:
        raise ConfigError('app: name your application, as in app = "shop.jobs:app" (or --app, or MILLSTREAM_APP)')
    return settings.app


def preload(reference: str, metrics: str) -> Millstream:
    """Import the application here, so that all workers share its memory. Raises :class:`ImportFailed`."""
    if metrics:
        cells.install(metrics, cells.SUPERVISOR)
    app = import_app(reference)
    _refuse_threads(reference)
    return app


def _refuse_threads(reference: str) -> None:
    """Raise :class:`ImportFailed` where the import of the application has left threads running."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise ImportFailed(
            f"app {reference!r} leaves threads running ({', '.join(others)}); forking would break them: "
            "start them in an on_worker_start hook, or set supervisor.preload = false"
        )


def check_handlers(app: Millstream, plan: Plan) -> None:
    """Raise :class:`ConfigError` where a group of coroutines has a job that would keep all others waiting."""
    for group in plan.groups:
        if group.worker.concurrency > 1:
            async_loop.check_handlers(app, group.worker)


def queues_of(reference: str) -> tuple[str, ...]:
    """The queues of the registered jobs: asked of a throwaway child. Raises :class:`ImportFailed`."""
    reader, writer = os.pipe()

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
