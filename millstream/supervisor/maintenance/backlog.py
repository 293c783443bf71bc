"""How much waits for each group that may grow: counted for the supervisor, which has no connection of its own."""

from __future__ import annotations

import time

from millstream.protocol.inspect import Survey, surveys
from millstream.protocol.link import Link
from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.supervisor.plan import Plan

EVERY = 1.0
"""Seconds between two counts: a group needs a second of hard work before it grows, more often would not help."""


def publish(link: Link, plan: Plan, board: Scoreboard) -> None:
    """Ask Redis, in one round trip, and write the scoreboard. Raises :class:`Unavailable`."""
    asked = time.monotonic_ns()
    queues = dict.fromkeys(queue for group in plan.scaled for queue in group.queues)
    found = {one.queue: one for one in surveys(link, [plan.keys.queue(queue) for queue in queues])}
    for group in plan.scaled:
        open_ones = [found[queue] for queue in group.queues if _is_fetched(found[queue])]
        oldest = max((one.oldest for one in open_ones if one.oldest is not None), default=0.0)
        board.header[Header.BACKLOG + group.index] = sum(one.startable for one in open_ones)
        board.header[Header.BACKLOG_AGE + group.index] = int(oldest * 1e9)
    board.header[Header.BACKLOG_AT] = asked


def _is_fetched(survey: Survey) -> bool:
    """Whether more workers would help: of a paused queue nothing is fetched until it is resumed."""
    return survey.resuming or not survey.paused
