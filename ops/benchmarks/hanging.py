"""The application that `ops/deadlines` runs: jobs that do not end, and that no exception stops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from millstream import Millstream

CHILDREN = "MILLSTREAM_BENCH_CHILDREN"
SPREAD = 8  # limits between which the deadlines are spread
STEP = 0.125
SOONEST = 2.0

app = Millstream()


def in_c() -> None:
    """C code that holds the GIL and looks at no signal."""
    sum(range(10**12))


def in_python() -> None:
    """Python code that is interrupted, and goes on."""
    while True:
        try:
            sum(range(10**5))
        except BaseException:
            continue


def with_subprocess() -> None:
    """The same with a subprocess that would outlive us."""
    child = subprocess.Popen([sys.executable, "-Sc", "import time; time.sleep(120)"])
    with Path(os.environ[CHILDREN]).open("a") as file:
        file.write(f"{child.pid}\n")
    in_python()


KINDS = (in_c, in_python, with_subprocess)
MIX = (0, 1, 0, 2)  # half of the jobs hang in C code

# A limit belongs to a job, so there is one job for each limit and kind.
JOBS = [
    [
        app.job(queue="hanging", name=f"{kind.__name__}-{step}", timeout=SOONEST + step * STEP, retry=1)(kind)
        for kind in KINDS
    ]
    for step in range(SPREAD)
]
