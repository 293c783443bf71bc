"""What becomes of jobs: results, retries, dead letters, cancellation, pauses, unknown and malformed entries."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from typing import Any

import orjson
import pytest
import redis as redis_py

from millstream.protocol import control
from millstream.protocol.app import Millstream
from millstream.protocol.errors import JobCancelled, JobFailed
from millstream.protocol.handle import Handle
from millstream.protocol.info import JobInfo, State
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
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


def test_cancel_a_waiting_a_delayed_and_a_running_job(mill: StartMill) -> None:
    running = mill()
    active = program.nap.enqueue("active", 60)
    running.wait_for("start", "active")
    (worker,) = running.up.workers()
    waiting, delayed = program.noop.enqueue(1), program.noop.using(delay=60).enqueue(2)
    for handle in (waiting, delayed):
        assert handle.cancel()
        assert handle.status() is State.CANCELLED
        assert not handle.cancel(), "it has ended"
        with pytest.raises(JobCancelled):
            handle.result(1)
    begun = time.monotonic()
    assert active.cancel()
    with pytest.raises(JobCancelled):
        active.result(5)
    assert time.monotonic() - begun < 3.0
    info = active.info()
    assert info.error is not None
    assert (info.error.type, info.error.cause) == ("CancelRequested", "cancelled")
    assert running.up.workers() == [worker]
    assert running.count("noop") == 0
    running.up.stop()


def test_cancel_a_job_that_hears_nothing(mill: StartMill) -> None:
    running = mill(kill_after=0.5)
    deaf = program.busy.enqueue("deaf", 10**12)
    running.wait_for("start", "deaf")
    assert deaf.cancel()
    assert program.add.enqueue(1).result(10) == 3
    info = _wait(deaf, State.CANCELLED)
    assert info.error is not None
    assert (info.error.cause, info.crashes) == ("cancelled", 0)
    running.up.stop()


def test_cancel_a_job_that_waits_in_a_batch(mill: StartMill) -> None:
    """It was fetched but not started: a cancellation that was accepted must hold."""
    running = mill()
    running.app.enqueue_many(program.noop.job(number) for number in range(600))
    running.wait_for("noop", count=600)
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    handles = running.app.enqueue_many(
        [program.until.job("gate", "go"), program.noop.job(1000), program.noop.job(1001)]
    )
    running.up.send(signal.SIGCONT)
    running.wait_for("start", "gate")
    assert handles[1].cancel()
    _wait(handles[1], State.CANCELLED)
    running.touch("go")
    running.wait_for("noop", 1001)
    assert running.count("noop", 1000) == 0
    running.up.stop()


def test_pause_and_resume(mill: StartMill) -> None:
    running = mill(processes=2)
    keys, client = running.app.queue_keys("default"), running.app.client
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
    keys, client = running.app.queue_keys("default"), running.app.client
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
    keys, client = running.app.queue_keys("default"), running.app.client
    assert control.retry_dead(client, keys, [failed.id]) == {failed.id: control.Retried.QUEUED}
    running.wait_for("fail", count=6)
    info = _wait(failed, State.DEAD)
    assert (info.attempt, len(info.attempts)) == (3, 6)
    assert control.delete_dead(client, keys, [failed.id]) == 1
    running.up.stop()


def test_an_unknown_job_waits_for_a_worker_that_knows_it(mill: StartMill) -> None:
    """As in a rolling deploy: the old worker gives it back, the new one runs it."""
    running = mill()
    handle = running.app.enqueue("brand_new", 5, queue="default")
    running.up.wait_log("job.unknown.*brand_new|brand_new.*job.unknown")
    info = _wait(handle, State.SCHEDULED)
    assert (info.attempt, info.crashes) == (0, 0)
    assert info.due_at is not None
    module = running.up.folder / "app_under_test.py"
    module.write_text(module.read_text() + "\n\n@app.job\ndef brand_new(number: int) -> int:\n    return number * 2\n")
    running.up.stop()
    running.up.start()
    assert handle.result(10) == 10
    assert handle.info().attempt == 1
    running.up.stop()


@pytest.mark.leaves_jobs
def test_an_unknown_job_is_dead_after_the_grace(mill: StartMill) -> None:
    running = mill(supervisor="unknown_grace = 0")
    handle = running.app.enqueue("nobody_knows", queue="default")
    with pytest.raises(JobFailed, match="no job 'nobody_knows' is registered in this application"):
        handle.result(10)
    info = handle.info()
    assert info.error is not None
    assert (info.state, info.error.cause, info.attempt) == (State.DEAD, "unknown_job", 0)
    running.up.stop()


def _envelope(**fields: object) -> bytes:
    return orjson.dumps({"v": 1, "n": "noop", "a": [1], "t": 1_700_000_000_000, **fields})


GARBAGE: dict[str, tuple[dict[Any, Any], str]] = {
    "other fields": ({b"foo": b"bar"}, r"entry \S+ has no id and env in front"),
    "empty values": ({b"id": b"", b"env": b""}, r"entry \S+ is not a job: .*"),
    "not json": ({b"id": b"g", b"env": b"\xff\x00{"}, r"entry \S+ is not a job: JSONDecodeError.*"),
    "json but no object": ({b"id": b"g", b"env": b"[1]"}, r"entry \S+ is not a job: TypeError.*"),
    "no name": ({b"id": b"g", b"env": b'{"v":1,"t":1}'}, r"entry \S+ is not a job: KeyError: 'n'"),
    "version is text": ({b"id": b"g", b"env": _envelope(v="x")}, r"entry \S+ is not a job: TypeError.*"),
    "name is a number": (
        {b"id": b"g", b"env": _envelope(n=5)},
        r"entry \S+ is not a job: some part of its envelope has the wrong type",
    ),
    "args is an object": (
        {b"id": b"g", b"env": _envelope(a={"x": 1})},
        r"entry \S+ is not a job: some part of its envelope has the wrong type",
    ),
    "options is a list": ({b"id": b"g", b"env": _envelope(o=[1])}, r"entry \S+ is not a job: .*"),
    "option is text": ({b"id": b"g", b"env": _envelope(o={"keep": "x"})}, r"entry \S+ is not a job: .*"),
    "headers is text": ({b"id": b"g", b"env": _envelope(h="x")}, r"entry \S+ is not a job: .*"),
    "time is text": ({b"id": b"g", b"env": _envelope(t="now")}, r"entry \S+ is not a job: .*"),
    "priority is a list": ({b"id": b"g", b"env": _envelope(p=[])}, r"entry \S+ is not a job: .*"),
    "id with a nul": ({b"id": b"a\0b", b"env": _envelope()}, r"entry \S+ is not a job: .*"),
    "id too long": ({b"id": b"i" * 100_000, b"env": _envelope()}, r"entry \S+ is not a job: .*"),
    "id not utf-8": ({b"id": b"\xff", b"env": _envelope()}, r"entry \S+ is not a job: UnicodeDecodeError.*"),
    "attempt is text": (
        {b"id": b"g", b"env": _envelope(), b"run": b"1", b"attempt": b"x"},
        r"entry \S+ is not a job: ValueError.*",
    ),
    "attempt below zero": (
        {b"id": b"g", b"env": _envelope(), b"run": b"1", b"attempt": b"-5"},
        r"entry \S+ is not a job: .*",
    ),
    "run beyond 64 bits": (
        {b"id": b"g", b"env": _envelope(), b"run": b"9" * 30},
        r"entry \S+ is not a job: .*",
    ),
    "newer version, bad id": ({b"id": b"a\0b", b"env": _envelope(v=99)}, r"entry \S+ is not a job: .*"),
}


@pytest.mark.leaves_jobs
def test_garbage_in_the_stream_becomes_dead_letters(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill()
    (worker,) = running.up.workers()
    keys = running.app.queue_keys("default")
    for number, (fields, _) in enumerate(GARBAGE.values()):
        if fields.get(b"id") == b"g":
            fields = {**fields, b"id": f"g{number}"}
        redis.xadd(keys.stream("normal"), fields)
        program.noop.enqueue(number)
    running.wait_for("noop", count=len(GARBAGE))
    wait_until(lambda: running.counters().get("dead") == len(GARBAGE), 5.0, running.up.log)
    dead: list[bytes] = redis.zrange(keys.dead, 0, -1)  # type: ignore[assignment]
    reasons = _reasons(running, [name.decode() for name in dead])
    for name, (_, pattern) in GARBAGE.items():
        assert any(re.fullmatch(pattern, reason) for reason in reasons), (name, reasons)
    assert running.up.workers() == [worker], "no worker died of it"
    assert running.count("noop") == len(GARBAGE), "the others ran once"
    running.up.stop()


def _reasons(running: Mill, dead: list[str]) -> list[str]:
    found = []
    for job_id in dead:
        info = Handle(running.app, running.app.queue_keys("default"), job_id).info()
        assert info.state is State.DEAD
        assert info.error is not None
        assert info.error.cause == "malformed"
        found.append(info.error.message)
    return found


def test_a_newer_envelope_waits_for_a_newer_worker(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill()
    keys = running.app.queue_keys("default")
    redis.xadd(keys.stream("normal"), {b"id": b"future", b"env": _envelope(v=99)})
    assert redis.hset(keys.job("future"), "state", "queued")
    redis.hset(keys.job("future"), "entry", "n0-0")
    handle = running.app.handle("future", "default")
    wait_until(lambda: handle.status() is State.SCHEDULED, 5.0, running.up.log)
    assert handle.cancel()
    running.up.stop()


@pytest.mark.leaves_jobs
def test_the_raw_fields_of_a_malformed_entry_are_kept(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill()
    keys = running.app.queue_keys("default")
    redis.xadd(keys.stream("normal"), {b"id": b"mine", b"env": b"\xff!", b"more": b"text"})
    handle = Millstream.handle(running.app, "mine", "default")
    wait_until(lambda: redis.exists(keys.job("mine")), 5.0, running.up.log)
    assert handle.info().error is not None
    out = orjson.loads(redis.hget(keys.job("mine"), "out") or b"{}")
    assert out["raw"] == ["id", "mine", "env", {"base64": "/yE="}, "more", "text"]
    running.up.stop()
