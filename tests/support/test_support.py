"""The test tools themselves: servers, the proxy and the leak check do what they say."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import psutil
import pytest
import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import leaks, network_namespace, processes, resp
from tests.support.acl import as_role
from tests.support.network_namespace import NetworkNamespace
from tests.support.proxy import Proxy
from tests.support.servers import Kind, Server, StartServer
from tests.support.waiting import wait_until


def client_of(url: str, timeout: float = 1.0) -> redis_py.Redis:
    return redis_py.Redis.from_url(url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("kind", list(Kind))
def test_an_append_only_server_keeps_its_data_over_kill9(start_server: StartServer, kind: Kind) -> None:
    server = start_server(kind, appendonly=True, appendfsync="always", tcp=True, requirepass="secret")
    with client_of(server.tcp_url) as client:
        client.set("key", "value")
    port = server.port
    server.kill9()
    server.start()
    assert server.port == port
    with server.client() as client:
        assert client.get("key") == b"value"


def test_a_paused_server_does_not_answer(start_server: StartServer) -> None:
    server = start_server()
    server.pause()
    with server.client(socket_timeout=0.1) as client, pytest.raises(redis_py.TimeoutError):
        client.ping()
    server.cont()
    with server.client() as client:
        assert client.ping()


def test_the_proxy_loses_one_reply_after_its_execution(proxy: Proxy, redis: redis_py.Redis, prefix: str) -> None:
    key = prefix + "queues"
    with client_of(as_role(proxy.url, "admin")) as client:
        assert client.sadd(key, "before") == 1
        loss = proxy.drop_reply(b"lost")
        with pytest.raises(redis_py.ConnectionError):
            client.sadd(key, "lost")
        loss.wait()
        assert redis.sismember(key, "lost")
        assert client.sadd(key, "after") == 1


def test_replies_before_the_lost_one_arrive(proxy: Proxy, redis: redis_py.Redis, prefix: str) -> None:
    proxy.drop_reply(b"three", hang=True)
    with client_of(as_role(proxy.url, "admin"), timeout=0.2) as client:
        pipe = client.pipeline(transaction=False)
        for member in ("one", "two", "three", "four"):
            pipe.sadd(prefix + "queues", member)
        with pytest.raises(redis_py.TimeoutError):
            pipe.execute()
    assert redis.scard(prefix + "queues") == 4


def test_a_blackhole_holds_and_resume_lets_flow(proxy: Proxy) -> None:
    with client_of(as_role(proxy.url, "admin"), timeout=0.2) as client:
        client.ping()
        proxy.blackhole()
        with pytest.raises(redis_py.TimeoutError):
            client.ping()
        proxy.resume()
        assert client.ping()
        proxy.refuse()
        with pytest.raises(redis_py.ConnectionError):
            client.ping()
        proxy.resume()
        assert client.ping()


def test_a_proxy_leads_to_another_server(proxy: Proxy, start_server: StartServer) -> None:
    other = start_server()
    with client_of(as_role(proxy.url, "admin")) as client, other.client() as direct:
        client.ping()
        proxy.retarget(str(other.socket))
        with contextlib.suppress(redis_py.ConnectionError):  # where it has not seen yet that its connection has ended
            client.ping()
        client.set("there", 1)
        assert direct.get("there") == b"1"


def test_a_program_in_a_network_of_its_own_is_cut_off(server: Server) -> None:
    if not network_namespace.permitted():
        strict = os.environ.get("MILLSTREAM_TEST_STRICT") == "1"
        pytest.xfail("not permitted here") if strict else pytest.skip("not permitted here")
    code = "import sys, redis; redis.Redis.from_url(sys.argv[1], socket_timeout=0.3, socket_connect_timeout=0.3).ping()"
    with NetworkNamespace() as network, Proxy(str(server.socket), listen=network.outside) as between:
        ping = [*network.launcher, sys.executable, "-c", code, as_role(between.url, "admin")]
        wait_until(lambda: subprocess.run(ping, capture_output=True).returncode == 0, 10.0, "an answer")
        network.cut()
        assert b"Error" in subprocess.run(ping, capture_output=True).stderr
        network.heal()
        wait_until(lambda: subprocess.run(ping, capture_output=True).returncode == 0, 10.0, "an answer")


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"+OK\r\n:1\r\n", 5),
        (b"$-1\r\n", 5),
        (b"$3\r\nabc\r\n", 9),
        (b"$3\r\nab", None),
        (b"*2\r\n$1\r\na\r\n*1\r\n:5\r\n", 19),
        (b"%1\r\n+a\r\n+b\r\n", 12),
        (b"*2\r\n:1\r\n", None),
        (b"*-1\r\n", 5),
        (b"|1\r\n+a\r\n+b\r\n:1\r\n", 16),
    ],
)
def test_where_a_message_ends(data: bytes, end: int | None) -> None:
    assert resp.message_end(data) == end


def test_an_orphan_is_found_and_killed() -> None:
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(60)"
    subprocess.run([sys.executable, "-c", code], check=True)
    found = wait_until(lambda: processes.tree(os.getpid()) and _python_children(), 5.0, "the orphan")
    processes.kill(found)
    assert not _python_children()


def _python_children() -> list[psutil.Process]:
    return [process for process in processes.ours() if "time.sleep(60)" in processes.command_line(process)]


def test_what_the_leak_check_reports(start_server: StartServer, prefix: str) -> None:
    server: Server = start_server()
    base = prefix + "{q}:"
    with server.client() as client:
        client.set(base + "job:done", "", ex=60)
        client.hset(base + "stats", "completed", 1)
        client.xgroup_create(base + "stream:normal", "millstream", id="0", mkstream=True)
        client.set(prefix + "schema", "1")
        assert leaks.key_leaks(client) == []
        client.xadd(base + "stream:normal", {"id": "x"})
        client.zadd(base + "due", {"x": 1})
        client.hset(base + "job:x", "state", "queued")
        client.set(base + "other", "1")
        client.set("ms:{q}:meta", "1")
        found = leaks.key_leaks(client)
        assert sorted(found) == sorted(
            [
                f"{base}stream:normal: holds 1",
                f"{base}due: holds 1",
                f"{base}job:x: no TTL",
                f"{base}other: not in the list of keys",
                "ms:{q}:meta: outside of the test's prefix",
            ]
        )
        assert len(leaks.key_leaks(client, leaves_jobs=True)) == 2
