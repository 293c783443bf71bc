"""The server goes away, forgets, refuses, or is replaced."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis

from millstream.protocol.connection import Refused
from tests.chaos import reading
from tests.chaos.damage import LEASE
from tests.chaos.faults import CALM, USUAL
from tests.chaos.faults.processes import kill_maintenance, kill_worker, stop_maintenance
from tests.chaos.world import World
from tests.support.servers import Options, Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

NO_PORT = 1  # nobody listens there


def restart_servers(world: World) -> None:
    """The server goes away (TERM or SIGKILL) and returns; the same processes resume within 5 s of that."""
    host = world.start_host("a")
    world.start_producer(*CALM)
    wait_until(lambda: len(host.workers()) == 2, 5.0, "two workers")
    before = sorted(host.workers())
    for _ in world.steps(0.5, 1.5):
        restart_server(world, host)
        assert sorted(host.workers()) == before, f"workers were replaced: {before} -> {host.workers()}"


def restart_server(world: World, _host: Supervised) -> None:
    """It is away for a moment; with an AOF that is always written it forgets nothing."""
    world.rng.choice([world.server.stop, world.server.kill9])()
    time.sleep(world.rng.uniform(0.1, 2.0))
    world.server.start()
    world.wait_for_work()


def restart_server_meanwhile(world: World, host: Supervised) -> None:
    """The server is away while a process of a host is killed or stopped, and replaced."""
    world.server.kill9()
    world.rng.choice([kill_worker, kill_maintenance, stop_maintenance])(world, host)
    world.server.start()
    world.wait_for_work()


def long_outage(world: World) -> None:
    """The server is away for longer than a lease while handlers run: no host takes from the other afterwards."""
    world.start_host("a")
    world.start_host("b")
    world.start_producer(*CALM * 4, "long", pace=0.03)
    for _ in world.steps(0.5, 1.0):
        world.server.kill9()
        time.sleep(world.rng.uniform(1.1, 1.6) * LEASE)
        world.server.start()
        world.wait_for_work()


def lose_power(world: World) -> None:
    """AOF everysec, and the server's machine fails: only its last second is lost; what that undid runs again."""
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.7, 1.5):
        with world.damage.forgetting():
            synced = {path: path.stat().st_size for path in _aof(world.server)}
            time.sleep(world.rng.uniform(0.2, 1.0))
            world.server.kill9()
            for path, size in synced.items():  # the kernel has the rest, a machine without power has not
                with path.open("ab") as file:
                    file.truncate(size)
            world.server.start()
        world.wait_for_work()


def _aof(server: Server) -> list[Any]:
    return sorted((server.folder / "appendonlydir").glob("*.incr.aof"))


def flush_server(world: World) -> None:
    """FLUSHALL: groups are made again at 0 without a hot loop, and what comes afterwards is done."""
    host = world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.5, 1.0):
        with world.damage.forgetting(everything=True), world.server.client() as client:
            client.flushall()
        world.wait_for_work()
    rebuilt = host.log().count("redis.groups_rebuilt")
    assert rebuilt < 100, f"groups were rebuilt {rebuilt} times"


def destroy_groups(world: World) -> None:
    """XGROUP DESTROY: the groups are made again at 0, so that no job is lost; those under way run again."""
    world.start_host("a")
    world.start_producer(*CALM)
    for _ in world.steps(0.5, 1.0):
        with world.damage.forgetting(jobs=False), world.server.client() as client:
            for stream in reading.STREAMS:
                with contextlib.suppress(redis.ResponseError):
                    client.xgroup_destroy(stream, reading.GROUP)
        world.wait_for_work()


def delete_streams(world: World) -> None:
    """DEL of the streams: their jobs are gone, and what comes afterwards is done."""
    world.start_host("a")
    world.start_producer(*CALM)
    for _ in world.steps(0.5, 1.0):
        with world.damage.forgetting(everything=True), world.server.client() as client:
            client.delete(*reading.STREAMS)
        world.wait_for_work()


def flush_scripts(world: World) -> None:
    """SCRIPT FLUSH, and CLIENT KILL of every connection, again and again: nobody notices."""
    host = world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.05, 0.2):
        forget_scripts(world, host)
    world.wait_for_work()


def forget_scripts(world: World, _host: Supervised) -> None:
    """The server forgets every script, and often ends every connection too."""
    with world.server.client() as client:
        client.execute_command("SCRIPT", "FLUSH")
        client.execute_command("FUNCTION", "FLUSH")
        if world.rng.random() < 0.3:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def fill_server(world: World) -> None:
    """maxmemory is reached: enqueueing is refused, and all that is stored can be drained nevertheless."""
    world.start_host("a")
    world.start_producer(*USUAL, pace=0.005)
    for _ in world.steps(0.5, 1.0):
        with world.server.client() as client:
            client.config_set("maxmemory", 1)
            _see_refused(world)
            wait_until(lambda: reading.stored(world.server) == 0, 30.0, lambda: f"a drained queue; {world.describe()}")
            client.config_set("maxmemory", 0)
        world.wait_for_work()


def _see_refused(world: World) -> None:
    try:
        world.enqueue("quick")
    except Refused as error:
        assert "is full (maxmemory)" in str(error), error
    else:
        raise AssertionError("a server that is full took a job")


UNWILLING = Options(
    appendonly=True,
    appendfsync="always",
    extra=(
        *("--key-load-delay", "50", "--loading-process-events-interval-bytes", "1024"),
        *("--enable-protected-configs", "yes"),
    ),
)
"""A server that says for a while that it is loading, and whose saves can be made to fail."""


def refusing_server(world: World) -> None:
    """The server is up and refuses: NOREPLICAS, READONLY, BUSY, MISCONF, LOADING. All go on when it does."""
    world.start_host("a")
    world.start_producer(*CALM)
    refusals = [_no_replicas, _read_only, _busy, _no_disk, _loading]
    world.rng.shuffle(refusals)
    for number, _ in enumerate(world.steps(0.3, 0.8)):
        with refusals[number % len(refusals)](world):
            time.sleep(world.rng.uniform(0.3, 1.25) * LEASE)
        world.wait_for_work()


def refuse_for_a_moment(world: World, _host: Supervised) -> None:
    """The server refuses all writes, or everything."""
    with world.rng.choice([_no_replicas, _read_only, _busy])(world):
        time.sleep(world.rng.uniform(0.1, 1.0) * LEASE)
    world.wait_for_work()


@contextlib.contextmanager
def _no_replicas(world: World) -> Iterator[None]:
    with world.server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        yield
        client.config_set("min-replicas-to-write", 0)


@contextlib.contextmanager
def _read_only(world: World) -> Iterator[None]:
    with world.server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", NO_PORT)
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def _no_disk(world: World) -> Iterator[None]:
    with world.server.client() as client:
        name = str(client.config_get("dbfilename")["dbfilename"])
        (world.server.folder / "taken").mkdir(exist_ok=True)
        (world.server.folder / "taken" / "x").touch()
        client.config_set("save", "3600 1")
        client.config_set("dbfilename", "taken")  # a folder: no file can take its place
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 5.0, "a failed save")
        yield
        client.config_set("save", "")
        client.config_set("dbfilename", name)


@contextlib.contextmanager
def _busy(world: World) -> Iterator[None]:
    with world.server.client() as client:
        client.config_set("busy-reply-threshold", 10)
    hog = threading.Thread(target=_hog, args=(world.server,), daemon=True)
    hog.start()
    yield
    with world.server.client() as client:
        client.execute_command("SCRIPT", "KILL")
    hog.join(10)


def _hog(server: Server) -> None:
    with contextlib.suppress(redis.RedisError), server.client() as client:
        client.eval("while true do end", 0)


@contextlib.contextmanager
def _loading(world: World) -> Iterator[None]:
    world.server.kill9()
    world.server.start(timeout=30.0)
    yield


def fail_over(world: World) -> None:
    """The primary dies, a replica that is behind takes its place: only what was not replicated is lost."""
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.5, 1.0):
        _fail_over(world)
        world.wait_for_work(10.0)


def _wait_replicated(server: Server) -> None:
    with server.client() as client:
        client.set(reading.PREFIX + "mark", 1)
        client.delete(reading.PREFIX + "mark")
        assert client.execute_command("WAIT", 1, 5000) == 1, "the replica does not follow"


def _fail_over(world: World) -> None:
    old = world.server
    replica = world.open(Server(old.kind, Options(tcp=True)))
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", old.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", 10.0, "a replica in step")
        with world.damage.forgetting():
            _wait_replicated(old)  # what was written before the block is there: the rest is what may be lost
            client.execute_command("REPLICAOF", "127.0.0.1", NO_PORT)  # it hears no more
            time.sleep(world.rng.uniform(0.1, 0.8))
            world.proxy.retarget(("127.0.0.1", replica.port))
            time.sleep(world.rng.uniform(0.0, 0.5))  # read-only for a moment
            old.kill9()
            client.execute_command("REPLICAOF", "NO", "ONE")
            world.use(replica)
