"""The states of a job, and every move between them: data only. The scripts refuse what the table does not have."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """The states of a job."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DISCARDED = "discarded"


FINAL = frozenset({State.COMPLETED, State.DEAD, State.CANCELLED, State.EXPIRED, State.DISCARDED})


class Transition(StrEnum):
    """What happens to a job. Several scripts may do the same: a job is given back by four of them."""

    ENQUEUE = "enqueue"
    """It comes, to run now."""
    DELAY = "delay"
    """It comes, to run later."""
    PROMOTE = "promote"
    """Its time has come."""
    FETCH = "fetch"
    """It is delivered to a worker."""
    GIVE_BACK = "give_back"
    """It runs again as soon as it can: handed back, recovered, or its first crash."""
    SNOOZE = "snooze"
    """It runs again later, uncounted."""
    RETRY = "retry"
    """It runs again later, counted: a failure, or a crash."""
    COMPLETE = "complete"
    DISCARD = "discard"
    EXPIRE = "expire"
    CANCEL = "cancel"
    """It was asked for, and nobody runs the job, or whoever ran it has stopped."""
    DIE = "die"
    """It becomes a dead letter."""
    REVIVE = "revive"
    """An operator retries a job that ended without having done its work."""
    DELETE = "delete"
    """An operator deletes a job that has ended."""
    PURGE = "purge"
    """An operator removes all that waits."""
    FORGET = "forget"
    """Its record's time is over."""


_S, _T = State, Transition

TABLE: Mapping[tuple[State | None, Transition], State | None] = MappingProxyType(
    {
        (None, _T.ENQUEUE): _S.QUEUED,
        (None, _T.DELAY): _S.SCHEDULED,
        (_S.SCHEDULED, _T.PROMOTE): _S.QUEUED,
        (_S.SCHEDULED, _T.CANCEL): _S.CANCELLED,
        (_S.SCHEDULED, _T.PURGE): None,
        (_S.QUEUED, _T.FETCH): _S.RUNNING,
        (_S.QUEUED, _T.CANCEL): _S.CANCELLED,
        (_S.QUEUED, _T.PURGE): None,
        (_S.RUNNING, _T.GIVE_BACK): _S.QUEUED,
        (_S.RUNNING, _T.SNOOZE): _S.SCHEDULED,
        (_S.RUNNING, _T.RETRY): _S.RETRYING,
        (_S.RUNNING, _T.COMPLETE): _S.COMPLETED,
        (_S.RUNNING, _T.DISCARD): _S.DISCARDED,
        (_S.RUNNING, _T.EXPIRE): _S.EXPIRED,
        (_S.RUNNING, _T.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _T.DIE): _S.DEAD,
        (_S.RETRYING, _T.PROMOTE): _S.QUEUED,
        (_S.RETRYING, _T.CANCEL): _S.CANCELLED,
        (_S.RETRYING, _T.PURGE): None,
        **{(state, _T.REVIVE): _S.QUEUED for state in (_S.DEAD, _S.CANCELLED, _S.EXPIRED)},
        **{(state, _T.DELETE): None for state in State if state in FINAL},
        **{(state, _T.FORGET): None for state in State if state in FINAL},
    }
)
"""(state, transition) -> state. None is a job that does not exist: not yet, or no more. What is not here is refused."""
