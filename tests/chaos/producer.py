"""Enqueues jobs until told to stop; writes down each id before it is tried and after it was acknowledged.

Run as `python -m tests.chaos.producer SEED FILE PACE KIND...`, with PACE the seconds between two jobs;
SIGTERM ends it after the job in hand.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from millstream.protocol.errors import Unavailable
from millstream.protocol.registry import Draft
from tests.chaos import jobs


def call_of(kind: str, rng: random.Random) -> tuple[Any, tuple[object, ...]]:
    """The job of this kind and its arguments."""
    if kind == "slow":
        return jobs.slow, (round(rng.uniform(0.05, 0.4), 3),)
    if kind == "long":
        return jobs.slow, (round(rng.uniform(3.2, 4.0), 3),)
    if kind == "longest":
        return jobs.slow, (6.5,)
    if kind == "busy":
        return jobs.busy, (round(rng.uniform(0.005, 0.05), 3),)
    if kind == "flaky":
        return jobs.flaky, (rng.randint(1, jobs.ATTEMPTS - 1),)
    if kind == "failing":
        return jobs.flaky, (jobs.ATTEMPTS,)
    if kind == "poison":
        return jobs.poison, (rng.choice(["exit", "signal", "oom"]),)
    if kind == "hung":
        return jobs.stuck, (False,)
    if kind in ("stuck", "glutton", "newcomer"):
        return getattr(jobs, kind), ()
    return jobs.quick, ()


def draft(job_id: str, kind: str, rng: random.Random) -> Draft:
    """The same, not yet enqueued."""
    job, args = call_of(kind, rng)
    return job.using(id=job_id).job(*args)  # type: ignore[no-any-return]


def enqueue(job_id: str, kind: str, rng: random.Random) -> None:
    """Enqueue one job, as often as it takes; the id makes that safe."""
    job, args = call_of(kind, rng)
    while True:
        try:
            job.using(id=job_id).enqueue(*args)
            return
        except Unavailable:
            time.sleep(0.05)


def main() -> None:
    """Enqueue until SIGTERM."""
    seed, path, pace, kinds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    rng = random.Random(seed)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _frame: stopping.append(signum))
    number = 0
    with path.open("a", buffering=1) as lines:
        while not stopping:
            number += 1
            job_id, kind = f"{seed}-{number}", rng.choice(kinds)
            lines.write(f"tried {job_id} {kind} {time.monotonic_ns()}\n")
            enqueue(job_id, kind, rng)
            lines.write(f"acknowledged {job_id} {kind} {time.monotonic_ns()}\n")
            time.sleep(pace)


if __name__ == "__main__":
    main()
