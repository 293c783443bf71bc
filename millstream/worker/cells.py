"""Numbers that outlive the process that counts them, in prometheus_client's multiprocess files.

The files belong to a scoreboard record (or to maintenance), not to a process: whoever takes the record next counts on
in the same files, so that there are never more of them than records, and nothing goes backwards when a process is
killed. Two processes never have one record at the same time: it is freed when the first is reaped and settled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from millstream.worker.stores import Report

log = structlog.get_logger("millstream.metrics")

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SUPERVISOR = "s"
"""The files of what an application imported before the fork has defined; nobody counts there."""

_pack = struct.Struct("dd").pack

_owner = SUPERVISOR
_pid = 0


@dataclass(frozen=True)
class Metric:
    """One metric: its name as exported, its labels, its help; a histogram has the upper bounds of its buckets.

    ``kept`` are labels that only the files have, after the others: what is exported adds up over them.
    """

    name: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The name under which prometheus_client's files have it."""
        return self.name.removesuffix("_total")


def install(folder: str, owner: str, tell: Callable[[int], None] = lambda _: None) -> None:
    """Let this process, and metrics that the application defines from now on, count in the files of *owner*.

    Never fails: what cannot be kept there is logged once and counted in memory that nobody shows; *tell* is then
    called with the error's number, and with 0 when it can be kept again.
    """
    global _owner, _pid
    _owner, _pid = owner, os.getpid()
    os.environ[FOLDER] = folder
    with contextlib.suppress(OSError):  # then no file can be opened, and that is reported
        os.makedirs(folder, mode=0o700, exist_ok=True)  # somebody may have emptied the temporary folder
    for stale in Path(folder).glob(f"gauge_live*_{owner}.db"):
        with contextlib.suppress(OSError):
            stale.unlink()  # a live gauge is of the process that set it, and that one is gone
    from prometheus_client import disable_created_metrics, values

    from millstream.worker.stores import Store

    client: Any = values
    client.MmapedDict = partial(Store, report=reporter(folder, tell))
    if not getattr(values.ValueClass, "of_millstream", False):
        without_created: Any = disable_created_metrics
        without_created()
        make: Any = values.MultiProcessValue
        cell = make(process_identifier=_identifier)
        cell.of_millstream = True
        values.ValueClass = cell


def reporter(folder: str, tell: Callable[[int], None]) -> Report:
    """What is done when counts cannot be kept in the folder, or can be again."""

    def report(error: OSError | None) -> None:
        if error is None:
            log.info("metrics.kept_again", folder=folder)
        else:
            hint = "jobs run on, but are not counted: make room, or see that the folder exists"
            log.warning("metrics.not_kept", folder=folder, error=str(error), hint=hint)
        tell(0 if error is None else error.errno or errno.EIO)

    return report


def _identifier() -> str:
    """What names our files. A process that a handler forks gets its own: two may never write to one file."""
    pid = os.getpid()
    return _owner if pid == _pid else f"{_owner}-{pid}"


class _Cell:
    """One value. Of one thread, in the process that made it: so it needs neither the client's lock nor its checks."""

    __slots__ = ("_at", "_file", "_value")

    def __init__(self, kind: str, metric: Metric, name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> None:
        from prometheus_client import values as client

        make: Any = client.ValueClass
        self._value: Any = make(kind, metric.family, name, labels, values, metric.help)
        self._file = self._value._file
        self._at = self._file._positions[self._value._key]  # for ever: values do not move

    def add(self, amount: float) -> None:
        value, file, at = self._value, self._file, self._at
        if file.in_memory:  # it may be on its way back to its file, which takes the client's lock
            value.inc(amount)
        else:
            value._value += amount
            file._m[at : at + 16] = _pack(value._value, 0.0)


class Counter:
    """One series of a counter."""

    def __init__(self, metric: Metric, *values: str) -> None:
        self._cell = _Cell("counter", metric, metric.name, metric.labels, values)

    def add(self, amount: float = 1) -> None:
        """Count."""
        self._cell.add(amount)


class Histogram:
    """One series of a histogram; many values are added at once, each bucket written once."""

    def __init__(self, metric: Metric, *values: str) -> None:
        self._metric = metric
        self._values = values
        self._labels = (*metric.labels, *metric.kept)
        self._sum = _Cell("histogram", metric, f"{metric.name}_sum", self._labels, values)
        self._buckets: list[_Cell | None] = [None] * (len(metric.buckets) + 1)

    def prepare(self) -> None:
        """Let all buckets exist, at 0; in one process: a bucket that is in no other one's files is 0 there."""
        for index in range(len(self._buckets)):
            self._bucket(index)

    def add(self, amounts: Sequence[float]) -> None:
        """Observe each of the amounts."""
        bounds, below, size = self._metric.buckets, 0, len(amounts)
        ordered = sorted(amounts)  # so that each bucket is a slice: a search for each bucket, not for each amount
        while below < size:
            index = bisect_left(bounds, ordered[below])
            end = bisect_right(ordered, bounds[index], below) if index < len(bounds) else size
            self._bucket(index).add(end - below)
            below = end
        self._sum.add(sum(amounts))

    def _bucket(self, index: int) -> _Cell:
        """The bucket, made when it is needed: most stay empty, and each costs every scrape."""
        bucket = self._buckets[index]
        if bucket is None:
            bounds = self._metric.buckets
            bound = repr(float(bounds[index])) if index < len(bounds) else "+Inf"
            name, labels = f"{self._metric.name}_bucket", (*self._labels, "le")
            bucket = self._buckets[index] = _Cell("histogram", self._metric, name, labels, (*self._values, bound))
        return bucket
