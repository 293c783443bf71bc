"""The application that `ops/bench` runs: jobs that do nothing but leave a mark."""

from __future__ import annotations

import time

from millstream import Millstream
from ops.benchmarks import evidence

SAMPLES = 200

app = Millstream()
_marks: evidence.Marks | None = None
_stamps: evidence.Stamps | None = None


@app.on_worker_start
def open_evidence() -> None:
    """Map this process's own marks and the shared latencies."""
    global _marks, _stamps
    _marks = evidence.open_marks()
    _stamps = evidence.open_stamps(SAMPLES)


@app.job(queue="bench")
def noop(number: int) -> None:
    """Nothing, but seen."""
    assert _marks is not None
    _marks.note(number)


@app.job(queue="bench")
def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent (monotonic ns)."""
    assert _stamps is not None
    _stamps.values[number] = max(1, time.monotonic_ns() - sent)
