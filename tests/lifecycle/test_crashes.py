"""A job that kills its worker: nobody else's run is lost or repeated, and it stops after three times."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial

import pytest
import redis as redis_py

from millstream.protocol.handle import Handle
from millstream.protocol.info import JobInfo, State
from millstream.protocol.registry import Draft
from millstream.protocol.scripts import script
from tests.lifecycle import program
from tests.lifecycle.conftest import PROGRAM, Mill, StartMill, lives
from tests.support.servers import Kind
from tests.support.waiting import wait_until

ONE_SERVER = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

CULPRITS = {
    "exit": (program.leave.job(7), "leave", "exit", None, 7),
    "abort": (program.crash.job(), "crash", "crash", "SIGSEGV", None),
    "segfault": (program.read_nowhere.job(), "crash", "crash", "SIGSEGV", None),
}


@pytest.mark.leaves_jobs  # the culprit stays among the dead
@pytest.mark.parametrize("culprit", CULPRITS)
def test_a_job_that_kills_its_worker_amid_a_batch(mill: StartMill, culprit: str) -> None:
    draft, word, cause, signal_name, exit_code = CULPRITS[culprit]
    running, info = _run_among_others(mill, draft, word)

    assert Counter(running.lines("noop")) == Counter(f"noop {number}" for number in range(300))
    assert running.count("repeat") == 1
    assert running.count(word) == 3
    assert (info.state, info.crashes, info.attempt) == (State.DEAD, 3, 0)
    assert info.error is not None
    assert (info.error.cause, info.error.signal, info.error.exit_code) == (cause, signal_name, exit_code)
    assert [attempt.cause for attempt in info.attempts] == [cause] * 3
    if culprit == "segfault":
        assert "in read_nowhere" in info.error.stack
    assert running.counters()["release"] > 0, "the rest of its batch was given back"
    running.up.stop()


def _run_among_others(mill: StartMill, draft: Draft, word: str) -> tuple[Mill, JobInfo]:
    """Put the culprit behind enough tiny jobs that the worker fetches it in a large batch."""
    running = mill()
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    drafts = [program.noop.job(number) for number in range(300)]
    large = program.repeat.job(60_000)  # a result that does not fit into the outbox
    handles = running.app.enqueue_many([*drafts[:150], large, draft, *drafts[150:]])
    running.up.send(signal.SIGCONT)
    running.wait_for(word)
    # At once, by the death itself: the second look at what a dead worker may hold comes only after 4 s.
    running.wait_for("noop", count=300, timeout=3.5)
    wait_until(lambda: handles[151].status() is State.DEAD, 20.0, running.up.log)
    wait_until(lambda: all(handle.status() is State.COMPLETED for handle in handles[152:]), 10.0)
    return running, handles[151].info()


@ONE_SERVER
def test_the_job_of_a_killed_worker_is_the_next_to_start(mill: StartMill) -> None:
    running = mill()
    first = program.until.enqueue("first", "go")
    running.wait_for("start", "first")
    running.app.enqueue_many(program.noop.job(number) for number in range(50))
    (worker,) = running.up.workers()
    os.kill(worker, signal.SIGKILL)
    running.wait_for("start", "first", count=2)
    assert running.count("noop") == 0
    running.touch("go")
    assert first.result(10) == "first"
    running.wait_for("noop", count=50)

    info = first.info()
    assert (info.crashes, info.attempts[0].cause, info.attempts[1].cause) == (1, "crash", None)
    assert running.up.workers() != [worker]
    running.up.stop()


@ONE_SERVER
def test_a_killed_worker_takes_its_subprocesses_along(mill: StartMill) -> None:
    running = mill(processes=1)
    handle = program.with_child.enqueue("a")
    _, _, worker, child = running.wait_for("start", "a")[0].split()
    os.kill(int(worker), signal.SIGKILL)
    wait_until(lambda: not lives(int(child)), 2.0, "the subprocess of the killed worker is gone")
    handle.cancel()
    wait_until(lambda: handle.status() is State.CANCELLED, 10.0, running.up.log)
    running.up.stop()


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_a_later_crash_waits_longer(mill: StartMill) -> None:
    running = mill(crash_delay=0.8)
    handle = program.leave.enqueue(1)
    wait_until(lambda: handle.status() is State.DEAD, 20.0, running.up.log)
    first, second, third = (attempt.started_at for attempt in handle.info().attempts)
    assert first and second and third
    assert (third - second).total_seconds() >= 0.8
    assert (second - first).total_seconds() < 0.7
    running.up.stop()


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_a_crash_does_not_show_an_older_stack(mill: StartMill) -> None:
    running = mill(crash_limit=1)
    program.until.enqueue("job", "go")
    running.wait_for("start", "job")
    running.up.send(signal.SIGUSR1)
    running.up.wait_log("in wait_for_file")
    running.touch("go")
    handle = program.leave.enqueue(3)
    wait_until(lambda: handle.status() is State.DEAD, 10.0, running.up.log)
    info = handle.info()
    assert info.error is not None
    assert (info.error.stack, info.error.exit_code, info.crashes) == ("", 3, 1)
    running.up.stop()


@ONE_SERVER
@pytest.mark.leaves_jobs
@pytest.mark.parametrize("then", ["end", "crash", "hang"])
def test_what_a_run_has_used_is_known_however_it_ended(mill: StartMill, then: str) -> None:
    running = mill(crash_limit=1, timeout=3, kill_after=0.5)
    program.use_cpu.enqueue(0.6, "end").result(20)  # by the same worker: it is not to be counted again
    handle = program.use_cpu.enqueue(0.4, then)
    wait_until(lambda: handle.status() in (State.DEAD, State.COMPLETED), 20.0, running.up.log)
    (attempt,) = handle.info().attempts
    assert attempt.cause == {"end": None, "crash": "crash", "hang": "timeout"}[then]
    assert attempt.cpu_seconds is not None and 0.39 <= attempt.cpu_seconds <= 0.6
    assert attempt.peak_rss is not None and 2**23 < attempt.peak_rss < 2**30
    running.up.stop()


KERNEL = """

from millstream.supervisor import oom
oom.oom_kills = lambda: int(Path("oom_kills").exists())


@app.job
def too_much() -> None:
    Path("oom_kills").touch()
    os.kill(os.getpid(), signal.SIGKILL)


@app.job
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_a_kill_by_the_kernel_is_told_apart(mill: StartMill) -> None:
    """The counter of the control group is replaced: no memory has to be used up for this."""
    running = mill(supervisor="preload = true", crash_limit=1)
    running.up.stop()
    (running.up.folder / "app_under_test.py").write_text(PROGRAM + KERNEL)
    running.up.start()
    causes = []
    for name in ("killed", "too_much", "killed"):
        handle = running.app.enqueue(name, queue="default")
        wait_until(lambda handle=handle: handle.status() is State.DEAD, 10.0, running.up.log)  # type: ignore[misc]
        info = handle.info()
        assert info.error is not None
        assert (info.error.signal, info.crashes) == ("SIGKILL", 1)
        causes.append((info.error.cause, info.attempts[0].cause))
    assert causes == [("crash", "crash"), ("oom", "oom"), ("crash", "crash")]
    running.up.wait_log('"cause":"oom","signal":"SIGKILL".*worker.exited')
    running.up.stop()


@ONE_SERVER
def test_a_crash_counts_though_the_server_forgets_how_to_settle(mill: StartMill, redis: redis_py.Redis) -> None:
    """What a dead worker held is given back only after its run was settled, whatever scripts the server knows."""
    running = mill()
    handle = program.until.enqueue("job", "go")
    for crashes in (1, 2):  # by the second time maintenance relies on the server's knowing its scripts
        running.wait_for("start", "job", count=crashes)
        redis.script_flush()
        redis.script_load(script("retire").text)
        os.kill(running.up.workers()[0], signal.SIGKILL)
        wait_until(partial(_has_crashed, handle, crashes), 10.0, lambda: str(handle.info()))
    handle.cancel()
    running.up.stop()


def _has_crashed(handle: Handle[str], times: int) -> bool:
    return handle.info().crashes == times
