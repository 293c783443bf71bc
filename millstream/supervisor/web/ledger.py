"""The sums of what all processes have counted, from prometheus_client's files, fast enough for every scrape.

In such a file a value never moves once it was written, and new ones are only added at the end. So names are parsed
once; after that a scrape unpacks each file's values in one call and adds up those that belong together. (The client's
own collector parses all names each time: seconds for the files of 64 workers.) Its gauges are few, and of several
modes; they are left to the client.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path

from millstream.supervisor.web.exposition_format import Labels, head, sample_name
from millstream.worker.metrics import COUNTED

KINDS = ("counter", "histogram", "summary")
KEPT: dict[str, Collection[str]] = {metric.family: metric.kept for metric in COUNTED if metric.kept}
"""By metric, the labels that are in the files, but not exported."""

Adder = Callable[[Sequence[float]], float]

_HEAD = 8
_VALUE = 16  # a value and a time stamp, eight bytes each
_INTEGER = struct.Struct("=i")


class _File:
    """One file: mapped once, and again when it has grown."""

    def __init__(self, path: Path, inode: int) -> None:
        self.inode = inode
        self.segments = 0
        self._path = path
        self._map: mmap.mmap | None = None
        self._used = _HEAD
        self._segments: list[tuple[int, struct.Struct]] = []

    def new_keys(self) -> list[str]:
        """The keys that were added since the last call, in the order of their values."""
        used = _INTEGER.unpack_from(self._mapped(), 0)[0] if self._mapped_to(_HEAD) else 0
        if used <= self._used or not self._mapped_to(used):
            return []
        keys, layout, start = [], ["="], self._used
        at = start
        while at < used:
            key = at + _INTEGER.size
            length = _INTEGER.unpack_from(self._mapped(), at)[0]
            keys.append(self._mapped()[key : key + length].decode())
            value = key + length + 8 - (length + _INTEGER.size) % 8  # padded, so that the value is aligned
            layout.append(f"{value - at}xd8x")
            at = value + _VALUE
        self._segments.append((start, struct.Struct("".join(layout))))
        self._used = used
        return keys

    def values(self, segment: int) -> tuple[float, ...]:
        """The values of one segment: what one call of :meth:`new_keys` has found."""
        start, layout = self._segments[segment]
        return layout.unpack_from(self._mapped(), start)

    def _mapped(self) -> mmap.mmap:
        assert self._map is not None
        return self._map

    def _mapped_to(self, size: int) -> bool:
        """Map the file, at least so far; False where it is shorter."""
        if self._map is None or len(self._map) < size:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < max(size, _HEAD):
                    return False
                if self._map is not None:
                    self._map.close()
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return True


class _Family:
    """One metric with all its series; ``lines`` are the beginnings of its samples, in order."""

    def __init__(self, kind: str, name: str, help_text: str) -> None:
        self.kind = kind
        self.name = name
        self.head = head(kind, name, help_text)
        self.series: dict[tuple[str, Labels], list[int]] = {}

    def add(self, name: str, labels: Labels, at: int) -> None:
        """One more value of a series."""
        self.series.setdefault((name, labels), []).append(at)


class Ledger:
    """All files of a folder, added up, also over the labels that *kept* names by metric."""

    def __init__(self, folder: str, kept: Mapping[str, Collection[str]] = KEPT) -> None:
        self._folder = Path(folder)
        self._kept = kept
        self._files: dict[str, _File] = {}
        self._segments: list[tuple[_File, int]] = []
        self._families: dict[tuple[str, str], _Family] = {}
        self._length = 0
        self._plans: dict[tuple[str, str], _Rendering] = {}

    def text(self) -> str:
        """The counters, histograms and summaries of the folder, in the text format."""
        self._look_for_more()
        values = self._values()
        return "".join(chain.from_iterable(plan.lines(values) for plan in self._plans.values()))

    def sums(self, metrics: Collection[str]) -> Iterator[tuple[str, dict[str, str], float]]:
        """Each series of these metrics as name, labels and sum; a bucket counts only what is in itself."""
        self._look_for_more()
        values = self._values()
        for (_, metric), family in self._families.items():
            if metric in metrics:
                for (name, labels), places in family.series.items():
                    yield name, dict(labels), sum(values[place] for place in places)

    def _values(self) -> tuple[float, ...]:
        return tuple(chain.from_iterable(file.values(segment) for file, segment in self._segments))

    def _look_for_more(self) -> None:
        changed: set[tuple[str, str]] = set()
        for name, inode in self._found():
            file = self._files.get(name)
            if file is None or file.inode != inode:
                # A second one of its name: the first was removed. What we have mapped of it was counted all the same.
                file = self._files[name] = _File(self._folder / name, inode)
            keys = file.new_keys()
            if keys:
                changed |= self._take(name.partition("_")[0], keys)
                self._segments.append((file, file.segments))
                file.segments += 1
        for key in changed:
            self._plans[key] = _Rendering(self._families[key])

    def _found(self) -> list[tuple[str, int]]:
        """The names and inodes of the files that are there."""
        try:
            with os.scandir(self._folder) as entries:
                found = [(entry.name, entry.inode()) for entry in entries if entry.name.endswith(".db")]
        except FileNotFoundError:  # somebody has emptied the temporary folder: what is mapped still counts
            found = []
        return sorted((name, inode) for name, inode in found if name.startswith(KINDS))

    def _take(self, kind: str, keys: Iterable[str]) -> set[tuple[str, str]]:
        """Give each value of a new segment its place; returns which metrics have new values."""
        changed = set()
        for key in keys:
            metric, name, labels, help_text = json.loads(key)
            family = self._families.get((kind, metric))
            if family is None:
                family = self._families[kind, metric] = _Family(kind, metric, help_text)
            hidden = self._kept.get(metric, ())
            family.add(name, tuple(pair for pair in labels.items() if pair[0] not in hidden), self._length)
            self._length += 1
            changed.add((kind, metric))
        return changed


class _Rendering:
    """How a metric's samples are made of the values: worked out anew only when it has more of them."""

    def __init__(self, family: _Family) -> None:
        self._head = family.head
        self._plain: list[tuple[str, Adder]] = []
        self._histograms: list[list[tuple[str, Adder]]] = []
        self._counts: list[str] = []
        buckets: dict[Labels, list[tuple[float, Labels, list[int]]]] = {}
        for (name, labels), places in family.series.items():
            bound = dict(labels).get("le") if family.kind == "histogram" and name.endswith("_bucket") else None
            if bound is None:
                self._plain.append((sample_name(name, labels), _adder(places)))
            else:
                rest = tuple(pair for pair in labels if pair[0] != "le")
                buckets.setdefault(rest, []).append((float(bound), labels, places))
        for rest, found in buckets.items():
            found.sort(key=lambda bucket: bucket[0])
            name = f"{family.name}_bucket"
            self._histograms.append([(sample_name(name, labels), _adder(places)) for _, labels, places in found])
            self._counts.append(sample_name(f"{family.name}_count", rest))

    def lines(self, values: Sequence[float]) -> Iterator[str]:
        """The text of the metric."""
        yield self._head
        for begin, add in self._plain:
            yield f"{begin} {add(values)}\n"
        for buckets, count in zip(self._histograms, self._counts, strict=True):
            total = 0.0
            for begin, add in buckets:
                total += add(values)
                yield f"{begin} {total}\n"
            yield f"{count} {total}\n"


def _adder(places: list[int]) -> Adder:
    """What adds up the values in these places; the picking is done in C, it is most of a scrape's work."""
    if len(places) == 1:
        return itemgetter(places[0])
    pick = itemgetter(*places)
    return lambda values: sum(pick(values))
