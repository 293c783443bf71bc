"""Groups of coroutines: N at a time in one process, and what is promised for one job holds for each of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.protocol import limits
from millstream.protocol.app import Millstream
from millstream.protocol.errors import JobCancelled, JobFailed
from millstream.protocol.handle import Handle
from millstream.protocol.info import State
from tests.lifecycle import async_program as program
from tests.lifecycle.conftest import Mill, StartMill, config, lives, with_workers
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import stays, wait_until

PROGRAM = Path(program.__file__).read_text()
LINE = next(number for number, line in enumerate(PROGRAM.splitlines(), 1) if "the line where it waits" in line)
OTHERS = [f"other-{number}" for number in range(5)]

ONE_SERVER = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


@pytest.fixture
def app(url: str, prefix: str) -> Iterator[Millstream]:
    """The application, connected to the test's server and prefix."""
    program.app.connect_to(url, prefix)
    yield program.app
    program.app.client.close()


@pytest.fixture
def mill(supervise: Callable[..., Supervised], app: Millstream, tmp_path: Path) -> StartMill:
    """Start one: `mill(concurrency=10, timeout=..., supervisor="lease = 3")`."""

    def start(**options: object) -> Mill:
        toml = config(**{"concurrency": 10, **options})  # type: ignore[arg-type]
        up = supervise(PROGRAM, toml, env={"XDG_RUNTIME_DIR": str(tmp_path)})
        return with_workers(Mill(up, app), int(str(options.get("processes", 1))))

    return start


def _enqueue(job: Any, *arguments: object) -> Handle[Any]:
    """Enqueue a job; the type of its result is that of what its coroutine returns."""
    handle: Handle[Any] = job.enqueue(*arguments)
    return handle


def _with_others(running: Mill, every: float = 0.02) -> list[Handle[Any]]:
    """Start jobs that wait for the file `go`, beside which something will happen."""
    handles = [_enqueue(program.until, name, "go", every) for name in OTHERS]
    for name in OTHERS:
        running.wait_for("start", name)
    return handles


def _others_end(running: Mill, handles: list[Handle[Any]], *, runs: int) -> None:
    """Let them end, and see that they did so in their nth run, with nothing counted against them."""
    for name in OTHERS:
        running.wait_for("start", name, count=runs, timeout=20.0)
    running.touch("go")
    for handle, name in zip(handles, OTHERS, strict=True):
        assert handle.result(20) == name
        info = handle.info()
        assert (info.run, info.attempt, info.crashes) == (runs, 1, 0), info


def test_as_many_run_at_a_time_as_the_group_says(mill: StartMill) -> None:
    running = mill(concurrency=7)
    handles = [_enqueue(program.until, f"job-{number}", "go") for number in range(20)]
    running.wait_for("start", count=7)
    stays(lambda: running.count("start") == 7, 0.5)
    assert len(running.up.workers()) == 1
    running.touch("go")
    assert sorted(handle.result(20) for handle in handles) == sorted(f"job-{number}" for number in range(20))
    for line in running.lines("start"):
        name, pid, run, job = line.split()[1:]
        assert running.lines("end", name) == [f"end {name} {pid} {run} {job}"], "the same job before and after a wait"
    assert _enqueue(program.fail_once).result(10) == 2
    running.up.stop()
    (stopped,) = running.lines("worker_stop")
    assert stopped.endswith("True"), "hooks run on the loop of the jobs"


@ONE_SERVER
def test_many_short_jobs_of_one_process(mill: StartMill) -> None:
    running = mill(concurrency=100, max_jobs=400)
    handles: list[Handle[Any]] = list(running.app.enqueue_many(program.add.job(number) for number in range(1000)))
    large = _enqueue(program.repeat, 200_000)
    assert [handle.result(30) for handle in handles] == [number + 2 for number in range(1000)]
    assert large.result(10) == "x" * 200_000, "an outcome that has no room in the scoreboard"
    wait_until(lambda: running.count("worker_start") >= 3, 10.0, running.up.log)
    assert "stale" not in running.counters()
    running.up.stop()


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_the_soft_limit_of_one_among_many(mill: StartMill) -> None:
    running = mill()
    workers, others = running.up.workers(), _with_others(running)
    late = _enqueue(program.too_long, "late")
    with pytest.raises(JobFailed, match=r"JobTimeout: the time limit of 0.5 s is over"):
        late.result(10)
    info = late.info()
    assert info.error is not None
    assert (info.state, info.error.cause, running.count("cleaned")) == (State.DEAD, "timeout", 1)
    running.wait_for("told", "too_long")
    _others_end(running, others, runs=1)
    assert running.up.workers() == workers, "the process went on"
    running.up.stop()


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_an_interruption_disturbs_no_other_one(mill: StartMill) -> None:
    """One is cleaning up when the next one's time is over."""
    running = mill(kill_after=20)
    for number in range(4):
        _enqueue(program.clean_slowly, f"late-{number}")
        running.wait_for("start", f"late-{number}")
        time.sleep(0.1)  # that is the distance between their limits
    wait_until(lambda: running.count("cleaned") + running.count("disturbed") == 4, 10.0, running.up.log)
    assert running.count("disturbed") == 0
    wait_until(lambda: running.counters().get("dead") == 4, 10.0, running.up.log)
    running.up.stop()


@pytest.mark.leaves_jobs
@pytest.mark.parametrize("job", [program.deaf, program.hold_the_gil], ids=["waits", "gil"])
def test_only_the_run_that_is_killed_for_its_hard_limit_counts(mill: StartMill, job: object) -> None:
    running = mill(kill_after=0.7, nice=0)  # the stack is asked for 0.3 s before the kill, whoever has the CPU
    others = _with_others(running)
    late = _enqueue(job, "late")
    (worker,) = running.up.workers()
    wait_until(lambda: late.status() is State.DEAD, 15.0, running.up.log)
    info = late.info()
    assert info.error is not None
    assert (info.attempt, info.crashes, info.error.cause, info.error.signal) == (1, 0, "timeout", "SIGKILL")
    assert info.attempts[0].duration is not None
    assert info.attempts[0].duration >= 1.2
    where = f"line {LINE} in deaf" if job is program.deaf else "in hold_the_gil"
    assert where in info.error.stack
    assert "/millstream/worker/" not in info.error.stack
    assert not lives(worker)
    _others_end(running, others, runs=2)
    running.up.stop()


@ONE_SERVER
def test_cancel_one_among_many(mill: StartMill) -> None:
    running = mill()
    workers, others = running.up.workers(), _with_others(running)
    unwanted = _enqueue(program.until, "unwanted", "go")
    running.wait_for("start", "unwanted")
    assert unwanted.cancel()
    with pytest.raises(JobCancelled):
        unwanted.result(10)
    running.wait_for("CancelRequested", "unwanted")
    _others_end(running, others, runs=1)
    assert running.up.workers() == workers
    running.up.stop()


@ONE_SERVER
def test_cancel_one_that_hears_nothing(mill: StartMill) -> None:
    running = mill(kill_after=0.5, timeout=60)
    others = _with_others(running)
    unwanted = _enqueue(program.compute, "unwanted")
    running.wait_for("start", "unwanted")
    assert unwanted.cancel()
    with pytest.raises(JobCancelled):
        unwanted.result(10)
    _others_end(running, others, runs=2)
    running.up.stop()


@pytest.mark.leaves_jobs
def test_a_crash_is_blamed_on_the_job_that_had_the_cpu(mill: StartMill) -> None:
    running = mill()
    others = _with_others(running)
    poison = _enqueue(program.crash, "poison")
    wait_until(lambda: poison.status() is State.DEAD, 20.0, running.up.log)
    info = poison.info()
    assert info.error is not None
    assert (info.crashes, info.error.cause, info.error.signal) == (3, "crash", "SIGSEGV")
    running.touch("go")
    assert [handle.result(20) for handle in others] == OTHERS
    assert {(handle.info().attempt, handle.info().crashes) for handle in others} == {(1, 0)}
    running.up.stop()


def test_all_jobs_of_a_killed_process_run_again(mill: StartMill) -> None:
    """Nobody knows through whose fault: each has crashed once, and none is buried for it."""
    running = mill(processes=2, concurrency=5)
    handles = [_enqueue(program.until, name, "go", 0.5) for name in OTHERS]
    for name in OTHERS:
        running.wait_for("start", name)
    victim = int(running.lines("start", OTHERS[0])[0].split()[2])
    hit = {line.split()[1] for line in running.lines("start") if int(line.split()[2]) == victim}
    os.kill(victim, signal.SIGKILL)
    running.touch("go")
    for handle, name in zip(handles, OTHERS, strict=True):
        assert handle.result(20) == name
        info = handle.info()
        assert info.run == (2 if name in hit else 1)
        assert info.crashes == int(name in hit)
    assert "dead" not in running.counters()
    running.up.stop()


@ONE_SERVER
def test_what_has_crashed_too_often_beside_others_runs_by_itself(mill: StartMill) -> None:
    running = mill(crash_limit=1)
    handles = _with_others(running, every=0.5)
    (worker,) = running.up.workers()
    os.kill(worker, signal.SIGKILL)
    running.wait_for("start", count=len(OTHERS) + 1)
    stays(lambda: running.count("start") == len(OTHERS) + 1, 0.7)
    fresh = _enqueue(program.add, 1)
    running.touch("go")
    assert [handle.result(20) for handle in handles] == OTHERS
    assert fresh.result(10) == 3
    assert all(handle.info().crashes <= 1 for handle in handles)
    running.up.stop()


@pytest.mark.leaves_jobs
@ONE_SERVER
def test_what_waits_to_run_by_itself_was_not_running_when_its_host_was_lost(mill: StartMill) -> None:
    rules = {"crash_limit": 2, "crash_delay": 2}
    first = mill(supervisor='name = "one"\nlease = 2', **rules)
    suspect = _enqueue(program.until, "suspect", "go")
    first.wait_for("start", "suspect")
    os.kill(first.up.workers()[0], signal.SIGKILL)
    first.wait_for("start", "suspect", count=2)
    _enqueue(program.until, "other", "go")
    first.wait_for("start", "other")
    os.kill(first.up.workers()[0], signal.SIGKILL)
    first.wait_for("start", "other", count=2)
    wait_until(lambda: suspect.status() is State.RUNNING, 10.0, first.up.log)
    first.up.send_tree(signal.SIGSTOP)
    assert first.count("start", "suspect") == 2, "it waits for the other one"
    second = mill(supervisor='name = "two"\nlease = 2', **rules)
    second.touch("go")
    assert suspect.result(20) == "suspect"
    first.up.send_tree(signal.SIGCONT)
    first.up.stop()
    second.up.stop()


@pytest.mark.leaves_jobs
@ONE_SERVER
def test_a_process_that_grows_too_large_is_killed(mill: StartMill) -> None:
    """Nobody knows through whose fault, until the job runs by itself."""
    running = mill(memory_limit='"300MiB"', crash_limit=1)
    others = [_enqueue(program.until, name, "go") for name in OTHERS[:2]]
    for name in OTHERS[:2]:
        running.wait_for("start", name)
    large = _enqueue(program.fill_memory, "large", 400)
    running.up.wait_log('"cause":"memory"')
    running.touch("go")
    assert [handle.result(20) for handle in others] == OTHERS[:2]
    wait_until(lambda: large.status() is State.DEAD, 20.0, running.up.log)
    info = large.info()
    assert info.error is not None
    assert (info.crashes, info.attempt, info.error.cause) == (1, 1, "memory")
    running.up.stop()


@ONE_SERVER
def test_a_group_of_coroutines_keeps_to_the_rules_of_its_queue(mill: StartMill) -> None:
    """A limit, and a name that is paused."""
    running = mill()
    keys = running.app.queue_keys("default")
    running.operator.run(limits.set_limit(keys, limits.checked_limit(2)))
    running.operator.run(limits.pause_job(keys, "instantly"))
    handles = [_enqueue(program.until, name, "go") for name in OTHERS]
    paused = _enqueue(program.instantly, 1)
    running.wait_for("start", count=2)
    stays(lambda: running.count("start") == 2, 0.5)
    running.touch("go")
    assert [handle.result(20) for handle in handles] == OTHERS
    assert paused.status() is State.QUEUED
    running.operator.run(limits.set_limit(keys, limits.checked_limit()))
    limits.resume_whole_job(running.operator, keys, "instantly")
    assert paused.result(10) == 1
    running.up.stop()


@ONE_SERVER
def test_a_drain_lets_coroutines_end(mill: StartMill) -> None:
    running = mill(drain_timeout=20)
    handles = _with_others(running)
    running.up.send(signal.SIGTERM)
    running.up.wait_log('"stage":"draining"')
    left = _enqueue(program.add, 1)
    running.touch("go")
    assert running.up.wait() == 0
    assert [handle.status() for handle in handles] == [State.COMPLETED] * len(OTHERS)
    assert left.status() is State.QUEUED
    running.up.start()
    assert left.result(10) == 3
    running.up.stop()


@ONE_SERVER
def test_a_drain_gives_back_what_does_not_end(mill: StartMill) -> None:
    running = mill(drain_timeout=3)
    handles = _with_others(running)
    deaf = _enqueue(program.block, "deaf", 0.1)
    running.wait_for("end", "deaf")
    begun = time.monotonic()
    running.up.stop()
    assert time.monotonic() - begun < 5.0
    assert running.count("JobInterrupted") == len(OTHERS)
    assert deaf.status() is State.COMPLETED
    running.up.start()
    _others_end(running, handles, runs=2)
    running.up.stop()


def test_leases_are_renewed_while_the_loop_is_blocked(mill: StartMill) -> None:
    running = mill(supervisor="lease = 2")
    others = _with_others(running)
    blocking = _enqueue(program.block, "blocking", 5)
    assert blocking.result(20) == "blocking"
    running.up.wait_log("loop.blocked")
    _others_end(running, others, runs=1)
    assert not {"stale", "recovered"} & running.counters().keys()
    running.up.stop()


@ONE_SERVER
def test_what_has_ended_is_settled_while_the_loop_is_blocked(mill: StartMill) -> None:
    running = mill()
    quick = [_enqueue(program.instantly, number) for number in range(5)]
    blocking = _enqueue(program.block, "blocking", 4)
    running.wait_for("start", "blocking")
    assert [handle.result(2) for handle in quick] == [0, 1, 2, 3, 4]
    assert running.count("end", "blocking") == 0
    assert blocking.result(10) == "blocking"
    running.up.stop()


@ONE_SERVER
def test_a_host_that_was_stopped_hears_that_its_jobs_were_taken(mill: StartMill) -> None:
    first = mill(supervisor='name = "one"\nlease = 2', kill_after=3)
    handles = _with_others(first)
    first.up.send_tree(signal.SIGSTOP)
    second = mill(supervisor='name = "two"\nlease = 2')
    for name in OTHERS:
        second.wait_for("start", name, timeout=15.0)
    first.up.send_tree(signal.SIGCONT)
    first.up.wait_log("job.lease_lost")
    first.wait_for("LeaseLost", count=len(OTHERS))
    second.touch("go")
    assert [handle.result(10) for handle in handles] == OTHERS
    assert all(handle.info().crashes == 0 for handle in handles)
    assert "stale" not in second.counters()
    assert first.app.enqueue("add", 5).result(10) == 7
    first.up.stop()
    second.up.stop()


@ONE_SERVER
def test_a_reload_keeps_what_runs(mill: StartMill) -> None:
    running = mill()
    (old,) = running.up.workers()
    others = _with_others(running)
    unwanted = _enqueue(program.until, "unwanted", "go")
    running.wait_for("start", "unwanted")
    running.up.send(signal.SIGHUP)
    running.up.wait_log("reload.taken_over", 20.0)
    running.wait_for("worker_start", count=2)
    assert _enqueue(program.add, 1).result(10) == 3
    assert lives(old)
    assert unwanted.cancel()
    with pytest.raises(JobCancelled):
        unwanted.result(10)
    running.wait_for("CancelRequested", "unwanted")
    _others_end(running, others, runs=1)
    wait_until(lambda: not lives(old), 10.0, running.up.log)
    running.up.stop()


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_a_task_that_exits_ends_its_job_and_no_other(mill: StartMill) -> None:
    running = mill()
    workers, others = running.up.workers(), _with_others(running)
    with pytest.raises(JobFailed):
        _enqueue(program.quit_in_a_task).result(10)
    _others_end(running, others, runs=1)
    assert running.up.workers() == workers
    running.up.stop()


def test_a_plain_handler_has_no_place_in_such_a_group(supervise: Callable[..., Supervised]) -> None:
    text = "from millstream import Millstream\napp = Millstream()\n@app.job\ndef plain() -> None: ...\n"
    with pytest.raises(AssertionError, match=r"ended with 78(.|\n)*workers.default.concurrency = 4(.|\n)*none: plain"):
        supervise(text, config(concurrency=4))
