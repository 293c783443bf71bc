"""What becomes of a job when a run of it fails or is killed: pure functions of its policies and its counters."""

from __future__ import annotations

import random
from typing import NamedTuple

from millstream.protocol.envelope import Entry
from millstream.protocol.errors import JobTimeout, RetryLater
from millstream.protocol.policy import LONGEST, Policies, Retry, policy_for
from millstream.protocol.transitions import Kind

_KINDS = (Kind.RETRY, Kind.TIMEOUT, Kind.MEMORY, Kind.DEAD, Kind.DISCARDED)
"""How a killed run may end for its job, in the order of their numbers in a scoreboard's word."""

_APART = {"timeout": Kind.TIMEOUT, "memory": Kind.MEMORY}
"""Causes that may have a budget of their own, and how such a run ends for its job while there is some left."""

_DELAY_BITS = 48


class Fate(NamedTuple):
    """How a run ends for its job: a :class:`Kind`; the wait in seconds, drawn between 0 and it with ``jitter``.

    ``counted``: the run was an attempt. ``problem``: why the wait is not the one that was asked for.
    """

    kind: Kind
    delay: float = 0.0
    jitter: bool = False
    counted: bool = True
    problem: str = ""

    def wait(self) -> float:
        """Seconds until the next run."""
        return random.uniform(0, self.delay) if self.jitter else self.delay

    def pack(self) -> int:
        """As one word of the scoreboard; a plain number of milliseconds is a retry after them."""
        flags = _KINDS.index(self.kind) << 2 | self.jitter << 1 | (not self.counted)
        return flags << _DELAY_BITS | int(min(self.delay, LONGEST) * 1000)

    @classmethod
    def unpack(cls, word: int) -> Fate:
        """The reverse of :meth:`pack`."""
        flags, delay = word >> _DELAY_BITS, word & (1 << _DELAY_BITS) - 1
        kind = _KINDS[flags >> 2] if flags >> 2 < len(_KINDS) else Kind.RETRY
        return cls(kind, delay / 1000, bool(flags & 2), not flags & 1)


def attempts_of(retry: Retry, entry: Entry) -> int:
    """How often a job may run: by its policy, or fewer times where the one who enqueued it said so."""
    asked = entry.options.get("attempts")
    return min(retry.attempts, asked) if isinstance(asked, int) and asked > 0 else retry.attempts


def fate_of(policies: Policies, entry: Entry, error: BaseException, cause: str, *, killed: bool = False) -> Fate:
    """What becomes of a job after this run of it. *killed*: nobody is left to call a backoff function."""
    policy = policy_for(policies, error, cause)
    if policy is None and isinstance(error, RetryLater):  # the handler has said it itself: `on` is for the others
        policy = policies[0]
    if policy is None:
        return Fate(Kind.DEAD)
    if isinstance(error, policy.discard_on):
        return Fate(Kind.DISCARDED)
    kind, count, limit = Kind.RETRY, entry.attempt + 1, attempts_of(policy, entry)
    budget = policy.budget(cause)
    if budget is not None:
        kind, limit = _APART[cause], budget
        count = 1 + (entry.timeouts if cause == "timeout" else entry.memory)
    counted = budget is None
    if count >= limit:
        return Fate(Kind.DEAD, counted=counted)
    delay, problem = policy.wait_after(count, None if killed else error)
    return Fate(kind, delay, policy.jitter, counted, problem)


def fates_of_kills(policies: Policies, entry: Entry) -> tuple[Fate, Fate]:
    """What becomes of a job whose run is killed for its time, or for its memory.

    The policies are asked as for a :class:`JobTimeout` and a :class:`MemoryError` that the handler had raised.
    """
    return (
        fate_of(policies, entry, JobTimeout(), "timeout", killed=True),
        fate_of(policies, entry, MemoryError(), "memory", killed=True),
    )
