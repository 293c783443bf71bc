"""What becomes of jobs: results, retries, dead letters, delays, pauses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis as redis_py

from millstream.protocol import control
from millstream.protocol.errors import JobFailed
from millstream.protocol.handle import Handle
from millstream.protocol.info import JobInfo, State
from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill
from tests.support.waiting import stays, wait_until


def _wait(handle: Handle[Any], state: State, timeout: float = 10.0) -> JobInfo:
    wait_until(lambda: handle.status() is state, timeout, lambda: str(handle.info()))
    return handle.info()


@pytest.mark.leaves_jobs
def test_results_and_failures_reach_the_caller(mill: StartMill) -> None:
    running = mill(processes=2)
    assert program.add.enqueue(40, b=2).result(5) == 42
    assert program.fail_once.enqueue().result(5) == 2
    assert running.app.enqueue("sleep_async", 0.05).result(5) == "slept"
    failed = program.fail.enqueue("no luck")
    with pytest.raises(JobFailed, match=f"job {failed.id} .fail. has no result: ValueError: no luck") as caught:
        failed.result(10)
    info = caught.value.info
    assert (info.state, info.attempt, info.max_attempts, info.crashes) == (State.DEAD, 3, 3, 0)
    assert [attempt.attempt for attempt in info.attempts] == [1, 2, 3]
    assert running.lines("fail") == ["fail 1 1", "fail 2 2", "fail 3 3"]
    assert info.error is not None
    assert (info.error.type, info.error.cause) == ("ValueError", "error")
    assert "program.py" in info.error.traceback or "app_under_test.py" in info.error.traceback
    assert "/millstream/worker/" not in info.error.traceback
    running.up.stop()


@pytest.mark.leaves_jobs
def test_a_result_that_is_not_json_makes_the_job_dead(mill: StartMill) -> None:
    running = mill()
    handle = program.boom_result.enqueue()
    with pytest.raises(JobFailed, match="NotJSON: result is not JSON: set has no JSON form"):
        handle.result(5)
    info = handle.info()
    assert info.error is not None
    assert (info.error.cause, len(info.attempts)) == ("result", 1)
    running.up.stop()


def test_results_are_awaited_without_polling(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill(processes=2)

    async def several() -> list[str]:
        handles = [await program.nap.aenqueue(f"nap{number}", 0.2) for number in range(4)]
        return await asyncio.gather(*(handle.aresult(timeout=10) for handle in handles))

    async def all_of_it() -> list[str]:
        found = await several()
        await running.app.aclient.close()
        return found

    assert asyncio.run(all_of_it()) == [f"nap{number}" for number in range(4)]
    handle = program.nap.enqueue("late", 0.5)
    redis.config_resetstat()
    assert handle.result(10) == "late"
    calls = redis.info("commandstats").get("cmdstat_blpop", {"calls": 0})["calls"]
    assert calls <= 2
    redis.config_resetstat()
    with pytest.raises(TimeoutError):
        program.until.enqueue("never", "go").result(0.2)
    running.touch("go")
    running.wait_for("end", "never")
    running.up.stop()


def test_delay_and_priority(mill: StartMill) -> None:
    running = mill()
    gate = program.until.enqueue("gate", "go")
    running.wait_for("start", "gate")
    delayed = program.nap.using(delay=0.3).enqueue("delayed", 0)
    assert delayed.status() is State.SCHEDULED
    for band in ("low", "normal", "high", "critical"):
        program.nap.using(priority=band).enqueue(band, 0)
    running.touch("go")
    gate.result(5)
    assert delayed.result(5) == "delayed"
    running.wait_for("end", count=6)
    order = [line.split()[1] for line in running.lines("start")]
    assert order[:5] == ["gate", "critical", "high", "normal", "low"] or order[0] == "gate"
    assert [word for word in order if word not in ("gate", "delayed")] == ["critical", "high", "normal", "low"]
    running.up.stop()


def test_the_same_id_runs_once(mill: StartMill) -> None:
    running = mill()
    first = program.noop.using(id="order-7").enqueue(1)
    running.wait_for("noop")
    second = program.noop.using(id="order-7").enqueue(2)
    assert (first.created, second.created, second.id) == (True, False, "order-7")
    _wait(second, State.COMPLETED)
    third = program.noop.using(id="order-7").enqueue(3)
    assert not third.created
    stays(lambda: running.lines("noop") == ["noop 1"], 0.3)
    running.up.stop()


def test_pause_and_resume(mill: StartMill) -> None:
    running = mill(processes=2)
    keys, client = running.app.queue_keys("default"), running.operator
    assert client.run(control.pause(keys))
    handles = [program.add.enqueue(number) for number in range(5)]
    delayed = program.add.using(delay=0.1).enqueue(10)
    stays(lambda: all(handle.status() is State.QUEUED for handle in handles), 0.5)
    wait_until(lambda: delayed.status() is State.QUEUED, 5.0, "promoted, into what is held")
    assert control.resume_all(client, keys).moved == 6
    assert [handle.result(5) for handle in [*handles, delayed]] == [2, 3, 4, 5, 6, 12]
    running.up.stop()


def test_a_resume_whose_caller_died_goes_on(mill: StartMill) -> None:
    running = mill()
    keys, client = running.app.queue_keys("default"), running.operator
    client.run(control.pause(keys))
    handles = [program.add.enqueue(number) for number in range(5)]
    assert client.run(control.resume(keys, count=2)).state is control.Resuming.MORE
    assert [handle.result(5) for handle in handles] == [2, 3, 4, 5, 6]
    running.up.stop()


def test_a_dead_letter_runs_again(mill: StartMill) -> None:
    running = mill()
    handle = program.until.using(id="x").enqueue("a", "go")
    running.wait_for("start", "a")
    running.touch("go")
    handle.result(5)
    failed = program.fail.enqueue("no luck")
    _wait(failed, State.DEAD)
    keys, client = running.app.queue_keys("default"), running.operator
    assert control.retry_dead(client, keys, [failed.id]) == {failed.id: control.Retried.QUEUED}
    running.wait_for("fail", count=6)
    info = _wait(failed, State.DEAD)
    assert (info.attempt, len(info.attempts)) == (3, 6)
    assert control.delete_dead(client, keys, [failed.id]) == 1
    running.up.stop()


def test_results_larger_than_the_outbox(mill: StartMill) -> None:
    """What does not fit into shared memory is settled before the next job starts."""
    running = mill(processes=2)
    sizes = [1, 30_000, 5, 1_000_000, 60_000] * 40
    handles = running.app.enqueue_many(program.repeat.job(size) for size in sizes)
    assert all(len(handle.result(10)) == size for handle, size in zip(handles, sizes, strict=True))
    assert running.count("repeat") == len(sizes)
    assert not {"stale", "recovered", "dead"} & set(running.counters())
    running.up.stop()


def test_giving_up_a_wait_leaves_nothing(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill()
    handle = program.until.enqueue("job", "go")
    running.wait_for("start", "job")

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await handle.aresult(timeout=0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await handle.aresult()
        with pytest.raises(TimeoutError):
            handle.result(0.1)
        await running.app.aclient.close()

    asyncio.run(give_up())
    running.touch("go")
    assert handle.result(5) == "job"
    assert redis.hlen(running.app.queue_keys("default").waiting) == 0
    running.up.stop()


def test_limits_and_delays_beyond_all_clocks(mill: StartMill) -> None:
    running = mill()
    assert program.beyond_all_clocks.enqueue(False).result(5) == 1
    retrying = program.beyond_all_clocks.enqueue(True)
    delayed = program.beyond_all_clocks.using(delay=1e17).enqueue(False)
    _wait(retrying, State.RETRYING)
    for handle in (retrying, delayed):
        due = handle.info().due_at
        assert due is not None and due.year > 2100
        assert handle.cancel()
    assert program.add.enqueue(1).result(5) == 3
    running.up.stop()


@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("exits", 3), ("raises", 1)])
def test_a_process_that_a_handler_forks_is_no_second_worker(mill: StartMill, how: str, code: int) -> None:
    running = mill(processes=1)
    handles = running.app.enqueue_many(
        draft for number in range(20) for draft in (program.fork_and_return.job(how), program.noop.job(number))
    )
    assert [handle.result(20) for handle in handles[::2]] == [code] * 20
    assert [handle.result(20) for handle in handles[1::2]] == [None] * 20
    assert running.count("noop") == 20
    assert len(running.up.workers()) == 1
    running.up.stop()


@pytest.mark.leaves_jobs
def test_a_handler_that_exits_says_with_what(mill: StartMill) -> None:
    running = mill()
    info = _wait(program.quit_by_exception.enqueue(3), State.DEAD)
    assert info.error is not None
    assert (info.error.cause, info.error.exit_code) == ("exit", 3)
    running.up.stop()
