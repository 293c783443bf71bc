"""The program of a worker process, from its fork to its end."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import io
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from setproctitle import setproctitle

from millstream.protocol.app import Millstream
from millstream.protocol.errors import HookFailed, MillstreamError
from millstream.protocol.importing import import_app
from millstream.protocol.scoreboard import Record, Word
from millstream.worker import cells
from millstream.worker.async_loop import AsyncWorker, check_handlers
from millstream.worker.coroutines import Coroutines
from millstream.worker.loop import Worker
from millstream.worker.mark import wear
from millstream.worker.signals import Signals
from millstream.worker.spec import WorkerSpec
from millstream.worker.stepping import LaneSignals
from millstream.worker.tally import Tally, Uncounted

log = structlog.get_logger("millstream.worker")

_PR_SET_PDEATHSIG = 1

OOM_SCORE = 500
"""How much more a worker is worth to the kernel's out-of-memory killer than the supervisor: of 1000, all the memory."""


def run_worker(
    spec: WorkerSpec,
    record: Record,
    stack_file: int,
    parent: int,
    app: Millstream | None,
    lanes: Sequence[Record] = (),
) -> int:
    """Be a worker; returns the exit code. *app* is the application where the supervisor has imported it before.

    With *lanes* it runs as many coroutines at a time.
    """
    signals = LaneSignals(record, lanes) if lanes else Signals(record)
    _settle_in(spec, signals, stack_file, parent)
    coroutines = Coroutines()
    if spec.metrics:  # before the application is imported: the metrics that it defines are to be kept there too
        cells.install(spec.metrics, str(record.index), partial(record.words.__setitem__, Word.UNCOUNTED))
    try:
        app = app or import_app(spec.app)
        app.connect_to(spec.url, spec.prefix, spec.keyring)
        if lanes:
            check_handlers(app, spec)
        _call_hooks("on_worker_start", app.start_hooks, coroutines)
    except MillstreamError as error:
        log.error("worker.boot_failed", group=spec.group, slot=spec.slot, error=str(error))
        return error.exit_code
    tally = _tally(spec, record, app)
    gc.freeze()
    record.words[Word.READY] = time.monotonic_ns()
    if isinstance(signals, LaneSignals):
        AsyncWorker(app, spec, record, lanes, signals, tally, coroutines).work()
    else:
        Worker(app, spec, record, signals, tally, coroutines=coroutines).work()
    record.words[Word.LEFT] = time.monotonic_ns()
    try:
        _call_hooks("on_worker_stop", app.stop_hooks, coroutines)
    except HookFailed as error:
        log.error("worker.stop_hook_failed", error=str(error))
    coroutines.close()
    return 0


def _settle_in(spec: WorkerSpec, signals: Signals, stack_file: int, parent: int) -> None:
    """Leave behind what a fork inherits, and get what a process of our own needs."""
    die_with_parent(parent)
    die_of_memory_first()
    os.nice(spec.nice)  # whoever renews leases and keeps deadlines gets the CPU before those that use it up
    signals.install()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(worker=spec.worker, pid=os.getpid())
    os.environ.update(spec.env)
    wear(spec.mark)
    for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(variable, None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a handler prints is to be seen at once, and to survive a kill
            stream.reconfigure(line_buffering=True)
    random.seed()
    faulthandler.enable(file=stack_file, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=stack_file, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    setproctitle(f"millstream: worker {spec.group}/{spec.slot}")


def die_with_parent(parent: int, death_signal: int = signal.SIGKILL) -> None:
    """Ask the kernel to kill us when our parent dies; leave at once if it is dead already. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_of_memory_first() -> None:
    """Have the kernel kill us, or what we start, rather than the supervisor where memory runs out. Linux only."""
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError):
        score.write_text(str(min(1000, int(score.read_text()) + OOM_SCORE)))


def _tally(spec: WorkerSpec, record: Record, app: Millstream) -> Uncounted:
    """What counts our jobs: nothing, where nothing is served that could show it."""
    if not spec.metrics:
        return Uncounted()
    jobs = [job for name in app.registry.names if (job := app.registry.get(name))]
    return Tally(spec, record, jobs)


def _call_hooks(kind: str, hooks: list[Callable[[], object]], coroutines: Coroutines) -> None:
    """Call hooks; those that are ``async def`` run on the event loop of the handlers."""
    for hook in hooks:
        try:
            called = hook()
            if asyncio.iscoroutine(called):
                coroutines.run(called)
        except Exception as error:
            name = getattr(hook, "__qualname__", repr(hook))
            raise HookFailed(f"the {kind} hook {name} failed: {type(error).__name__}: {error}") from error
