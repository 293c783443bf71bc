"""What is read from the server: who holds what, what is left, and what has changed after its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos import reading
from tests.chaos.checker import Loss
from tests.chaos.reading import BASE
from tests.chaos.watcher import Watcher
from tests.support.servers import Server, StartServer
from tests.support.waiting import wait_until

STREAM = reading.STREAMS[3]


@pytest.fixture
def own(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def client(own: Server) -> Iterator[redis.Redis]:
    with own.client() as connected:
        connected.xgroup_create(STREAM, reading.GROUP, id="0", mkstream=True)
        yield connected


def test_what_a_host_holds(own: Server, client: redis.Redis) -> None:
    for fields in ({"id": "j1"}, {"id": "j2", "run": 3}, {"id": "j3"}):
        client.xadd(STREAM, fields)  # type: ignore[arg-type]
    client.xreadgroup(reading.GROUP, "a-1:chaos/0:1", {STREAM: ">"}, count=2)
    client.xreadgroup(reading.GROUP, "b-1:chaos/0:1", {STREAM: ">"})
    assert reading.delivered(own, "a") == {("j1", 1), ("j2", 3)}
    assert reading.delivered(own, "b") == {("j3", 1)}
    assert reading.delivered(own, "a", idle=60.0) == set()
    wait_until(lambda: reading.delivered(own, "a", idle=0.1), 2.0)
    assert reading.consumers(own) == {"a-1:chaos/0:1", "b-1:chaos/0:1"}
    assert reading.stored(own) == 3


def test_nothing_is_left(own: Server, client: redis.Redis) -> None:
    client.hset(BASE + "job:done", "state", "completed")
    client.expire(BASE + "job:done", 60)
    client.hset(BASE + "job:dead", "state", "dead")
    client.expire(BASE + "job:dead", 60)
    client.zadd(BASE + "dead", {"dead": 1})
    assert reading.leftovers(own, set()) == []


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("HSET", BASE + "job:x", "state", "queued"), "job:x: no TTL"),
        (("XADD", STREAM, "*", "id", "x"), "stream:normal: holds 1"),
        (("ZADD", BASE + "due", 1, "x"), "due: holds 1"),
        (("SET", BASE + "other", 1), "not in the list of keys"),
        (("ZADD", BASE + "dead", 1, "x"), "x: in the list of dead letters, and not dead"),
        (("HSET", reading.PREFIX + "hosts", "a", "{}"), "host a is still registered"),
        (("HSET", BASE + "meta", "x", "x" * 200_000), "keys without an end take"),
        (("LPUSH", BASE + "history", *range(1001)), "the history has 1001 ids"),
    ],
)
def test_something_is_left(own: Server, client: redis.Redis, command: tuple[str | int, ...], text: str) -> None:
    client.execute_command(*command)  # type: ignore[no-untyped-call]
    assert any(text in problem for problem in reading.leftovers(own, set()))


def test_the_record_of_a_forgotten_job_may_be_left(own: Server, client: redis.Redis) -> None:
    client.hset(BASE + "job:x", "state", "queued")
    assert reading.leftovers(own, {"x"}) == []


def test_a_job_that_ends_twice_is_seen(own: Server, client: redis.Redis, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("tried j quick 1\nacknowledged j quick 2\ntried k quick 3\nacknowledged k quick 4\n")
    for name in "jk":
        client.hset(BASE + "job:" + name, mapping={"state": "completed", "out": "{1}"})
    watcher = Watcher(own, ids)
    watcher.start()
    wait_until(lambda: watcher.ended == 2, 5.0, "two ends")
    watcher.stop()
    assert watcher.contradictions([]) == []
    client.hset(BASE + "job:j", "out", "{2}")
    client.delete(BASE + "job:k")
    found = sorted(watcher.contradictions([]))
    assert [problem.partition(" with")[0] for problem in found] == [
        "j: was completed, now completed",
        "k: was completed, now gone",
    ]
    assert watcher.contradictions([Loss(0, time.monotonic_ns())]) == []
