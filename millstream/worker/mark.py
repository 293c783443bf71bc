"""The mark of a worker: it proves whose a process is, also of one that has left its parents, group and session."""

from __future__ import annotations

import os
import re
import sys
from mmap import mmap
from pathlib import Path

VARIABLE = "MILLSTREAM_WORKER"
"""The environment variable with the mark, for what the worker executes."""

PAGE = "millstream-worker:"
"""What the name of the mapped page begins with, for what it forks."""

_EXECUTED = re.compile(rb"(?:^|\0)" + VARIABLE.encode() + rb"=([^\0]+)")
_FORKED = re.compile(rb"/memfd:" + PAGE.encode() + rb"(\S+)")

_worn: list[mmap] = []


def wear(mark: str) -> None:
    """Mark this process and all that descend from it.

    A process that is forked and executes nothing shows the environment that its forefather was started with, so there
    is a page of memory as well, whose name tells whose it is: unlike a title, an open file or a group it stays
    whatever the process does to become a daemon.
    """
    os.environ[VARIABLE] = mark
    if sys.platform == "linux":
        page = os.memfd_create(PAGE + mark)
        os.ftruncate(page, 1)
        _worn.append(mmap(page, 1))
        os.close(page)


def mark_of(pid: int) -> str | None:
    """The mark of a process, "" where it has none; None where that cannot be told: it ends, or begins. Linux only."""
    try:
        memory, environment = (Path(f"/proc/{pid}/{file}").read_bytes() for file in ("maps", "environ"))
    except PermissionError:
        return ""
    except OSError:
        return None
    # The page first: it is of the nearest worker, where a worker's subprocess is a supervisor with workers.
    if found := _FORKED.search(memory) or _EXECUTED.search(environment):
        return found[1].decode(errors="replace")
    return "" if memory and environment else None
