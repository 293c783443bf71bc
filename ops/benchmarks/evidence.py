"""Shared memory in which the benchmark's jobs leave what they saw, without a system call a job."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

FOLDER = "MILLSTREAM_BENCH_FOLDER"
JOBS = "MILLSTREAM_BENCH_JOBS"
HEADER = 16  # two 64-bit words: begin of the first job, begin of the last (monotonic ns)


class Failed(Exception):
    """A job was lost, or run twice, or a step did not work."""


class Marks:
    """One process's marks: a byte per job, counting its runs, and when the first and the last began."""

    def __init__(self, path: Path, jobs: int) -> None:
        with path.open("a+b") as file:
            file.truncate(HEADER + jobs)
            self._map = mmap.mmap(file.fileno(), HEADER + jobs)
        self._words = memoryview(self._map)[:HEADER].cast("q")
        self._runs = memoryview(self._map)[HEADER:]

    def note(self, number: int) -> None:
        """This job runs now, in this process."""
        now = time.monotonic_ns()
        if not self._words[0]:
            self._words[0] = now
        self._words[1] = now
        self._runs[number] += 1


class Stamps:
    """One latency (ns) per sample; 0 until its job has started."""

    def __init__(self, path: Path, samples: int) -> None:
        with path.open("a+b") as file:
            file.truncate(8 * samples)
            self._map = mmap.mmap(file.fileno(), 8 * samples)
        self.values = memoryview(self._map).cast("q")


def open_marks() -> Marks:
    """The marks of the calling process."""
    return Marks(Path(os.environ[FOLDER]) / f"marks-{os.getpid()}", int(os.environ[JOBS]))


def open_stamps(samples: int, folder: Path | None = None) -> Stamps:
    """The latencies, shared by all processes."""
    return Stamps((folder or Path(os.environ[FOLDER])) / "stamps", samples)


def read_marks(folder: Path) -> tuple[float, list[int]]:
    """Seconds from the first begin to the last over all processes, and how often each job ran."""
    begins: list[int] = []
    ends: list[int] = []
    totals: list[int] = []
    for path in folder.glob("marks-*"):
        data = path.read_bytes()
        first, last = memoryview(data)[:HEADER].cast("q")
        if first:
            begins.append(first)
            ends.append(last)
            runs = data[HEADER:]
            totals = [a + b for a, b in zip(totals, runs, strict=True)] if totals else list(runs)
    return (max(ends) - min(begins)) / 1e9 if begins else 0.0, totals
