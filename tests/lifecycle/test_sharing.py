"""Tiny jobs never wait behind a long one while another worker idles."""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections import Counter
from functools import partial

import pytest

from millstream.protocol.control import purge_all
from millstream.protocol.registry import Draft
from millstream.protocol.scoreboard import Word
from ops.benchmarks.deadlines import open_board
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

TINY = 1200


def _mixed(mill: StartMill, long_job: Draft, **options: object) -> Mill:
    """A queue of tiny jobs with long ones among them, fetched in large batches by workers that know tiny ones."""
    running = mill(**options)
    running.app.enqueue_many(program.noop.job(number) for number in range(10_000, 10_600))
    running.wait_for("noop", count=600)
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    drafts = [program.noop.job(number) for number in range(TINY)]
    running.app.enqueue_many([*drafts[:450], long_job, *drafts[450:]])  # amid a batch of 200
    running.up.send(signal.SIGCONT)
    return running


def test_what_is_stuck_behind_a_long_job_is_handed_back(mill: StartMill) -> None:
    running = _mixed(mill, program.until.job("long", "go"), processes=2)
    running.wait_for("start", "long")
    running.wait_for("noop", count=TINY + 600, timeout=5.0)
    assert running.count("end") == 0, "the long job still runs"
    assert running.counters()["release"] > 0, "some were fetched together with it"
    running.touch("go")
    running.wait_for("end", "long")
    assert Counter(running.lines("noop")) == Counter(
        f"noop {number}" for number in [*range(TINY), *range(10_000, 10_600)]
    )
    running.up.stop()


def test_also_behind_one_that_holds_the_gil(mill: StartMill) -> None:
    running = _mixed(mill, program.busy.job("long", 10**12), processes=2, supervisor="drain_timeout = 0.5")
    running.wait_for("start", "long")
    running.wait_for("noop", count=TINY + 600, timeout=5.0)
    running.up.stop()
    assert purge_all(running.operator, running.app.queue_keys("default")) == 1, "the long one was given back"


def test_a_lone_worker_keeps_its_batch(mill: StartMill) -> None:
    """Nobody idles: handing back would only cost. The order stays."""
    running = _mixed(mill, program.nap.job("long", 0.5), processes=1)
    running.wait_for("noop", count=TINY + 600)
    assert "release" not in running.counters()
    running.up.stop()


def test_the_outcomes_before_a_long_job_are_settled_while_it_runs(mill: StartMill) -> None:
    running = _mixed(mill, program.until.job("long", "go"), processes=1)
    running.wait_for("start", "long")
    done = running.count("noop")
    wait_until(lambda: running.counters().get("completed") == done, 2.0, lambda: str(running.counters()))
    assert running.count("end") == 0
    running.touch("go")
    running.wait_for("noop", count=TINY + 600)
    wait_until(lambda: running.counters()["completed"] == TINY + 601, 5.0)
    assert "stale" not in running.counters()
    running.up.stop()


def test_the_hand_back_is_prompt(mill: StartMill) -> None:
    running = _mixed(mill, program.until.job("long", "go"), processes=2)
    running.wait_for("start", "long")
    seen = time.monotonic()
    wait_until(lambda: running.counters().get("release"), 1.0, running.up.log)
    running.wait_for("noop", count=TINY + 600, timeout=5.0)
    # 20 ms until a run counts as long, 30 ms for the supervisor's tick, 25 ms for maintenance's, and our own polls.
    assert time.monotonic() - seen < 1.0
    running.touch("go")
    running.wait_for("end", "long")
    running.up.stop()


def test_the_hand_back_is_within_100_ms(mill: StartMill) -> None:
    """Each long run begins right after the supervisor has looked, which looks 0.1 s later by itself."""
    running = mill(processes=2)
    took: list[float] = []
    board, number = open_board(running.up.pid), 0

    def watch(begun: int) -> bool:
        """Note when a batch is seen to be handed back for the first time."""
        for words in (record.words for record in board.records):
            batch = words[Word.BATCH]
            if batch and words[Word.HANDED_BACK] == batch and words[Word.RUN] and len(took) == begun:
                took.append((time.monotonic_ns() - words[Word.STARTED]) / 1e9)
        return running.count("noop", number) == 400

    while len(took) < 8:
        number += 1
        assert number < 60, "the long one is hardly ever in a batch"
        tiny = [program.noop.job(number)] * 100
        running.app.enqueue_many(tiny * 3)
        running.wait_for("noop", number, count=300)  # so that all know that they are tiny
        running.up.send(signal.SIGTSTP)
        wait_until(lambda: running.up.log().count("SIGTSTP") >= number, 5.0, running.up.log)  # noqa: B023
        running.app.enqueue_many([*tiny[:3], program.until.job(f"long{number}", f"go{number}"), *tiny[3:]])
        running.up.send(signal.SIGCONT)
        wait_until(partial(watch, len(took)), 5.0, running.up.log, 0.002)
        running.touch(f"go{number}")
        running.wait_for("end", f"long{number}")
    # On a quiet machine none takes longer; on a busy one some wait for the CPU. Who waits for a tick never takes less.
    assert sorted(took)[2] < 0.09 and statistics.median(took) < 0.1, took
    running.up.stop()


def test_a_run_that_ends_while_its_batch_is_handed_back(mill: StartMill) -> None:
    """Runs about as long as a hand-back takes: whoever comes first, no entry may stay behind with nobody."""
    running = mill(processes=3)
    for number in range(40):
        tiny = [program.noop.job(number)] * 60
        running.app.enqueue_many([*tiny, program.nap.job(f"nap{number}", random.uniform(0.02, 0.08)), *tiny])
        expected = 121 * (number + 1)
        wait_until(lambda: running.counters().get("completed") == expected, 5.0, lambda: str(running.counters()))  # noqa: B023
    assert running.counters()["release"] > 0
    assert not {"stale", "recovered"} & set(running.counters())
    running.up.stop()
