"""Jobs that do harm."""

from __future__ import annotations

from tests.chaos.faults import CALM
from tests.chaos.world import World


def poison_jobs(world: World) -> None:
    """Jobs that kill their worker each time end as dead letters; the others run once."""
    world.start_host("a")
    world.start_producer(*CALM * 16, "poison")
    for _ in world.steps(0.2, 0.4):
        pass
