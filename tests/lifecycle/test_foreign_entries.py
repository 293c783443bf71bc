"""Entries that this worker cannot run: unknown jobs, newer envelopes, garbage."""

from __future__ import annotations

import re
import signal
from typing import Any

import orjson
import pytest
import redis as redis_py

from millstream.protocol.app import Millstream
from millstream.protocol.errors import JobFailed
from millstream.protocol.handle import Handle
from millstream.protocol.info import JobInfo, State
from millstream.protocol.payload import MAX_PAYLOAD
from millstream.worker.refusals import RAW_LIMIT
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.waiting import wait_until


def _wait(handle: Handle[Any], state: State, timeout: float = 10.0) -> JobInfo:
    wait_until(lambda: handle.status() is state, timeout, lambda: str(handle.info()))
    return handle.info()


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
    "too large": (
        {b"id": b"g", b"env": _envelope(a=["x" * MAX_PAYLOAD])},
        r"entry \S+ has an envelope of 1,048,6\d\d bytes, the limit is 1,048,576",
    ),
    "nested too deeply": ({b"id": b"g", b"env": b"[" * 100_000}, r"entry \S+ is not a job: JSONDecodeError.*"),
    "name too long": (
        {b"id": b"g", b"env": _envelope(n="n" * 101)},
        r"entry \S+ is not a job: some part of its envelope has the wrong type",
    ),
    "attempt without an end": (
        {b"id": b"g", b"env": _envelope(), b"run": b"nan", b"attempt": b"inf", b"crashes": b"-inf"},
        r"entry \S+ is not a job: ValueError.*",
    ),
    "crashes beyond an end": (
        {b"id": b"g", b"env": _envelope(), b"crashes": b"2147483648"},
        r"entry \S+ is not a job: ValueError: a counter is out of range",
    ),
    "many fields": (
        {b"id": b"g", **{b"f%d" % number: b"x" * 20 for number in range(5000)}},
        r"entry \S+ has no id and env in front",
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
    listed = running.up.command("dead", "list", "--limit", "100", "--json")
    assert len(orjson.loads(listed.stdout)) == len(GARBAGE), f"none hides the others: {listed.stderr}"
    sizes = [redis.hstrlen(keys.job(name.decode()), "out") for name in dead]
    assert max(sizes) < 2 * RAW_LIMIT, "what is kept of each is bounded"
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
    redis.hset(keys.job("future"), mapping={"state": "queued", "entry": "n5-0"})
    redis.xadd(keys.stream("normal"), {b"id": b"future", b"env": _envelope(v=99)}, id="5-0")
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


@pytest.mark.leaves_jobs
def test_garbage_is_given_back_with_its_worker(mill: StartMill, redis: redis_py.Redis) -> None:
    """What a dead worker held goes back and is refused then, whatever it is; it is in nobody's way."""
    running = mill()
    keys = running.app.queue_keys("default")
    program.until.enqueue("first", "go")
    running.wait_for("start", "first")
    consumer = redis.xinfo_consumers(keys.stream("normal"), "millstream")[0]["name"]
    many = {b"f%d" % number: b"x" for number in range(9000)}
    odd = {b"id": b"odd", b"env": _envelope(), b"run": b"inf", b"attempt": b"nan", b"crashes": b"-1e999"}
    for fields in (many, odd):
        redis.xadd(keys.stream("normal"), fields)  # type: ignore[arg-type]
    redis.xreadgroup("millstream", consumer, {keys.stream("normal"): ">"})
    program.noop.enqueue(1)
    running.up.send_tree(signal.SIGKILL)
    running.up.wait()
    running.touch("go")
    running.up.start()
    running.wait_for("noop", count=1)
    running.wait_for("end", "first")
    wait_until(lambda: running.counters().get("dead") == 1 and running.count("noop") >= 2, 10, running.up.log)
    running.up.stop()


@pytest.mark.leaves_jobs
def test_jobs_that_are_hard_to_show_hide_no_others(mill: StartMill, redis: redis_py.Redis) -> None:
    """Arguments that can be read but not written again, a time that no calendar has."""
    running = mill()
    keys = running.app.queue_keys("default")
    deep = b'{"v":1,"n":"nobody","t":9223372036854775807,"a":[%b1%b]}' % (b"[" * 600, b"]" * 600)
    redis.hset(keys.job("deep"), mapping={"state": "queued", "entry": "n5-0"})
    redis.xadd(keys.stream("normal"), {b"id": b"deep", b"env": deep}, id="5-0")
    running.up.wait_log("job.unknown")
    wait_until(lambda: running.app.handle("deep", "default").status() is State.SCHEDULED, 5.0, running.up.log)
    other = program.noop.using(delay=3600).enqueue(1)
    for command in (("jobs", "list", "--json"), ("jobs", "list", "--json", "--args")):
        done = running.up.command(*command)
        assert {row["id"] for row in orjson.loads(done.stdout)} == {"deep", other.id}, done.stderr
    shown = running.up.command("jobs", "show", "deep", "--args")
    assert shown.returncode == 0 and "nobody" in shown.stdout, shown.stderr
    running.up.stop()
