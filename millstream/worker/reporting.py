"""Sends what handlers report: progress and log lines, by a thread of its own.

A handler only leaves its newest word in memory. The thread, started by the first word, sends what is new at once and
then every :data:`INTERVAL`, over a connection of its own: a handler never waits for Redis and never hears of an
outage. What a run reported is sent before its outcome is. The thread needs the GIL: a handler that holds it in C code
is heard when it lets go.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from millstream.protocol.call import Call
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.protocol.reports import Line, report, shortened

log = structlog.get_logger("millstream.worker")

INTERVAL = 0.25
"""Seconds between two sendings."""

PATIENCE = 1.0
"""Seconds that one sending may take."""

SLOWEST = 5.0
"""Seconds between two tries while Redis is away, at most."""

UNSENT_LINES = 200
"""Lines of a run that wait to be sent; of more, the newest."""

NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that must reach the main thread: a sleep in it is to end for them."""

Progress = tuple[float, str | None]


class Report:
    """What one run has said and is not sent yet. Its methods may be called by any thread of the handler."""

    __slots__ = ("_reporter", "batch", "entry", "id", "latest", "lines", "number", "queue", "run", "sent")

    def __init__(self, reporter: Reporter, queue: str, job_id: str, entry: str, run: int) -> None:
        self._reporter = reporter
        self.queue, self.id, self.entry, self.run = queue, job_id, entry, run
        self.latest: Progress | None = None
        self.sent: Progress | None = None
        self.lines: deque[tuple[float, str]] = deque(maxlen=UNSENT_LINES)
        self.batch: list[tuple[float, str]] = []  # lines under way, sent again as they are until a reply came
        self.number = 0

    def progress(self, latest: Progress) -> None:
        """Note how far the run is. The note first, then the look whether it waits to be sent: none is overlooked."""
        self.latest = latest
        if self not in self._reporter.unsent:
            self._reporter.add(self)

    def log(self, line: str) -> None:
        """Note a line."""
        self.lines.append((time.monotonic(), line))
        if self not in self._reporter.unsent:
            self._reporter.add(self)

    def next_batch(self) -> list[tuple[float, str]]:
        """The lines that are to be sent now."""
        if not self.batch and self.lines:
            self.number += 1
            self.batch = [self.lines.popleft() for _ in range(len(self.lines))]
        return self.batch

    def forget(self) -> None:
        """Leave the lines to the process that we were forked from."""
        self.lines.clear()
        self.batch = []


class Reporter:
    """One for a worker process. Handlers use no lock here, since an interruption may end them anywhere."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._keys = Keys(prefix)
        self.unsent: dict[Report, None] = {}
        self._told: list[Report] = []
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Begin with nothing; also in a process that a handler has forked: thread and connection are not its own."""
        for inherited in (*self.unsent, *self._told):
            inherited.forget()
        self.unsent = {}
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._sending = threading.Lock()
        self._link = Link(self._url, timeout=PATIENCE, connect_timeout=PATIENCE)
        self._failures = 0

    def report(self, queue: str, job_id: str, entry: str, run: int) -> Report:
        """A report of one run."""
        return Report(self, queue, job_id, entry, run)

    def add(self, told: Report) -> None:
        """Have it sent."""
        self.unsent[told] = None
        self._wake.put(None)
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="millstream-reports", daemon=True)
            thread.start()
            self._thread = thread

    def flush(self) -> None:
        """Send what is new before what it tells of is settled; not while Redis is away: then it comes later."""
        if self._thread is not None and not self._failures:
            with self._sending:
                self._send()

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, NOT_OURS)
        while True:
            self._wake.get()
            self._forget_wakes()
            with self._sending:
                self._send()
            time.sleep(min(SLOWEST, INTERVAL * 2 ** min(self._failures, 10)))

    def _forget_wakes(self) -> None:
        """One sending is enough for all that is new."""
        try:
            while True:
                self._wake.get_nowait()
        except Empty:
            return

    def _send(self) -> None:
        """Send what is new, once; what cannot be sent now is tried again later."""
        # Taken out before it is read: what is said after that puts it in again, to be sent the next time.
        self._told = told = [self.unsent.popitem()[0] for _ in range(len(self.unsent))]
        latest = [one.latest for one in told]
        try:
            self._link.run_many([self._call(one, now) for one, now in zip(told, latest, strict=True)])
        except Unavailable:
            self._failures += 1
            for one in told:
                self.add(one)
            return
        except MillstreamError as error:
            log.warning("report.failed", error=str(error))
        self._failures = 0
        for one, now in zip(told, latest, strict=True):
            one.sent, one.batch = now, []
            if one.lines:
                self.add(one)

    def _call(self, told: Report, latest: Progress | None) -> Call[Any]:
        now = time.monotonic()
        lines = [Line(int((now - at) * 1000), shortened(line)) for at, line in told.next_batch()]
        progress = None if latest is None or latest is told.sent else (latest[0], latest[1] and shortened(latest[1]))
        batch = f"{told.entry}:{self._pid}:{told.number}"
        return report(self._keys.queue(told.queue), told.id, told.entry, told.run, progress, batch, lines)


_reporter: Reporter | None = None


def install(reporter: Reporter) -> None:
    """Use it for the runs of this process."""
    global _reporter
    _reporter = reporter


def installed() -> Reporter | None:
    """What sends the reports of this process; None outside of a worker."""
    return _reporter
