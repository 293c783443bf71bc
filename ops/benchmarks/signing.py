"""What signatures cost a job: encoding and reading it with and without them, on this machine, in µs.

Run it with ``python -m ops.benchmarks.signing``.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from millstream.protocol.drafts import new_job
from millstream.protocol.envelope import parse_entry
from millstream.protocol.registry import Draft, checked_options
from millstream.protocol.signing import Keyring

KEYS = Keyring.parse(f"new:{'n' * 64},old:{'o' * 64}")
SIZES = (10, 1_000, 100_000)


def best(action: Callable[[], object]) -> float:
    """Microseconds of the fastest of some rounds: the least disturbed one."""
    timer = timeit.Timer(action)
    number, _ = timer.autorange()
    return min(timer.repeat(5, number)) / number * 1e6


def measured(size: int) -> tuple[float, float, float, float]:
    """Enqueue without and with keys, fetch without and with keys."""
    draft = Draft("work", ("x" * size,), {}, "default", 0, checked_options())
    plain, signed = new_job(draft, None), new_job(draft, KEYS)
    fields = {job: [b"id", job.id.encode(), b"env", job.envelope] for job in (plain, signed)}
    return (
        best(lambda: new_job(draft, None)),
        best(lambda: new_job(draft, KEYS)),
        best(lambda: parse_entry("n", b"1-0", fields[plain], "default")),
        best(lambda: parse_entry("n", b"1-0", fields[signed], "default", KEYS)),
    )


def main() -> None:
    """Measure and print."""
    table = Table("argument, bytes", "enqueue, µs", "signed", "fetch, µs", "verified")
    for size in SIZES:
        table.add_row(f"{size:,}", *(f"{value:.2f}" for value in measured(size)))
    Console().print(table)


if __name__ == "__main__":
    main()
