"""What operators do to a queue: pause, resume, purge, and bring dead jobs back or delete them.

The first half makes calls, one function per script; the second half runs them until nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from millstream.protocol.call import Call
from millstream.protocol.keys import QueueKeys
from millstream.protocol.runner import Runner
from millstream.protocol.scripts import script
from millstream.protocol.transitions import all_keys

STEP = 200
"""Jobs that one call moves or removes at most: bounds the time that a script holds the server."""


class Resuming(StrEnum):
    """How far a resume is; the words are those of resume.lua."""

    DONE = "done"
    MORE = "more"
    OPEN = "open"
    PAUSED = "paused"


class Retried(StrEnum):
    """What became of a dead job that was to run again."""

    QUEUED = "queued"
    NOT_DEAD = "not dead"
    MALFORMED = "malformed"


@dataclass(frozen=True)
class Held:
    """What became of a dead job that was to run again: it stays dead, for a living job holds its unique key."""

    holder: str

    def __str__(self) -> str:
        return f"held by {self.holder}"


class Resumed(NamedTuple):
    """One step of a resume: how far it is, and how many held jobs it moved."""

    state: Resuming
    moved: int


class Purged(NamedTuple):
    """One step of a purge: how many jobs it removed, and whether there may be more."""

    removed: int
    more: bool


_RETRIED = {1: Retried.QUEUED, 0: Retried.NOT_DEAD, 2: Retried.MALFORMED}


def pause(keys: QueueKeys) -> Call[bool]:
    """Pause a queue; the reply is False where it was paused already."""
    return Call(script("pause"), all_keys(keys), (), bool)


def resume(keys: QueueKeys, *, begin: bool = True, count: int = STEP) -> Call[Resumed]:
    """One step of a resume. ``begin=False`` only goes on with what somebody began (maintenance does this)."""
    return Call(
        script("resume"),
        all_keys(keys),
        (count, int(begin)),
        lambda reply: Resumed(Resuming(reply[0].decode()), int(reply[1])),
    )


def purge(keys: QueueKeys, *, due: bool = False, count: int = STEP) -> Call[Purged]:
    """One step of removing the waiting jobs, and with *due* the scheduled and retrying ones too."""
    return Call(
        script("purge"),
        all_keys(keys),
        (count, int(due)),
        lambda reply: Purged(int(reply[0]), bool(reply[1])),
    )


def remove(keys: QueueKeys, ids: Sequence[str]) -> Call[list[bool]]:
    """Remove up to :data:`STEP` waiting jobs; the reply says for each whether it is gone."""
    return Call(script("remove"), all_keys(keys), ids, lambda reply: [bool(code) for code in reply])


def dead_retry(keys: QueueKeys, ids: Sequence[str]) -> Call[list[Retried | Held]]:
    """Enqueue up to :data:`STEP` dead jobs again; the reply says for each what became of it."""
    return Call(script("dead_retry"), all_keys(keys), ids, _parse_retried)


def _parse_retried(reply: list[Any]) -> list[Retried | Held]:
    return [Held(code.decode()) if isinstance(code, bytes) else _RETRIED[code] for code in reply]


def dead_delete(keys: QueueKeys, ids: Sequence[str]) -> Call[list[bool]]:
    """Delete up to :data:`STEP` dead jobs; the reply says for each whether it was dead."""
    return Call(script("dead_delete"), all_keys(keys), ids, lambda reply: [bool(code) for code in reply])


def resume_all(runner: Runner, keys: QueueKeys) -> Resumed:
    """Resume a queue to the end; the reply counts all that was held. Raises :class:`Unavailable`."""
    moved = 0
    while True:
        step = runner.run(resume(keys))
        moved += step.moved
        if step.state is not Resuming.MORE:
            return Resumed(step.state, moved)


def purge_all(runner: Runner, keys: QueueKeys, *, due: bool = False) -> int:
    """Remove every waiting job of a queue and return how many there were. Raises :class:`Unavailable`."""
    removed = 0
    while True:
        step = runner.run(purge(keys, due=due))
        removed += step.removed
        if not step.more:
            return removed


def retry_dead(runner: Runner, keys: QueueKeys, ids: Sequence[str]) -> dict[str, Retried | Held]:
    """Enqueue dead jobs again, however many; what became of each, by id. Raises :class:`Unavailable`."""
    done: dict[str, Retried | Held] = {}
    for step in steps(ids):
        codes = runner.run(dead_retry(keys, step))
        done.update(zip(step, codes, strict=True))
    return done


def delete_dead(runner: Runner, keys: QueueKeys, ids: Sequence[str]) -> int:
    """Delete dead jobs, however many, and return how many were dead. Raises :class:`Unavailable`."""
    deleted = 0
    for step in steps(ids):
        codes = runner.run(dead_delete(keys, step))
        deleted += sum(codes)
    return deleted


def steps(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """*ids* in portions that one call takes."""
    return (ids[first : first + STEP] for first in range(0, len(ids), STEP))
