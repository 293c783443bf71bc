"""What handlers leave behind in a file: one line when a run begins, one when it ends."""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MILLSTREAM_CHAOS_EVIDENCE"


class Mark(enum.StrEnum):
    """What happened to a run."""

    BEGIN = "B"
    END = "E"  # returned
    FAILED = "F"  # raised an exception
    INTERRUPTED = "I"  # was interrupted from outside


@dataclass
class Run:
    """One run of a handler; times are monotonic nanoseconds of this machine."""

    id: str
    run: int
    pid: int
    begin: int
    end: int | None = None
    mark: Mark = Mark.BEGIN

    def lasted(self, moment: int) -> bool:
        """Whether it had not ended before this moment."""
        return self.end is None or self.end >= moment

    @property
    def completed(self) -> bool:
        """Whether the handler returned."""
        return self.mark is Mark.END


_file: tuple[int, int] | None = None  # pid, descriptor: a fork opens its own


def note(mark: Mark, job_id: str, run: int) -> None:
    """Append one line; a write to a file opened with O_APPEND is one piece, whoever else writes."""
    global _file
    if _file is None or _file[0] != os.getpid():
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        _file = (os.getpid(), os.open(os.environ[VARIABLE], flags, 0o600))
    os.write(_file[1], f"{job_id} {run} {mark} {time.monotonic_ns()} {os.getpid()}\n".encode())


def read(path: Path) -> tuple[list[Run], list[str]]:
    """The runs in the order of their begin, and what contradicts itself in the lines."""
    runs: dict[tuple[str, int], Run] = {}
    problems: list[str] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        job_id, number, mark, at, pid = line.split()
        key = (job_id, int(number))
        if mark == Mark.BEGIN:
            if key in runs:
                problems.append(f"{job_id}: run {number} began twice (pids {runs[key].pid} and {pid})")
            runs[key] = Run(job_id, int(number), int(pid), int(at))
        elif key not in runs:
            problems.append(f"{job_id}: run {number} ended without a begin")
        else:
            runs[key].end, runs[key].mark = int(at), Mark(mark)
    return sorted(runs.values(), key=lambda run: run.begin), problems
