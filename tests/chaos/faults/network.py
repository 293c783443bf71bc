"""Connections that lose replies, or go silent."""

from __future__ import annotations

import time

from tests.chaos import evidence
from tests.chaos.damage import LEASE
from tests.chaos.faults import CALM, USUAL
from tests.chaos.faults.processes import nothing_recovered
from tests.chaos.world import World
from tests.support.network_namespace import NetworkNamespace
from tests.support.proxy import Proxy
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

IN_TOUCH = 8.0  # s after the end of a partition in which a host runs jobs again: a silent read ends by its time limit


def lose_replies(world: World) -> None:
    """Replies to enqueue, fetch, renew and settle are lost after their execution."""
    world.at_the_end(nothing_recovered)
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.05, 0.25):
        world.proxy.drop_reply(_is_call)


def lose_reply(world: World) -> None:
    """One reply is lost; some connections end with that, some hang."""
    proxy = world.rng.choice(list(world.proxies.values()))
    proxy.drop_reply(_is_call, hang=world.rng.random() < 0.03)


def _is_call(request: bytes) -> bool:
    upper = request[:200].upper()
    return any(name in upper for name in (b"EVALSHA", b"XREADGROUP", b"XADD", b"XACK"))


def silent_connections(world: World) -> None:
    """One host's connections carry nothing in either direction for a while, and stay open: the other takes over."""
    host = world.start_host("a", own_proxy=True)
    world.start_host("b")
    world.start_producer(*CALM, "slow", pace=0.05)
    for _ in world.steps(0.5, 1.0):
        silence(world, host)


def silence(world: World, host: Supervised) -> None:
    """The connections of a host that has a proxy of its own carry nothing for a while."""
    proxy = world.proxies[host.folder.name]
    with world.damage.out_of_touch(host):
        proxy.blackhole()
        time.sleep(world.rng.uniform(0.5, 2.0) * LEASE)
        proxy.resume()
        _wait_in_touch(world, host)


def partitioned_host(world: World) -> None:
    """A host in a network namespace of its own is cut off: packets vanish, no connection ends."""
    network = world.open(NetworkNamespace())
    proxy = world.open(Proxy(world.address, listen=network.outside))
    host = world.start_host("a", url=proxy.url, launcher=network.launcher)
    world.start_host("b")
    world.start_producer(*CALM, "slow", pace=0.05)
    for _ in world.steps(0.5, 1.0):
        with world.damage.out_of_touch(host):
            network.cut()
            time.sleep(world.rng.uniform(0.5, 2.0) * LEASE)
            network.heal()
            _wait_in_touch(world, host)


def _wait_in_touch(world: World, host: Supervised) -> None:
    begin = time.monotonic_ns()

    def runs_again() -> bool:
        runs, _ = evidence.read(world.evidence)
        return any(run.supervisor == host.pid and run.begin > begin for run in runs)

    wait_until(runs_again, IN_TOUCH, lambda: f"a run on {host.folder.name}; {world.describe()}", interval=0.1)
