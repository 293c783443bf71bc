"""Pruning: the empty consumers of processes that are gone, names of hosts that are gone for long, old dead letters."""

from __future__ import annotations

import orjson

from millstream.protocol import transitions
from millstream.protocol.dead import dead_prune
from millstream.protocol.link import Link
from millstream.protocol.scoreboard import RecordState, Scoreboard, Word
from millstream.supervisor.plan import Plan

EVERY = 60.0
"""Seconds between two rounds."""

DEAD_STEPS = 10
"""Steps of dead letters in one round, at most: other duties wait."""

FORGET_HOST = 86400.0
"""Seconds after its last beat at which a host that vanished is taken off the registry."""


def prune(link: Link, plan: Plan, board: Scoreboard) -> None:
    """Delete the consumers of instances that beat no more, as far as they hold nothing. Raises :class:`Unavailable`."""
    alive = _other_instances(link, plan)
    own = [
        plan.group_of(record).spec(record.words[Word.SLOT], record.words[Word.INCARNATION]).consumer
        for state in (RecordState.ALIVE, RecordState.DEAD)
        for record in board.in_state(state)
    ]
    for keys in plan.queue_keys:
        link.run(transitions.prune(keys, plan.instance, own, alive))
        for _ in range(DEAD_STEPS):
            if not link.run(dead_prune(keys, plan.dead_ttl, plan.dead_cap))[1]:
                break


def _other_instances(link: Link, plan: Plan) -> list[str]:
    """The other instances that beat; whoever has not done so for long is forgotten."""
    (seconds, _), hosts = link.execute("TIME"), link.execute("HGETALL", plan.keys.hosts)
    alive: list[str] = []
    for name, beat in zip(hosts[::2], hosts[1::2], strict=True):
        try:
            host = orjson.loads(beat)
            age = int(seconds) - host["at"] / 1000
            if host["instance"] == plan.instance:
                continue  # its processes are known one by one
            if age < host["lease"]:
                alive.append(host["instance"])
            elif age > FORGET_HOST:
                link.execute("HDEL", plan.keys.hosts, name)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
    return alive
