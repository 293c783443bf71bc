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
    supervisor: int = 0  # pid of the process's parent
    last: bool = True  # whether its process began no other run after it

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
    line = f"{job_id} {run} {mark} {time.monotonic_ns()} {os.getpid()} {os.getppid()}\n"
    os.write(_file[1], line.encode())


def read(path: Path) -> tuple[list[Run], list[str]]:
    """The runs in the order of their begin, and what contradicts itself in the lines."""
    runs: list[Run] = []
    current: dict[int, Run] = {}  # by pid: a process runs one job at a time
    problems: list[str] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        job_id, number, mark, at, pid, supervisor = line.split()
        run = current.get(int(pid))
        if mark == Mark.BEGIN:
            if run is not None:
                run.last = False
            current[int(pid)] = Run(job_id, int(number), int(pid), int(at), supervisor=int(supervisor))
            runs.append(current[int(pid)])
        elif run is None or (run.id, run.run) != (job_id, int(number)) or run.end is not None:
            problems.append(f"{job_id}: run {number} ended without a begin")
        else:
            run.end, run.mark = int(at), Mark(mark)
    return sorted(runs, key=lambda run: run.begin), problems
