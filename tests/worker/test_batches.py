"""How many jobs to fetch at once, and what is kept of them until it is settled."""

from __future__ import annotations

import itertools
import os

import pytest

from millstream.protocol.scoreboard import OUTBOX_BYTES, Scoreboard, Word
from millstream.protocol.transitions import Kind, Outcome
from millstream.worker.outbox import Outbox
from millstream.worker.pace import GROWTH, LARGEST, TARGET, Pace


def _settled(runtime: float, rounds: int = 30) -> Pace:
    """A pace that has seen many batches of jobs of this runtime (seconds)."""
    pace = Pace()
    for _ in range(rounds):
        jobs = pace.size()
        pace.note(jobs, jobs * runtime)
    return pace


@pytest.mark.parametrize(
    ("runtime", "size"), [(0.0, LARGEST), (1e-6, LARGEST), (1e-4, 50), (1e-3, 5), (0.005, 1), (0.1, 1), (100.0, 1)]
)
def test_a_batch_holds_about_five_milliseconds_of_work(runtime: float, size: int) -> None:
    found = _settled(runtime).size()
    assert abs(found - size) <= 1
    assert found * runtime <= max(TARGET, runtime) * 1.01


def test_it_begins_with_one_and_grows_step_by_step() -> None:
    pace, sizes = Pace(), []
    for _ in range(6):
        sizes.append(pace.size())
        pace.note(pace.size(), 0.0)
    assert sizes[0] == 1
    assert all(later <= earlier * GROWTH for earlier, later in itertools.pairwise(sizes))
    assert sizes[-1] == LARGEST


def test_one_long_job_makes_the_next_batch_small() -> None:
    pace = _settled(1e-6)
    pace.note(10, 1.0)
    assert pace.size() == 1


def test_an_empty_batch_teaches_nothing() -> None:
    pace = _settled(1e-3)
    before = pace.size()
    pace.note(0, 0.0)
    assert pace.size() == before


def test_the_outbox_leaves_out_what_was_settled_elsewhere() -> None:
    board = Scoreboard.create(1)
    record = board.records[0]
    outbox = Outbox(record)
    outcomes = [Outcome(f"n{run}-0", f"j{run}", Kind.COMPLETED, 1, b"{}") for run in (1, 2, 3)]
    for run, outcome in enumerate(outcomes, 1):
        assert outbox.post(run, outcome)
    assert outbox.unsettled() == outcomes
    record.words[Word.OUTBOX_SETTLED] = 2
    assert outbox.unsettled() == outcomes[2:]
    assert record.outbox() == (3, [(run, outcome.pack()) for run, outcome in enumerate(outcomes, 1)])
    outbox.clear()
    assert not outbox
    assert outbox.unsettled() == []
    assert record.outbox() == (3, [])
    os.close(board.descriptor)


def test_what_has_no_room_is_kept_by_the_worker_alone() -> None:
    board = Scoreboard.create(1)
    outbox = Outbox(board.records[0])
    large = Outcome("n1-0", "j", Kind.COMPLETED, 1, b"x" * OUTBOX_BYTES)
    assert not outbox.post(1, large)
    assert outbox.unsettled() == [large]
    assert board.records[0].outbox() == (0, [])
    os.close(board.descriptor)
