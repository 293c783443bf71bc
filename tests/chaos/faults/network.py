"""Connections that lose replies."""

from __future__ import annotations

from tests.chaos.faults import USUAL
from tests.chaos.world import World


def lose_replies(world: World) -> None:
    """Replies to enqueue, fetch, renew and settle are lost after their execution."""
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.05, 0.25):
        lose_reply(world)


def lose_reply(world: World) -> None:
    """One reply is lost; some connections end with that, some hang."""
    world.proxy.drop_reply(_is_call, hang=world.rng.random() < 0.03)


def _is_call(request: bytes) -> bool:
    upper = request[:200].upper()
    return any(name in upper for name in (b"EVALSHA", b"XREADGROUP", b"XADD", b"XACK"))
