"""What all processes of a supervisor have counted of jobs since it started, and what of it is not in Redis yet."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from millstream.protocol.statistics import DURATION, WAIT
from millstream.supervisor.maintenance.facts import write
from millstream.supervisor.web.ledger import Ledger
from millstream.worker import metrics

FILE = "statistics.json"

LETTERS = {metrics.DURATION.name: DURATION, metrics.WAIT.name: WAIT}

_METRICS = (metrics.FINISHED.family, *LETTERS)

Totals = dict[str, dict[str, dict[str, int]]]
"""By queue, job and what is counted."""


class Unreadable(Exception):
    """The files of what was counted are not as they should be."""


def read_totals(ledger: Ledger) -> Totals:
    """What was counted. Raises :class:`OSError`, :class:`Unreadable`."""
    totals: Totals = {}
    try:
        for name, labels, value in ledger.sums(_METRICS):
            if "job" in labels:  # waits were once counted without it
                what, factor = _what(name, labels)
                totals.setdefault(labels["queue"], {}).setdefault(labels["job"], {})[what] = round(value * factor)
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return totals


def _what(name: str, labels: Mapping[str, str]) -> tuple[str, int]:
    """What a series counts, and in which fractions of its unit."""
    if "outcome" in labels:
        return labels["outcome"], 1
    metric, _, part = name.rpartition("_")
    return (LETTERS[metric] + labels["le"], 1) if part == "bucket" else (LETTERS[metric], 1_000_000)


def since(totals: Totals, before: Totals) -> Totals:
    """What was counted since *before*. What is less now has lost files, and adds nothing: it is counted from here."""
    more: Totals = {}
    for queue, jobs in totals.items():
        for job, counts in jobs.items():
            known = before.get(queue, {}).get(job, {})
            grown = {what: count - known.get(what, 0) for what, count in counts.items()}
            if any(grown.values()) and min(grown.values()) >= 0:
                more.setdefault(queue, {})[job] = {what: count for what, count in grown.items() if count}
    return more


@dataclass(frozen=True)
class Book:
    """How far we are: the totals after batch ``number``, and that batch, while it may not be in Redis."""

    number: int = 0
    totals: Totals = field(default_factory=dict)
    batch: Totals = field(default_factory=dict)


def load(folder: str) -> Book:
    """The book that was kept last; an empty one where there is none."""
    try:
        book = Book(**orjson.loads(Path(folder, FILE).read_bytes()))
        since(book.totals, book.batch)  # fails where it is not as we write it
        return book
    except (OSError, ValueError, TypeError, AttributeError):
        return Book()


def keep(book: Book, folder: str) -> None:
    """Keep a book for whoever comes after us. Raises :class:`OSError`."""
    write(Path(folder, FILE), orjson.dumps(asdict(book)))
