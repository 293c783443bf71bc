"""Short plays with jobs that keep others away: what random sequences reach seldom, in each setting."""

from __future__ import annotations

from collections.abc import Callable

from millstream.protocol.transitions import Kind
from tests.fuzz.jobs import HOUR
from tests.fuzz.machine import HOLDER, KINDS, A, Machine

Play = Callable[[Machine], None]
ENDS = (
    (Kind.COMPLETED, 0),
    (Kind.DISCARDED, 0),
    (Kind.CANCELLED, 0),
    (Kind.EXPIRED, 0),
    (Kind.DEAD, 0),
    (Kind.CRASHED, 0),
    (Kind.RETRY, HOUR),
    (Kind.TIMEOUT, HOUR),
    (Kind.MEMORY, HOUR),
    (Kind.CRASH, HOUR),
    (Kind.CRASH, 0),
    (Kind.RELEASE, HOUR),
    (Kind.RELEASE, 0),
)


def open_queue(_machine: Machine) -> None:
    """No rules."""


def limited(machine: Machine) -> None:
    machine.limit(1, False)


def paused(machine: Machine) -> None:
    machine.limit(2, True)
    machine.pause()


def paused_names(machine: Machine) -> None:
    machine.pause_job("play")
    machine.pause_job("work")


SETTINGS: tuple[Play, ...] = (open_queue, limited, paused, paused_names)


def enqueue(machine: Machine, kind: str, *ids: str) -> None:
    """Several jobs of one kind, each compared."""
    for job_id in ids:
        machine.enqueue(job_id, "normal", None, "once", **KINDS[kind], lost=True)
        machine.compare()


def deliver(machine: Machine) -> None:
    """Open what is shut, and deliver what may run."""
    steps: tuple[Callable[[], None], ...] = (
        lambda: machine.resume(1, True),
        lambda: machine.resume_job("work", 1),
        lambda: machine.resume_job("play", 200),
        lambda: machine.browse(1),
        lambda: machine.take(A, 2),
        lambda: machine.take(A, 1),
        lambda: machine.fetch(A, 2),
    )
    for step in steps:
        step()
        machine.compare()


def ends(machine: Machine, kind: str, end: Kind, delay: int) -> None:
    """A job ends, or runs later: who waited for what it held goes on; it comes back, and finds it taken."""
    enqueue(machine, kind, "j0", "j1", "j2")
    deliver(machine)
    machine.begin_run("j0", HOLDER, 0, False)
    machine.settle("j0", end, delay, HOLDER, 0, False, lost=True)
    machine.compare()
    enqueue(machine, kind, "j3")
    deliver(machine)
    machine.tend()
    machine.retry_dead("j0")
    machine.compare()
    machine.retry_ended("j0")
    machine.compare()
    machine.time_passes("j0")
    machine.promote(200)
    machine.compare()
    machine.purge(1, True)
    machine.compare()
    machine.purge(200, True)


def is_removed(machine: Machine, kind: str, end: Kind, delay: int) -> None:
    """One that waits first, or runs, is cancelled; then all goes."""
    enqueue(machine, kind, "j0", "j1", "j2")
    for job_id in ("j1", "j0"):
        machine.cancel(job_id)
        machine.compare()
    enqueue(machine, kind, "j3")
    deliver(machine)
    machine.cancel("j2")
    machine.compare()
    machine.settle("j2", end, delay, HOLDER, 0, False)
    machine.compare()
    machine.retry_ended("j0")
    machine.compare()
    machine.purge(2, False)


def too_late(machine: Machine, kind: str, end: Kind, delay: int) -> None:
    """Its deadline is over while it runs."""
    enqueue(machine, kind, "j0")
    machine.deadline_passes("j0")
    deliver(machine)
    machine.begin_run("j0", HOLDER, 0, True)
    machine.settle("j0", end, delay, HOLDER, 0, False)
    machine.compare()
    machine.retry_dead("j0")
    machine.compare()
    machine.begin_run("j0", HOLDER, 0, True)


PLAYS = {
    kind: (too_late,) if kind == "late" else (ends, is_removed, too_late) if kind == "all" else (ends, is_removed)
    for kind in KINDS
    if kind != "plain"
}
