"""Signals to a running supervisor: quiet, more and fewer workers, stacks, children."""

from __future__ import annotations

import signal

import pytest

from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill
from tests.support.servers import Kind
from tests.support.waiting import stays, wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def test_tstp_stops_fetching_and_cont_goes_on(mill: StartMill) -> None:
    running = mill(processes=2)
    assert program.add.enqueue(1).result(5) == 3
    program.nap.enqueue("nap", 0.3)
    running.wait_for("start", "nap")
    workers = running.up.workers()
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    running.wait_for("end", "nap")  # what runs goes on
    handle = program.add.enqueue(2)
    stays(lambda: handle.status() is State.QUEUED, 0.5, "nothing is fetched")
    running.up.send(signal.SIGCONT)
    assert handle.result(5) == 4
    assert running.up.workers() == workers
    running.up.stop()


def test_a_quiet_supervisor_drains_on_term(mill: StartMill) -> None:
    running = mill()
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    handle = program.add.enqueue(2)
    running.up.stop()
    assert handle.cancel()


def test_ttin_and_ttou_change_the_number_of_workers(mill: StartMill) -> None:
    running = mill(processes=1)
    (first,) = running.up.workers()
    running.up.send(signal.SIGTTIN)
    wait_until(lambda: len(running.up.workers()) == 2, 5.0, running.up.log)
    running.up.send(signal.SIGTTIN)
    wait_until(lambda: len(running.up.workers()) == 3, 5.0, running.up.log)
    for _ in range(2):
        before = len(running.up.workers())
        running.up.send(signal.SIGTTOU)
        wait_until(lambda before=before: len(running.up.workers()) == before - 1, 5.0, running.up.log)  # type: ignore[misc]
    running.up.send(signal.SIGTTOU)
    running.up.wait_log("SIGTTOU(?s:.*SIGTTOU){2}")
    assert program.add.enqueue(1).result(5) == 3
    assert running.up.workers() == [first], "one remains, and it is the first"
    running.up.stop()


def test_a_retired_worker_ends_its_job_first(mill: StartMill) -> None:
    running = mill(processes=2)
    handles = [program.until.enqueue(f"job{number}", "go") for number in range(2)]
    running.wait_for("start", count=2)
    running.up.send(signal.SIGTTOU)
    running.up.wait_log("SIGTTOU")
    stays(lambda: len(running.up.workers()) == 2, 0.3, "both still run their jobs")
    running.touch("go")
    assert [handle.result(5) for handle in handles] == ["job0", "job1"]
    wait_until(lambda: len(running.up.workers()) == 1, 5.0, running.up.log)
    running.up.stop()


def test_usr1_writes_every_stack_to_the_log(mill: StartMill) -> None:
    running = mill(processes=2)
    handle = program.until.enqueue("job", "go")
    running.wait_for("start", "job")
    running.up.send(signal.SIGUSR1)
    found = running.up.wait_log(r"worker\.stack(?s:.*)worker\.stack")
    assert found
    assert "in wait_for_file" in running.up.log()
    assert running.up.log().count("in run_worker") == 2, "the idle one too"
    running.touch("go")
    handle.result(5)
    running.up.stop()


def test_usr2_logs_a_line_for_each_child(mill: StartMill) -> None:
    running = mill(processes=2)
    running.up.send(signal.SIGUSR2)
    running.up.wait_log(rf'"maintenance":{running.up.maintenance()}')
    for worker in running.up.workers():
        running.up.wait_log(rf'"pid":{worker}[^\n]*"event":"child"')
    running.up.stop()
