"""Sweeps of maintenance over many queues: each has its turn, and one that is broken harms no other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from millstream.protocol import transitions
from millstream.protocol.call import Argument
from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.link import Link, Reply
from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.protocol.transitions import NewJob
from millstream.supervisor.maintenance.counting import Uncounted
from millstream.supervisor.maintenance.promotion import Promotion
from millstream.supervisor.maintenance.recovery import Recovery
from tests.support.acl import as_role

pytestmark = pytest.mark.leaves_jobs

DEAD = "dead-1:g/0:1"
ENVELOPE = b'{"v":1,"n":"j","q":"q","t":1,"a":[],"k":{}}'


class SlowLink(Link):
    """A connection whose every round trip takes so many seconds more."""

    delay = 0.0

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        time.sleep(self.delay)  # the distance itself
        return super().execute_many(commands)


@pytest.fixture
def link(url: str) -> Iterator[SlowLink]:
    made = SlowLink(as_role(url, "admin"))
    yield made
    made.close()


def plan_of(queues: list[QueueKeys], lease: float = 30.0) -> Any:
    group = SimpleNamespace(queues=tuple(keys.queue for keys in queues), crash_limit=3, crash_delay=1.0)
    return SimpleNamespace(lease=lease, gone="", queue_keys=queues, all_groups=[group], queues=group.queues)


def hold(link: Link, keys: QueueKeys) -> None:
    """A job that a dead owner holds, longer than its lease."""
    link.run(transitions.join(keys, DEAD.split(":")[0], 0.001))
    link.run(transitions.enqueue(keys, [NewJob("j", "normal", ENVELOPE, None, "")]))
    link.run(transitions.fetch(keys, DEAD, 1))


def pending(link: Link, keys: QueueKeys) -> int:
    return int(link.execute("XPENDING", keys.stream("normal"), "millstream")[0])


def sweeper(plan: Any, link: Link) -> tuple[Recovery, Scoreboard]:
    """One whose time to wait is over."""
    board = Scoreboard.create(1)
    recovery = Recovery(plan, board, link, Uncounted())
    recovery.sweep()
    board.header[Header.RECOVER_FROM] = 0
    return recovery, board


def test_every_queue_has_its_turn_however_far_away_the_server_is(link: SlowLink, prefix: str) -> None:
    queues = [Keys(prefix).queue(f"q{number}") for number in range(60)]
    for keys in queues:
        hold(link, keys)
    recovery, board = sweeper(plan_of(queues, lease=1.0), link)
    link.delay = 0.03
    for _ in range(8):
        recovery.sweep()
        board.header[Header.RECOVER_FROM] = 0
    link.delay = 0.0
    assert [keys.queue for keys in queues if pending(link, keys)] == []


def test_a_queue_whose_stream_is_none_keeps_no_other_waiting(link: SlowLink, prefix: str) -> None:
    queues = [Keys(prefix).queue(name) for name in ("a", "b", "c")]
    for keys in queues:
        hold(link, keys)
    link.execute("SET", queues[1].stream("again"), "text")
    recovery, _ = sweeper(plan_of(queues), link)
    recovery.sweep()
    assert [pending(link, keys) for keys in (queues[0], queues[2])] == [0, 0]


def test_a_queue_that_breaks_is_told_of_once_each_time(link: SlowLink, prefix: str) -> None:
    keys = Keys(prefix).queue("a")
    hold(link, keys)
    recovery, _ = sweeper(plan_of([keys]), link)
    again = keys.stream("again")

    def told(sweeps: int) -> int:
        with capture_logs() as lines:
            for _ in range(sweeps):
                recovery.sweep()
        return sum(line["event"] == "maintenance.duty_failed" for line in lines)

    def broken() -> None:
        link.execute("RENAME", again, keys.base + "aside")
        link.execute("SET", again, "text")

    def mended() -> None:
        link.execute("RENAME", keys.base + "aside", again)

    broken()
    assert told(3) == 1
    mended()
    assert told(2) == 0
    broken()
    assert told(3) == 1
    mended()


@pytest.mark.parametrize(
    "record",
    [("HSET", "env", "{}"), ("HSET", "env", "{}", "band", "x", "run", "nan"), ("SET", "text")],
    ids=["no band", "foreign values", "no hash"],
)
def test_what_is_no_job_keeps_no_delayed_job_waiting(link: SlowLink, prefix: str, record: tuple[str, ...]) -> None:
    queues = [Keys(prefix).queue(name) for name in ("a", "b")]
    link.execute(record[0], queues[0].job("x"), *record[1:])
    link.execute("ZADD", queues[0].due, 0, "x")
    for keys in queues:
        link.run(transitions.enqueue(keys, [NewJob("j", "normal", ENVELOPE, 1, "")]))
    time.sleep(0.01)  # their delay
    Promotion(plan_of(queues), link).promote()
    for keys in queues:
        assert int(link.execute("ZCARD", keys.due)) == 0
        assert int(link.execute("XLEN", keys.stream("normal"))) >= 1
