"""The scoreboard: what one process writes, another one reads, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from millstream.protocol import scoreboard
from millstream.protocol.scoreboard import (
    HEADER_BYTES,
    HELD_BYTES,
    MAX_GROUPS,
    OUTBOX_BYTES,
    OUTCOME_HEAD,
    WORDS,
    Header,
    Record,
    RecordState,
    Scoreboard,
    Word,
)
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    made = Scoreboard.create(3)
    yield made
    os.close(made.descriptor)


@pytest.fixture
def record(board: Scoreboard) -> Record:
    return board.records[1]


def test_no_two_fields_share_a_word() -> None:
    words = [value for name, value in vars(Word).items() if name.isupper()]
    assert len(set(words)) == len(words) > 40
    assert max(words) < WORDS
    ends = {"ID": "NAME", "NAME": "HELD", "HELD": "STACK", "STACK": "OUTBOX"}
    for name, following in ends.items():
        end = getattr(scoreboard, f"{name}_AT") + getattr(scoreboard, f"{name}_BYTES")
        assert end <= getattr(scoreboard, f"{following}_AT")
    assert WORDS * 8 <= scoreboard.ID_AT
    assert scoreboard.OUTBOX_AT + OUTBOX_BYTES <= scoreboard.RECORD_BYTES
    assert HELD_BYTES >= 300 * 22, "room for the longest references of the largest delivery"


def test_no_two_words_of_the_header_are_the_same() -> None:
    assert len(Header) == len(Header.__members__), "no alias"
    rows = [Header.TARGETS, Header.DEGRADED, Header.RESTART_AT, Header.BACKLOG, Header.BACKLOG_AGE, Header.DOWN_SINCE]
    in_rows = [row + group for row in rows for group in range(MAX_GROUPS)]
    assert len({*in_rows, *Header}) == len(in_rows) + len(Header) - len(rows)
    assert max(in_rows) < HEADER_BYTES // 8


def test_records_do_not_touch_each_other(board: Scoreboard) -> None:
    first, second, third = board.records
    for record in (first, third):
        record.words[WORDS - 1] = 2**64 - 1
        record.hold(1, 0, ["n1-0"])
        assert record.post(1, b"x" * (OUTBOX_BYTES - OUTCOME_HEAD))
    assert all(second.words[word] == 0 for word in range(WORDS))
    assert (second.held, second.outbox()) == ([], (0, []))


def test_a_record_is_free_until_it_is_taken_and_comes_cleared(board: Scoreboard) -> None:
    taken = board.free_record()
    assert taken is not None
    taken.words[Word.STATE] = RecordState.DEAD
    taken.words[Word.RUN] = 7
    others = [board.free_record() for _ in range(2)]
    for other in others:
        assert other is not None
        other.words[Word.STATE] = RecordState.ALIVE
    assert others[0] is others[1], "a record stays free until somebody uses it"
    last = board.free_record()
    assert last is not None
    last.words[Word.STATE] = RecordState.ALIVE
    assert board.free_record() is None
    taken.words[Word.STATE] = RecordState.FREE
    assert board.free_record() is taken
    assert taken.words[Word.RUN] == 0


def test_what_runs_and_what_is_held(record: Record) -> None:
    assert (record.running, record.held, record.job_id) == (0, [], "")
    record.hold(4, 0, ["n1-0", "n2-0", "n3-0"])
    record.name_job(b"job-1", "größe".encode())
    record.words[Word.RUN] = 9
    assert (record.running, record.held) == (9, ["n1-0", "n2-0", "n3-0"])
    assert (record.job_id, record.job_name) == ("job-1", "größe")
    assert record.post(9, b"outcome")
    assert record.running == 0, "it has an outcome, whatever RUN says"
    assert record.last_outcome == 9
    record.words[Word.RUN] = 10
    assert record.running == 10


def test_the_outbox(record: Record) -> None:
    assert record.post(1, b"one")
    assert record.post(2, b"")
    assert record.outbox() == (2, [(1, b"one"), (2, b"")])
    record.empty_outbox()
    assert record.outbox() == (2, []), "the number of the last run stays"
    assert not record.post(3, b"x" * (OUTBOX_BYTES - OUTCOME_HEAD + 1))
    assert record.outbox() == (2, []), "what does not fit changes nothing"
    assert record.post(3, b"x" * (OUTBOX_BYTES - OUTCOME_HEAD))
    assert not record.post(4, b"")


def test_a_stack_is_bounded(record: Record) -> None:
    record.keep_stack(b"line\n" * 10_000)
    assert len(record.stack) == scoreboard.STACK_BYTES
    record.keep_stack(b"\xff short")
    assert record.stack == "\ufffd short"


WRITER = """
import sys
from millstream.protocol.scoreboard import Scoreboard
record = Scoreboard(int(sys.argv[1]), 1).records[0]
run = 0
while True:
    for _ in range(20):
        run += 1
        record.post(run, (b"%d," % run) * (run % 300))
    record.empty_outbox()
"""


def test_a_copy_of_the_outbox_is_never_torn() -> None:
    """Another process writes as fast as it can; each copy is one that really was there."""
    board = Scoreboard.create(1)
    record = board.records[0]
    command = [sys.executable, "-c", WRITER, str(board.descriptor)]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[board.descriptor]) as writer:
        try:
            while not record.last_outcome:
                assert writer.poll() is None
            copies: list[tuple[int, list[tuple[int, bytes]]]] = []

            def seen() -> bool:
                copies.extend(record.outbox() for _ in range(20))
                return len(copies) >= 3000 and len({last for last, _ in copies}) > 100

            wait_until(seen, 30.0, interval=0.0001)
        finally:
            writer.send_signal(signal.SIGKILL)
    os.close(board.descriptor)
    for last, outcomes in copies:
        runs = range(last - len(outcomes) + 1, last + 1)
        assert outcomes == [(run, b"%d," % run * (run % 300)) for run in runs]
