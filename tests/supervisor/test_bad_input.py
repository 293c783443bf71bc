"""Bad input, as tables: what is given, the message, and the exception, exit code or state that follows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis as redis_py

from millstream import InvalidJob, Millstream, NotJSON, PayloadTooLarge, Unavailable, UnknownJob
from millstream.protocol.control import delete_dead
from millstream.protocol.inspect import browse
from millstream.protocol.listing import infos_of
from tests.support.acl import as_role
from tests.support.servers import StartServer
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

APP = """
from millstream import Millstream

app = Millstream()

@app.job(queue="q")
def add(a: int, b: int = 1) -> int:
    return a + b
"""


@pytest.fixture
def app(url: str, prefix: str) -> Iterator[Millstream]:
    app = Millstream(redis_url=as_role(url, "operator"), prefix=prefix)

    @app.job(queue="q")
    def add(a: Any, b: int = 1) -> Any:
        return a + b

    yield app
    app.client.close()


@dataclass
class Odd:
    """Something that JSON cannot carry, inside of something that it can."""

    inner: object


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "argument[0] is not JSON: nan has no JSON form"),
        ({"x": [1, float("inf")]}, "argument[0]['x'][1] is not JSON: inf has no JSON form"),
        ({1, 2}, "argument[0] is not JSON: set has no JSON form"),
        (2**64, "argument[0] is not JSON: the integer is beyond 64 bits"),
        (-(2**63) - 1, "argument[0] is not JSON: the integer is beyond 64 bits"),
        ({1: "x"}, "argument[0] is not JSON: the key 1 is not a string"),
        (object(), "argument[0] is not JSON: object has no JSON form"),
        (lambda: None, "argument[0] is not JSON: function has no JSON form"),
        (1j, "argument[0] is not JSON: complex has no JSON form"),
        ([Odd(object())], "argument[0][0].inner is not JSON: object has no JSON form"),
        ("\ud800", "argument[0] is not JSON: the string holds a lone surrogate, which UTF-8 cannot encode"),
    ],
    ids=["nan", "infinity", "set", "large", "negative", "key", "object", "function", "complex", "nested", "surrogate"],
)
def test_arguments_that_are_not_json(app: Millstream, value: object, message: str) -> None:
    with pytest.raises(NotJSON) as raised:
        app.enqueue("add", value)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda app: app.enqueue("add", "x" * 2 * 1024 * 1024), PayloadTooLarge, "the limit is 1,048,576"),
        (lambda app: app.enqueue("add"), InvalidJob, "missing a required argument: 'a'"),
        (lambda app: app.enqueue("add", 1, 2, 3), InvalidJob, "too many positional arguments"),
        (lambda app: app.enqueue("add", 1, c=3), InvalidJob, "got an unexpected keyword argument 'c'"),
        (lambda app: app.enqueue("nothing"), UnknownJob, "no job 'nothing' is registered here"),
        (lambda app: app.enqueue("no name"), InvalidJob, "job name 'no name' is not valid"),
        (lambda app: app.enqueue("x", queue="a/b"), InvalidJob, "queue name 'a/b' is not valid"),
    ],
    ids=["2 MiB", "missing", "many", "keyword", "unknown", "name", "queue"],
)
def test_enqueues_that_are_refused(
    app: Millstream, call: Callable[[Millstream], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        call(app)
    assert message in str(raised.value)


def test_nothing_of_a_refused_enqueue_is_left(app: Millstream, redis: redis_py.Redis) -> None:
    with contextlib.suppress(NotJSON):
        app.enqueue("add", {1})
    assert redis.dbsize() == 0


def test_redis_gone_during_enqueue(prefix: str, start_server: StartServer) -> None:
    server = start_server()
    app = Millstream(redis_url=server.url, prefix=prefix)
    app.enqueue("any", queue="q")
    server.kill9()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        app.enqueue("any", queue="q")
    assert time.monotonic() - begun < 2.5
    app.client.close()


def test_redis_silent_during_enqueue(prefix: str, start_server: StartServer) -> None:
    server = start_server()
    app = Millstream(redis_url=server.url, prefix=prefix, patience=1.0)
    app.enqueue("any", queue="q")
    server.pause()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not answer in time|cannot be reached"):
        app.enqueue("any", queue="q")
    waited = time.monotonic() - begun
    server.cont()
    app.client.close()
    assert waited < 3.0


@pytest.mark.parametrize(
    "fields",
    [
        {"what": "ever"},
        {"id": "g1", "env": "not JSON"},
        {"id": "g1", "env": "[]"},
        {"id": "g1", "env": '{"v":1}'},
        {"id": "g1", "env": '{"v":"x","n":"add"}'},
        {"env": "{}", "id": "g1"},
        {"id": b"\xff", "env": b"\xff\xfe"},
        {"id": "g1", "env": '{"v":1,"n":"add","q":"q","t":1}', "run": "many"},
    ],
    ids=["fields", "text", "list", "incomplete", "version", "order", "bytes", "counters"],
)
def test_garbage_in_a_stream_becomes_a_dead_letter(
    app: Millstream, redis: redis_py.Redis, supervise: Callable[..., Supervised], fields: dict[Any, Any]
) -> None:
    keys = app.queue_keys("q")
    redis.xadd(keys.stream("normal"), fields)
    good = app.enqueue("add", 1)
    with supervise(APP) as up:
        assert good.result(timeout=20) == 2
        wait_until(lambda: app.client.run(browse(keys, "dead")).ids, 10.0, up.log)
        up.stop()
    (dead,) = infos_of(app.client, keys, app.client.run(browse(keys, "dead")).ids)
    assert dead.error is not None
    assert (str(dead.state), dead.error.cause) == ("dead", "malformed")
    kept = redis.hget(keys.job(dead.id), "out")
    assert isinstance(kept, bytes)
    assert b'"raw":[' in kept
    assert delete_dead(app.client, keys, [dead.id]) == 1


def test_an_envelope_of_a_newer_version_waits_for_a_newer_worker(
    app: Millstream, redis: redis_py.Redis, supervise: Callable[..., Supervised]
) -> None:
    keys = app.queue_keys("q")
    fields: dict[Any, Any] = {"id": "g1", "env": '{"v":99,"n":"add","q":"q","t":1}'}
    redis.xadd(keys.stream("normal"), fields)
    with supervise(APP) as up:
        wait_until(lambda: app.client.run(browse(keys, "due")).ids, 20.0, up.log)
        up.stop()
    redis.delete(keys.due, keys.job("g1"))
