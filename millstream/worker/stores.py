"""The files in which is counted, made so that counting neither fails nor kills.

prometheus_client maps sparse files: a store into a page for which the file system has no room is answered with SIGBUS.
So room is written before it is mapped. Where that fails (a full disk, a quota, a folder that is gone), what has its
place in the file is counted there as before, and the rest in memory of our own, which nobody shows; every now and then
the file is tried again, and gets what was counted.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

FIRST = 1 << 16
"""Bytes that a new file has room for; it doubles when they are used."""

AGAIN = 10.0
"""Seconds between two tries to get back to the file."""

Report = Callable[[OSError | None], None]
"""Told once when a process cannot keep what it counts (why), and once when it can again (None)."""

_HEAD = 8
_OVERHEAD = 4 + 8 + 16
"""Bytes that a value takes besides its key, at most."""

_lost: set[str] = set()


_Client: Any = MmapedDict  # it is not typed


class Store(_Client):  # type: ignore[misc]
    """One file. Its methods are called under the client's lock; ``in_memory`` while not all is in the file."""

    def __init__(self, path: str, report: Report) -> None:
        self._path = path
        self._report = report
        self._again = 0.0
        self._first: Any = b""  # while we count in memory: the part that is in the file
        self.in_memory = False
        self._blank = False  # memory of our own that does not hold what the file has
        try:
            with open(path, "ab") as file:
                _write_zeros(file.fileno(), os.fstat(file.fileno()).st_size, FIRST)
            super().__init__(path)
        except OSError as error:
            self._begin_in_memory(error)

    def _begin_in_memory(self, error: OSError) -> None:
        self._f: Any = None
        self._positions: dict[str, int] = {}
        self._capacity, self._used, self._blank = FIRST, _HEAD, True
        self._m = mmap.mmap(-1, FIRST)
        self._m[:_HEAD] = _HEAD.to_bytes(_HEAD, "little")
        self._leave_the_file(error)

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + _OVERHEAD > self._capacity:
            self._grow()
        super()._init_value(key)

    def _grow(self) -> None:
        """Double the room: of the file, if that can be."""
        capacity = 2 * self._capacity
        if self._f is not None:
            try:
                _write_zeros(self._f.fileno(), self._capacity, capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
                self._capacity = capacity
                return
            except OSError as error:
                self._f.close()
                self._f, self._first = None, memoryview(self._m)[: self._used]
                self._leave_the_file(error)
        larger = mmap.mmap(-1, capacity)
        larger[: self._used] = self._m[: self._used]
        self._m, self._capacity = larger, capacity

    def _leave_the_file(self, error: OSError) -> None:
        self._again = time.monotonic() + AGAIN
        self.in_memory = True
        self.write_value = self._write_in_memory  # nothing to ask on the way of those that have a file
        if not _lost:
            self._report(error)
        _lost.add(self._path)

    def _write_in_memory(self, key: str, value: float, timestamp: float) -> None:
        super().write_value(key, value, timestamp)
        at = self._positions[key]
        if at < len(self._first):
            self._first[at : at + 16] = self._m[at : at + 16]
        if time.monotonic() >= self._again:
            self._again = time.monotonic() + AGAIN
            with contextlib.suppress(OSError):
                self._return_to_the_file()

    def _return_to_the_file(self) -> None:
        """Give the file what was counted meanwhile. Values stay where they are, since others may read them."""
        file = open(self._path, "a+b")  # noqa: SIM115 - stays open, as the client's
        try:
            if self._blank and int.from_bytes(os.pread(file.fileno(), 4, 0), "little") > _HEAD:
                file.close()  # it holds other counts than we: they stay as they are until our successor goes on
                return
            _write_zeros(file.fileno(), os.fstat(file.fileno()).st_size, self._capacity)
            mapped = mmap.mmap(file.fileno(), self._capacity)
        except OSError:
            file.close()
            raise
        mapped[_HEAD : self._used] = self._m[_HEAD : self._used]
        mapped[:_HEAD] = self._m[:_HEAD]  # last: it says how much of the file is valid
        self._f, self._m, self._first, self._blank = file, mapped, b"", False
        self.in_memory = False
        del self.write_value
        _lost.discard(self._path)
        if not _lost:
            self._report(None)


def _write_zeros(descriptor: int, start: int, end: int) -> None:
    """Fill a file that is *start* bytes long up to *end*, so that each page has its place; or leave it as it was."""
    size = start
    try:
        while size < end:
            size += os.write(descriptor, bytes(min(end - size, FIRST)))
    except OSError:
        os.ftruncate(descriptor, start)
        raise
