"""The server goes away and comes back."""

from __future__ import annotations

import time

from tests.chaos.faults import CALM
from tests.chaos.world import World
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until


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
