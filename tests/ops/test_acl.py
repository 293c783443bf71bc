"""The users that `ops/acl/users.acl` ships: each role does its whole job with no right too many, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from redis.exceptions import NoPermissionError

from millstream import JobCancelled, JobFailed, Millstream, State
from millstream.protocol import control
from millstream.protocol.client import Client
from millstream.protocol.connection import AccessDenied
from millstream.protocol.keys import Keys
from millstream.supervisor.cli import run
from tests.support import acl
from tests.support.acl import as_role
from tests.support.monitoring import Monitoring
from tests.support.servers import Kind, Server, StartServer
from tests.support.supervised import Supervised
from tests.support.waiting import stays, wait_until

APP = """
import os, signal, time
from pathlib import Path
from millstream import JobTimeout, Millstream, Retry

app = Millstream()

@app.job(queue="q", retry=Retry(attempts=2, delay=0.1, jitter=False))
def fail() -> None:
    raise ValueError("no")

@app.job(queue="q")
def add(a: int, b: int) -> int:
    return a + b

@app.job(queue="q")
def outer() -> int:
    return add.using(delay=0.3).enqueue(1, 2).result(timeout=10)

@app.job(queue="q")
def nap(seconds: float) -> None:
    Path("napping").touch()
    time.sleep(seconds)

@app.job(queue="q", timeout=0.3, retry=1)
def hang() -> None:
    while True:
        try:
            time.sleep(30)
        except JobTimeout:
            pass

@app.job(queue="q")
def die_once() -> None:
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""

TOML = """
[supervisor]
lease = 2
[web]
bind = "127.0.0.1:0"
[workers.default]
queues = ["q"]
processes = {min = 2, max = 3}
kill_after = 0.3
crash_delay = 0.1
"""

RARE = {
    "producer": set[str](),
    "worker": {
        "client|unblock",  # MONITOR does not show it; without it the log of refusals would not be empty
        "zpopmin",  # more than 10,000 dead letters
    },
    "operator": set[str](),
    "web": set[str](),
}
"""What is granted, but cannot be seen in a small test."""


@pytest.fixture(params=list(Kind), ids=str)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """A server of the test's own with the shipped users, for the keys `ms:`."""
    return start_server(request.param, acl="ms:", tcp=True)


@pytest.fixture
def seen(server: Server) -> Iterator[Monitoring]:
    """What the server runs, from before the supervisor's start."""
    with contextlib.closing(Monitoring(server)) as monitoring:
        yield monitoring


@pytest.fixture
def up(server: Server, supervise: Callable[..., Supervised]) -> Supervised:
    """A supervisor that connects by TCP, as `worker`."""
    return supervise(APP, TOML, redis_url=server.tcp_url, prefix="ms:", env={"MILLSTREAM_WEB__BIND": ""})


@pytest.fixture
def jobs(server: Server) -> Iterator[Any]:
    """The application and its jobs, as `producer`."""
    names: dict[str, Any] = {"__name__": "app_under_test"}
    exec(APP, names)
    names["app"].connect_to(server.url, "ms:")
    yield SimpleNamespace(**names)
    names["app"].client.close()


@pytest.fixture
def producer(jobs: Any) -> Millstream:
    """The application alone."""
    app: Millstream = jobs.app
    return app


def granted(role: str) -> set[str]:
    """The commands that the shipped file allows a role."""
    (line,) = (line for line in acl.SHIPPED.read_text().splitlines() if line.startswith(f"user {role} "))
    return set(re.findall(r"[ (]\+(\S+?)(?=[ )]|$)", line))


def produce(jobs: Any, up: Supervised) -> None:
    """All that a producer does."""
    first = jobs.add.enqueue(1, 2)
    assert first.result(timeout=10) == 3
    assert jobs.outer.enqueue().result(timeout=10) == 3
    assert jobs.add.using(id="twice").enqueue(1, 2).created
    assert not jobs.add.using(id="twice").enqueue(1, 2).created
    later = jobs.add.using(delay=60, id="later").enqueue(2, 3)
    assert (later.status(), later.cancel(), later.status()) == (State.SCHEDULED, True, State.CANCELLED)
    unique = jobs.add.using(unique_for=60, delay=60)
    held = unique.enqueue(5, 6)
    assert (unique.enqueue(5, 6).id, held.cancel()) == (held.id, True)
    assert jobs.add.using(unique_for=60, expires_in=60).enqueue(5, 6).result(timeout=10) == 11
    assert jobs.add.using(delay=0.2).enqueue(2, 3).result(timeout=10) == 5
    for job in (jobs.fail, jobs.hang):
        with pytest.raises(JobFailed):
            job.enqueue().result(timeout=10)
    assert jobs.die_once.enqueue().result(timeout=10) is None
    nap = jobs.nap.enqueue(60)
    wait_until((up.folder / "napping").exists)
    assert nap.cancel()
    with pytest.raises(JobCancelled):
        nap.result(timeout=10)
    jobs.app.enqueue("nobody", queue="q")
    unserved = jobs.add.using(queue="other").enqueue(1, 2)
    with pytest.raises(TimeoutError):
        unserved.result(timeout=0.2)
    assert unserved.cancel()
    keyed = [jobs.add.using(queue="other", concurrency_key="k").enqueue(1, 2) for _ in range(2)]
    assert all(handle.cancel() for handle in keyed)
    for handle in [jobs.nap.using(concurrency_key="k").enqueue(1.5) for _ in range(2)]:
        handle.result(timeout=10)  # long enough for maintenance to look after the one that waits
    asyncio.run(produce_async(jobs))


async def produce_async(jobs: Any) -> None:
    handle = await jobs.add.aenqueue(1, 2)
    assert await handle.aresult(timeout=10) == 3
    await jobs.app.aclient.close()


def inspect(command: Callable[..., str]) -> None:
    """All that somebody does who may only look."""
    assert "q" in command("queues", "list")
    assert "q" in command("queues", "show", "q")
    found = command("jobs", "list")
    assert "cancelled" in found
    assert "cancelled" in command("jobs", "show", "later")
    assert "fail" in command("dead", "list")
    assert command("ps")
    assert command("workers", "list")


def operate(command: Callable[..., str], client: Client) -> None:
    """All that an operator changes."""
    dead = command("dead", "list", "-o", "json")
    first, *others = re.findall(r'"id": ?"([^"]+)"', dead)
    command("dead", "retry", first, "--yes")
    command("dead", "delete", "--all", "--yes") if others else None
    command("queues", "limit", "q", "--concurrency", "2", "--rate", "1000/s")
    command("queues", "limit", "q", "--none")
    command("queues", "pause", "q")
    for name in ("pause", "resume"):
        command("jobs", name, "add", "--queue", "q")
    for _ in range(2):
        command("enqueue", "add", "1", "2", "--queue", "q", "--concurrency-key", "k")
    command("enqueue", "add", "1", "2", "--queue", "q", "--unique-for", "60")
    command("enqueue", "add", "1", "2", "--queue", "q", "--unique-for", "60")
    command("queues", "purge", "q", "--due", "--yes")
    command("enqueue", "add", "1", "2", "--queue", "q", "--id", "held")
    command("enqueue", "add", "1", "2", "--queue", "q", "--delay", "60", "--id", "operated")
    with pytest.raises(TimeoutError):  # what `jobs watch` does with a job that is not over
        client.wait_for_end(Keys("ms:").queue("q"), "operated", 0.2)
    command("jobs", "cancel", "operated")
    command("queues", "resume", "q")
    command("jobs", "watch", "held")
    keys = Keys("ms:").queue("q")
    client.run(control.pause(keys))
    for _ in range(3):
        command("enqueue", "add", "1", "2", "--queue", "q")
    client.run(control.resume(keys, count=1))  # and dies: maintenance goes on


@pytest.mark.leaves_jobs
def test_each_role_does_its_whole_job_with_no_right_too_many(
    server: Server, seen: Monitoring, up: Supervised, jobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def commands_of(role: str) -> Callable[..., str]:
        def command(*arguments: str) -> str:
            code = run([*arguments, "--redis-url", as_role(server.url, role)])
            printed = capsys.readouterr()
            assert code == 0, (role, arguments, printed.err)
            return printed.out

        return command

    seen.phase("producer")
    produce(jobs, up)
    seen.phase("web")
    inspect(commands_of("web"))
    seen.phase("operator")
    inspect(commands_of("operator"))
    operator = Client(as_role(server.url, "operator"), Keys("ms:"))
    operate(commands_of("operator"), operator)
    operator.close()
    seen.phase("checks")
    with server.client() as admin:
        wait_until(lambda: not admin.exists("ms:{q}:held"), 10.0, "a half resumed queue is open again")
        wait_until(lambda: any("delconsumer" in name for name in seen.seen["tcp"]), 20.0, "the killed worker's end")
        up.stop()
        assert admin.execute_command("ACL", "LOG") == []
    seen.phase("over")
    used = {**seen.seen, "worker": seen.seen["tcp"]}
    for role, rare in RARE.items():
        assert granted(role) - used[role] == rare, role


FORBIDDEN = {
    "producer": ["XREADGROUP GROUP millstream x STREAMS ms:{q}:stream:normal >",
                 "XACK ms:{q}:stream:normal millstream 1-1", "FLUSHALL", "GET other",
                 "SET other 1", "HGET other:{q}:job:1 state", "HGETALL ms:hosts", "HSET ms:hosts a b",
                 "SMEMBERS ms:queues", "ZREM ms:{q}:dead j", "HSET ms:{q}:meta paused 1",
                 "HSET ms:{q}:owners i 1", "CONFIG GET *", "ACL LIST", "KEYS *", "DEL ms:{q}:dead",
                 "DEL ms:{q}:job:j", "SET ms:{q}:due 1", "GET ms:{q}:meta",
                 "XREVRANGE ms:{q}:control + -", "XRANGE ms:{q}:control - +"],
    "worker": ["FLUSHALL", "FLUSHDB", "GET other", "SET other 1", "KEYS *", "SCAN 0", "CONFIG GET *", "ACL LIST",
               "CLIENT KILL ID 1", "CLIENT LIST", "SCRIPT FLUSH", "SHUTDOWN", "PUBLISH c m",
               "SUBSCRIBE c", "MONITOR", "EVAL return 0", "XADD other * a b", "SWAPDB 0 1"],
    "operator": ["FLUSHALL", "XREADGROUP GROUP millstream x STREAMS ms:{q}:stream:normal >", "HSET ms:hosts a b",
                 "SET ms:schema 9", "GET other", "XACK ms:{q}:stream:normal millstream 1-1", "KEYS *", "CONFIG GET *"],
    "web": ["HSET ms:{q}:meta paused 1", "XADD ms:{q}:control * kind wake", "SET ms:schema 9", "DEL ms:{q}:dead",
            "FLUSHALL", "HGETALL other", "EVALSHA 0000000000000000000000000000000000000000 1 ms:{q}:meta", "KEYS *",
            "XREADGROUP GROUP millstream x STREAMS ms:{q}:stream:normal >", "CONFIG GET *", "GET other"],
}  # fmt: skip


@pytest.mark.parametrize("role", FORBIDDEN)
def test_each_role_is_refused_what_is_not_its(server: Server, role: str) -> None:
    with redis_py.Redis.from_url(as_role(server.url, role)) as client:
        for command in FORBIDDEN[role]:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
                pytest.fail(f"{role} may {command}")


def test_nobody_comes_in_without_a_password_and_placeholders_are_no_passwords(server: Server) -> None:
    with redis_py.Redis(unix_socket_path=str(server.socket)) as anybody, pytest.raises(redis_py.AuthenticationError):
        anybody.ping()
    assert all("#SHA256-OF-" in line for line in acl.SHIPPED.read_text().splitlines() if " on " in line)


@pytest.mark.leaves_jobs
def test_jobs_survive_a_restart_of_a_server_whose_default_user_is_off(
    start_server: StartServer, producer: Millstream, server: Server
) -> None:
    """Servers check what they load from their append-only file by the rights of the default user."""
    own = start_server(server.kind, acl="ms:", appendonly=True, appendfsync="always")
    producer.connect_to(own.url, "ms:")
    handle = producer.enqueue("add", 1, 2, queue="q")
    own.restart()
    assert handle.status() is State.QUEUED


# What somebody sees who is not allowed what they try.

REFUSED = (
    r"millstream: Redis at unix://{user}:\*\*\*@\S+ forbids user '{user}' a command or key: {what}.*security\.md\)\n"
)


def test_a_supervisor_with_the_wrong_user_does_not_start(server: Server, tmp_path: Path) -> None:
    env = {"MILLSTREAM_REDIS_URL": server.url}
    own = Supervised(tmp_path / "up", APP, TOML, redis_url=None, prefix="ms:", env=env)
    with own.start(wait=False) as wrong:
        assert wrong.wait() == 78
        assert re.fullmatch(REFUSED.format(user="producer", what="COMMAND INFO"), wrong.log()), wrong.log()


def test_a_producer_that_may_only_look_is_told_so(server: Server, producer: Millstream) -> None:
    producer.connect_to(as_role(server.url, "web"), "ms:")
    with pytest.raises(AccessDenied, match=r"forbids user 'web' .*: (SADD ms:queues|EVALSHA)"):
        producer.enqueue("add", 1, 2, queue="q")


def test_a_script_names_the_command_that_is_forbidden(server: Server, producer: Millstream) -> None:
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "producer", "-xadd")
    with pytest.raises(AccessDenied, match=r"forbids user 'producer' .*: XADD in script enqueue"):
        producer.enqueue("add", 1, 2, queue="q")
    with pytest.raises(AccessDenied, match=r"forbids user 'producer' .*: XADD in script enqueue"):
        asyncio.run(_enqueue(producer))


async def _enqueue(app: Millstream) -> None:
    with contextlib.suppress(RuntimeError):
        await app.aenqueue("add", 1, 2, queue="q")


def test_a_command_for_which_the_user_has_no_right_says_so(server: Server, up: Supervised) -> None:
    with server.client() as admin:
        wait_until(lambda: admin.exists("ms:queues"))
    for role, what in (("web", "EVALSHA ms:{q}"), ("producer", "SMEMBERS ms:queues")):
        done = up.command("queues", "pause", "q", "--redis-url", as_role(server.url, role))
        assert done.returncode == 78
        assert re.fullmatch(REFUSED.format(user=role, what=re.escape(what)), done.stderr), done.stderr


@pytest.mark.parametrize("right", ["xreadgroup", "xpending", "evalsha", "time"])
def test_rights_that_are_taken_away_and_given_back(
    server: Server, up: Supervised, producer: Millstream, right: str
) -> None:
    """Workers live on, say once what they miss, and go on when they have it again."""
    workers = sorted(up.workers())
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "worker", f"-{right}")
        handle = producer.enqueue("add", 1, 2, queue="q")
        up.wait_log("redis.lost|duty_failed")
        stays(lambda: sorted(up.workers()) == workers, 3.0)
        complaints = [line for line in up.log().splitlines() if "forbids user" in line]
        assert 0 < len(complaints) <= 12, "\n".join(complaints)
        assert "Traceback" not in up.log()
        before = admin.info("stats")["total_commands_processed"]
        stays(lambda: True, 1.0)
        assert admin.info("stats")["total_commands_processed"] - before < 1000, "no hot loop; 300 when all is well"
        admin.execute_command("ACL", "SETUSER", "worker", f"+{right}")
        assert handle.result(timeout=10) == 3
    assert sorted(up.workers()) == workers
    up.stop()
