"""Aim kills, cancellations and hand-backs at single runs of a worker that cycles through tiny ones.

Run as a program: `python -m tests.worker.races COUNT SEED`. The parent uses the supervisor's own
:class:`Process`; the child runs the real worker loop on an endless supply of jobs instead of Redis. What really ran
the child notes elsewhere than in the record: in shared memory of its own. Prints what came of it as JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from millstream.protocol.app import Millstream
from millstream.protocol.scoreboard import (
    Cause,
    Interrupt,
    Order,
    Record,
    RecordState,
    Scoreboard,
    Word,
    anonymous_file,
)
from millstream.protocol.transitions import Kind, Outcome
from millstream.supervisor import logs
from millstream.supervisor import signals as parent_signals
from millstream.supervisor.slot import HALTED, Process
from millstream.worker.execution import Execution, Run
from millstream.worker.fetcher import Delivery
from millstream.worker.loop import Worker
from millstream.worker.signals import Signals
from millstream.worker.spec import WorkerSpec
from millstream.worker.tally import Uncounted

STARTED, ENDED, CANCELLED, REVOKED_LAST, REVOKED_BATCH, BATCHES = range(6)
NOTES_BYTES = 4096
HALT_TIME = int(HALTED * 1e6)
"""Microseconds for which a run must go on to be hit."""

app = Millstream(redis_url="unix:///nowhere", prefix="t00000000:")
notes = memoryview(mmap.mmap(-1, NOTES_BYTES)).cast("Q")


@app.job(name="tiny")
def tiny(microseconds: int) -> None:
    """Spin, and say so; the run's number is the loop's own."""
    number = notes[STARTED] = worker_of_child[0]._run
    end = time.perf_counter_ns() + microseconds * 1000
    while time.perf_counter_ns() < end:
        pass
    notes[ENDED] = number


worker_of_child: list[Worker] = []


class Supply:
    """In place of the fetcher: endless batches, and a note of each batch that was given back."""

    def __init__(self) -> None:
        self._jobs = 0

    def exchange(self, queue: int, outcomes: Sequence[Outcome], *, fetch: bool) -> Delivery | None:
        if not fetch:
            return None
        notes[BATCHES] += 1
        size = random.choice((1, 2, 5, 20))
        return Delivery(0, 1_700_000_000_000, time.monotonic(), [self._entry() for _ in range(size)])

    def _entry(self) -> tuple[str, bytes, list[bytes]]:
        self._jobs += 1
        envelope = b'{"v":1,"n":"tiny","t":1,"a":[%d]}' % random.choice((0, 5, 50, 200, HALT_TIME, 2 * HALT_TIME))
        return "n", b"%d-0" % self._jobs, [b"id", b"j%d" % self._jobs, b"env", envelope]

    def give_back(self, queue: int, refs: Sequence[str]) -> None:
        """The worker was told that the rest of its batch is no longer its own."""
        notes[REVOKED_LAST] = notes[STARTED]
        notes[REVOKED_BATCH] = worker_of_child[0]._batch

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Watched(Execution):
    """Notes which run ended as cancelled."""

    def run(self, run: Run) -> Outcome | None:
        outcome = super().run(run)
        if outcome is not None and outcome.kind == Kind.CANCELLED:
            notes[CANCELLED] = run.number
        return outcome


def be_worker(record: Record) -> None:
    """The child: the real loop, with its connection to Redis replaced."""
    spec = WorkerSpec("unix:///nowhere", "t00000000:", "race-abc123", "g", 0, 1, "x:app", ("q",))
    signals = Signals(record)
    signals.install()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    worker = Worker(app, spec, record, signals, Uncounted())
    worker._fetcher = Supply()  # type: ignore[assignment]
    worker._execution = Watched(spec.worker, signals, record.words)
    worker_of_child[:] = [worker]
    record.words[Word.READY] = 1
    worker.work()


def start(board: Scoreboard) -> Process:
    """Fork a worker into a fresh record."""
    for index in range(NOTES_BYTES // 8):
        notes[index] = 0
    record = board.free_record()
    assert record is not None
    record.words[Word.STATE] = RecordState.ALIVE
    record.words[Word.INCARNATION] = 1
    before = parent_signals.block()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            random.seed()
            be_worker(record)
        finally:
            os._exit(1)
    os.setpgid(pid, pid)
    parent_signals.unblock(before)
    process = Slow(pid, 1, record, anonymous_file("stack"), time.monotonic())
    await_note(process, BATCHES, 5)
    return process


def await_note(process: Process, which: int, at_least: int) -> None:
    """Wait until the child has noted that much."""
    end = time.monotonic() + 10
    while notes[which] < at_least:
        assert time.monotonic() < end, f"the child does not go on: {list(notes[:6])}"
        time.sleep(0.0001)


def aim(process: Process) -> int:
    """Pick the run that is on, and let some time pass, so that it may be over."""
    while not (run := process.record.running):
        pass
    end = time.perf_counter_ns() + random.choice((0, 2_000, 20_000, 100_000))
    while time.perf_counter_ns() < end:
        pass
    return run


class Slow(Process):
    """The supervisor may lose the CPU between its look and its kill."""

    def kill_group(self) -> None:
        time.sleep(random.choice((0, 0.0005, 0.005)))
        super().kill_group()


class Races:
    """Counts how the races ended; a fault is a sentence."""

    def __init__(self) -> None:
        self.board = Scoreboard.create(4)
        self.process = start(self.board)
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []

    def kill(self) -> None:
        """A killed worker was in the run that was meant, and in no later one."""
        run = aim(self.process)
        if not self._after_halting(lambda: self.process.kill_run(run, Cause.TIMEOUT)):
            self.ended["kill missed"] += 1
            return self._goes_on()
        self.ended["kill hit"] += 1
        _, status = os.waitpid(self.process.pid, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            self.faults.append(f"killed run {run}, but the status is {status}")
        if notes[STARTED] > run or self.process.record.running not in (0, run):  # 0: it ended just before
            self.faults.append(f"killed run {run} in run {notes[STARTED]}")
        self._replace()

    def cancel(self) -> None:
        """The run that ended as cancelled is the one that was meant."""
        run = aim(self.process)
        before = notes[CANCELLED]
        self.process.interrupt(run, Interrupt.CANCEL, time.monotonic())
        self._goes_on()
        if notes[CANCELLED] == before:
            self.ended["cancel missed"] += 1
        elif notes[CANCELLED] == run:
            self.ended["cancel hit"] += 1
        else:
            self.faults.append(f"cancelled run {run}, hit {notes[CANCELLED]}")

    def hand_back(self) -> None:
        """After a hand-back aimed at a run, no later run of its batch began."""
        run = aim(self.process)
        words, before = self.process.record.words, notes[REVOKED_BATCH]
        if not self._after_halting(lambda: self.process.revoke_rest(run)):
            self.ended["hand-back missed"] += 1
            return self._goes_on()
        batch = words[Word.REVOKED]
        self._goes_on()
        if notes[REVOKED_BATCH] == before:
            self.ended["hand-back of nothing"] += 1  # it was the last of its batch
            return
        self.ended["hand-back hit"] += 1
        # A run that was announced but had not begun goes back itself.
        if notes[REVOKED_BATCH] != batch or notes[REVOKED_LAST] not in (run, run - 1):
            self.faults.append(
                f"batch {batch} handed back behind run {run}: {notes[REVOKED_BATCH]} behind {notes[REVOKED_LAST]}"
            )

    def finish(self) -> None:
        self.process.record.words[Word.ORDER] = Order.DRAIN
        os.kill(self.process.pid, signal.SIGKILL)
        os.waitpid(self.process.pid, 0)

    def _after_halting(self, act: Callable[[], bool]) -> bool:
        """What the supervisor does: ask, look again after a moment, let the worker go on."""
        act()
        time.sleep(HALTED + random.choice((0, 0.0001, 0.001)))
        done = act()
        self.process.go_on()
        return done

    def _goes_on(self) -> None:
        """Whatever was aimed at one run, later ones go on."""
        self.process.go_on()
        await_note(self.process, BATCHES, notes[BATCHES] + 2)

    def _replace(self) -> None:
        os.close(self.process.stack_file)
        self.process.record.words[Word.STATE] = RecordState.FREE
        self.process = start(self.board)


def main(count: int, seed: int) -> None:
    """Race, and print what came of it."""
    logs.configure()
    random.seed(seed)
    races = Races()
    for _ in range(count):
        random.choice((races.kill, races.cancel, races.hand_back))()
    races.finish()
    print(json.dumps({"ended": races.ended, "faults": races.faults}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
