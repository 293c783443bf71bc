"""TERM, a second TERM, QUIT: how a supervisor ends, and what becomes of the jobs."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support import processes
from tests.support.servers import Kind
from tests.support.waiting import wait_until

ONE_SERVER = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def _end(running: Mill, *signals: signal.Signals) -> tuple[int, float]:
    """Send signals and wait; the exit code and the seconds that it took."""
    tree, begun = running.up.tree(), time.monotonic()
    for number in signals:
        running.up.send(number)
        running.up.wait_log(f"supervisor.signal.*{number.name}|{number.name}.*supervisor.signal")
    code = running.up.wait()
    took = time.monotonic() - begun
    processes.assert_gone(tree)
    return code, took


def test_term_under_load_loses_and_repeats_nothing(mill: StartMill) -> None:
    running = mill(processes=2, supervisor="drain_timeout = 5")
    drafts = [program.noop.job(number) for number in range(8000)]
    naps = [program.nap.job(f"nap{number}", 0.3) for number in range(4)]
    handles = running.app.enqueue_many([*drafts[:500], *naps, *drafts[500:]])
    running.wait_for("start")
    code, took = _end(running, signal.SIGTERM)
    assert code == 0, running.up.log()
    assert took < 4.0, "before the drain times out: the naps end within 0.3 s"
    begun = running.count("noop")
    assert running.count("start") == running.count("end"), "what runs ends"
    assert 0 < begun < 8000
    assert sum(handle.status() is State.COMPLETED for handle in handles[:200]) == 200

    running.up.start()
    wait_until(lambda: running.count("noop") >= 8000 and running.count("end") >= 4, 40.0, running.up.log)
    wait_until(lambda: running.counters()["completed"] == 8004, 10.0)
    assert Counter(running.lines("noop")) == Counter(f"noop {number}" for number in range(8000))
    assert Counter(line.split()[1] for line in running.lines("start")) == Counter(f"nap{n}" for n in range(4))
    running.up.stop()


@ONE_SERVER
def test_a_long_job_is_interrupted_and_given_back_uncounted(mill: StartMill) -> None:
    running = mill(supervisor="drain_timeout = 2.5")
    handle = program.interrupted.enqueue("long")
    running.wait_for("start", "long")
    code, took = _end(running, signal.SIGTERM)
    assert code == 0
    assert 0.4 < took < 4.5, "interrupted 2 s before the end of the drain"
    assert running.count("interrupted", "long") == 1
    assert handle.info().attempt == 0

    running.touch("go")
    running.up.start()
    handle.result(10)
    info = handle.info()
    assert (info.attempt, info.crashes, info.run) == (1, 0, 2)
    running.up.stop()


@ONE_SERVER
def test_a_job_that_hears_nothing_is_killed_at_the_end_of_the_drain(mill: StartMill) -> None:
    running = mill(supervisor="drain_timeout = 1")
    handle = program.busy.enqueue("deaf", 10**12)
    running.wait_for("start", "deaf")
    code, took = _end(running, signal.SIGTERM)
    assert code == 0
    assert 1.0 <= took < 3.0, "drain_timeout + 2 s at most"
    info = handle.info()
    assert (info.state, info.attempt, info.crashes, info.attempts) == (State.QUEUED, 0, 0, ())
    assert handle.cancel()


@ONE_SERVER
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)],
    ids=["term-term", "int-int", "quit"],
)
def test_stop_now_kills_and_gives_back_uncounted(mill: StartMill, signals: tuple[signal.Signals, ...]) -> None:
    running = mill(processes=2)
    handles = [program.until.enqueue(f"job{number}", "go") for number in range(3)]
    running.wait_for("start", count=2)
    code, took = _end(running, *signals)
    assert code == 1
    assert took < 2.5
    assert running.count("end") == 0
    for handle in handles:
        info = handle.info()
        assert (info.state, info.attempt, info.crashes) == (State.QUEUED, 0, 0)
    running.touch("go")
    running.up.start()
    for handle in handles:
        handle.result(10)
        assert handle.info().attempt == 1
    running.up.stop()


@ONE_SERVER
def test_term_to_a_supervisor_that_has_done_all_does_not_kill_it(mill: StartMill) -> None:
    running = mill(processes=1)
    for _ in range(2):
        running.up.send(signal.SIGTERM)
        running.up.wait_log("waiting_for.*maintenance to leave")
        while running.up.running:
            running.up.send(signal.SIGTERM)
        # 1 where the second one came before the end
        assert running.up.exit_code in (0, 1), running.up.log()
        running.up.start()
    running.up.stop()


@ONE_SERVER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
def test_a_signal_for_the_whole_tree_does_no_harm(mill: StartMill, number: signal.Signals) -> None:
    running = mill(processes=2)
    handle = program.nap.enqueue("nap", 1)
    running.wait_for("start", "nap")
    running.up.send_tree(number)
    assert running.up.wait() == 0
    assert handle.status() is State.COMPLETED
    assert running.count("worker_stop") == 2


def test_a_worker_that_dies_of_our_own_term_has_not_crashed(mill: StartMill) -> None:
    """A handler may take away what answers the signal by which its worker is told to drain."""
    first = mill()
    handle = program.deaf.enqueue("deaf")
    first.wait_for("start", "deaf")
    first.up.stop()
    info = handle.info()
    assert (info.state, info.crashes, info.attempt, info.run) == (State.QUEUED, 0, 0, 2)
    handle.cancel()
