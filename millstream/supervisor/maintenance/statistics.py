"""Adding to the statistics of our queues what our processes have counted, each run once.

A batch is written down with its number before it is sent. Whoever comes after us sends the last one again; the script
knows which number of ours it has added last. So neither our death at any moment nor a lost reply makes a difference.
"""

from __future__ import annotations

import threading

import structlog

from millstream.protocol import statistics
from millstream.protocol.connection import AccessDenied
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.link import Link
from millstream.supervisor.maintenance.totals import Book, Unreadable, keep, load, read_totals, since
from millstream.supervisor.plan import Plan
from millstream.supervisor.web.ledger import Ledger

log = structlog.get_logger("millstream.maintenance")

EVERY = 3.0
"""Seconds between two batches."""


class Statistics:
    """Adds in the thread of duties, and once more in the main thread, at the end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._keys = {keys.queue: keys for keys in plan.queue_keys}
        self._ledger = Ledger(plan.metrics, kept={})
        self._book: Book | None = None
        self._lock = threading.Lock()
        self._failing = False

    def add(self, link: Link) -> None:
        """Add what was counted since the last time. Raises :class:`Unavailable`: then it is sent again."""
        with self._lock:
            self._add(link)

    def add_last(self) -> None:
        """Add the rest, on a connection of its own; not for long, and not at any price."""
        if not self._lock.acquire(timeout=0.5):
            return
        link = Link(self._plan.url, timeout=0.5, connect_timeout=0.5)
        try:
            self._add(link)
        except MillstreamError as error:
            log.warning("statistics.not_added", error=str(error))
        finally:
            link.close()
            self._lock.release()

    def _add(self, link: Link) -> None:
        book = self._book or load(self._plan.metrics)
        book = self._sent(book, link)
        try:
            totals = read_totals(self._ledger)
            if totals != book.totals:
                book = Book(book.number + 1, totals, since(totals, book.totals))
                keep(book, self._plan.metrics)
        except (OSError, Unreadable) as error:
            self._fails(error)  # what is not counted now is counted when it can be
        else:
            self._failing = False
            self._book = book
            self._book = self._sent(book, link)

    def _sent(self, book: Book, link: Link) -> Book:
        """Send the batch of a book, if it has one; returns the book after that."""
        self._book, last = book, book.number
        for queue, jobs in book.batch.items():
            if queue in self._keys:
                last = max(last, self._send(queue, jobs, book.number, link))
        self._book = Book(last, book.totals)
        return self._book

    def _send(self, queue: str, jobs: dict[str, dict[str, int]], number: int, link: Link) -> int:
        try:
            return link.run(statistics.add(self._keys[queue], self._plan.instance, number, jobs)).number
        except Unavailable as error:
            if not isinstance(error, AccessDenied):
                raise
            refused: MillstreamError = error
        except MillstreamError as error:
            refused = error
        # It would be refused again: the other queues, and what comes after it, are not to wait for it.
        log.error("maintenance.duty_failed", duty="statistics", queue=queue, error=str(refused))
        return number

    def _fails(self, error: Exception) -> None:
        self._ledger = Ledger(self._plan.metrics, kept={})
        if not self._failing:
            log.warning("statistics.not_added", error=str(error))
        self._failing = True
