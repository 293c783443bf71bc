"""Wall clocks that step, as ones do that were wrong and are set: by seconds, by an hour, by days."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from tests.chaos.damage import LEASE
from tests.chaos.faults import CALM
from tests.chaos.faults.jobs import KILL_AFTER, judge_durations
from tests.chaos.faults.processes import kill_maintenance, nothing_recovered
from tests.chaos.world import World
from tests.support.clock import Clock

KINDS = (*CALM * 4, "long", "flaky", "stuck")
STEPS = (0.0, 0.6 * LEASE, 1.5 * LEASE, 10.0, 3600.0, 2 * 86400.0)
AHEAD = 3 * 86400.0  # s: whatever was postponed while the clock was ahead is due at last


def step_clock(world: World) -> None:
    """The server's clock steps forward and back: no live lease ends by it, and what it delays is run in the end."""
    clock = world.open(Clock())
    world.server.options = replace(world.server.options, environment=tuple(clock.environment.items()))
    world.server.restart()
    _start(world)
    for _ in world.steps(0.2, 0.5 * LEASE):
        _set(clock, world.rng)
        if world.rng.random() < 0.3:
            kill_maintenance(world, world.hosts[world.rng.choice("ab")])
        world.wait_for_work()
        time.sleep(world.rng.uniform(0.0, 1.0) * LEASE)
    clock.step(AHEAD - clock.offset)


def step_clock_of_a_host(world: World) -> None:
    """A host's clock, and the producer's, step forward and back: the server's is the only one that counts."""
    clock = world.open(Clock())
    _start(world, clock.environment)
    for _ in world.steps(0.1, 0.5 * LEASE):
        _set(clock, world.rng)
        world.wait_for_work()


def _start(world: World, environment: dict[str, str] | None = None) -> None:
    group = f"kill_after = {KILL_AFTER}"
    world.start_host("a", processes=3, group=group, env=environment)
    world.start_host("b", group=group)
    world.start_producer(*KINDS, pace=0.03, env=environment)
    world.at_the_end(judge_durations)
    world.at_the_end(nothing_recovered)


def _set(clock: Clock, rng: random.Random) -> None:
    """Set it so far from the right time; a step is up to twice as large."""
    clock.step(rng.choice(STEPS) * rng.choice((-1, 1)) - clock.offset)
