"""The server's clock is set back or forward: what was written by the other time is judged by the new one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from millstream.protocol import transitions
from millstream.protocol.keys import Keys
from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.protocol.transitions import Kind as End
from millstream.supervisor.maintenance.counting import Uncounted
from millstream.supervisor.maintenance.recovery import Recovery
from tests.protocol.rig import A, B, Rig
from tests.support import clock as clocks
from tests.support.clock import Clock
from tests.support.servers import Kind, StartServer
from tests.support.waiting import wait_until

HOUR = 3600.0

pytestmark = pytest.mark.skipif(not clocks.permitted(), reason="needs a C compiler")


@pytest.fixture
def clock() -> Iterator[Clock]:
    with Clock() as made:
        yield made


@pytest.fixture(params=list(Kind), ids=str)
def rig(request: pytest.FixtureRequest, start_server: StartServer, prefix: str, clock: Clock) -> Iterator[Rig]:
    """A queue on a server of its own, which goes by `clock`."""
    made = Rig(start_server(request.param, environment=tuple(clock.environment.items())).url, prefix)
    yield made
    made.link.close()


def step(rig: Rig, clock: Clock, seconds: float) -> None:
    """Step it, and wait until the server has noticed: it looks at its clock a few times a second."""

    def now() -> float:
        lines: str = rig.link.execute("INFO", "server").decode()
        return int(lines.partition("server_time_usec:")[2].split()[0]) / 1e6

    clock.step(seconds)
    wait_until(lambda: abs(now() - time.time() - clock.offset) < 1.0, 5.0)


def test_a_lease_of_the_future_begins_when_it_is_seen(rig: Rig, clock: Clock) -> None:
    """Else what a dead host held would wait for as long as the clock was set back."""
    rig.take("j", A)
    step(rig, clock, -HOUR)
    assert rig.recover() == (0, 0)
    step(rig, clock, 31.0)
    assert rig.recover() == (1, 0)


def test_while_nobody_is_recovered_leases_of_the_future_begin(rig: Rig, clock: Clock) -> None:
    rig.take("j", A)
    step(rig, clock, -HOUR)
    assert rig.recover(only_gone=True) == (0, 0)
    step(rig, clock, 31.0)
    assert rig.recover(only_gone=True) == (0, 0)
    assert rig.recover() == (1, 0)


def test_maintenance_that_is_replaced_right_after_a_step_takes_nothing(rig: Rig, clock: Clock) -> None:
    group = SimpleNamespace(queues=("q",), crash_limit=3, crash_delay=1.0)
    plan: Any = SimpleNamespace(lease=30.0, gone="", queue_keys=[rig.keys], all_groups=[group])
    board = Scoreboard.create(1)
    rig.take("j", A)
    Recovery(plan, board, rig.link, Uncounted()).sweep()
    board.header[Header.RECOVER_FROM] = 0  # that it had just started is over
    step(rig, clock, HOUR)
    for _ in range(2):
        Recovery(plan, board, rig.link, Uncounted()).sweep()
        assert rig.pending(A) == 1
    board.header[Header.RECOVER_FROM] = 0
    Recovery(plan, board, rig.link, Uncounted()).sweep()
    assert rig.pending(A) == 0


def test_what_a_gone_instance_held_in_the_future_goes_back_at_once(rig: Rig, clock: Clock) -> None:
    rig.take("j", A)
    step(rig, clock, -HOUR)
    assert rig.recover(gone=A.partition(":")[0], only_gone=True) == (1, 0)


def test_a_name_that_beat_in_the_future_is_free_a_lease_later(rig: Rig, clock: Clock) -> None:
    keys = Keys("n:")

    def claim(instance: str) -> bytes:
        beat = orjson.dumps({"instance": instance, "lease": 10, "workers": [], "groups": {}})
        return rig.run(transitions.host(keys, "name", instance, "claim", beat))

    assert claim("one") == b""
    step(rig, clock, -HOUR)
    assert orjson.loads(claim("two"))["instance"] == "one"
    step(rig, clock, 5.0)
    assert claim("two")
    step(rig, clock, 6.0)
    assert claim("two") == b""
    found = orjson.loads(rig.link.execute("HGET", keys.hosts, "name"))
    assert (found["instance"], found["workers"], found["groups"]) == ("two", [], {})


def test_an_empty_consumer_of_the_future_is_pruned_a_lease_later(rig: Rig, clock: Clock) -> None:
    rig.settle(rig.take("j", A), End.COMPLETED)
    rig.join(B)
    prune = transitions.prune(rig.keys, B.partition(":")[0], [B], [])
    step(rig, clock, -HOUR)
    assert rig.run(prune) == 0
    step(rig, clock, 31.0)
    assert rig.run(prune) > 0


def test_new_entries_come_behind_those_of_the_future(rig: Rig, clock: Clock) -> None:
    rig.join(A)
    rig.add("first")
    step(rig, clock, -HOUR)
    rig.add("second", "third")
    refs = rig.fetch(10, A)
    assert len(refs) == 3
    assert [rig.record(name)["entry"] for name in ("first", "second", "third")] == refs


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_what_is_due_is_due_by_the_server(rig: Rig, clock: Clock, seconds: float) -> None:
    """Early by as much as the clock is set forward, late by as much as it is set back; never lost."""
    rig.join(A)
    rig.add("later", delay=int(HOUR / 2 * 1000))
    step(rig, clock, seconds)
    promoted, wait, _ = rig.run(transitions.promote(rig.keys))
    assert promoted == (1 if seconds > 0 else 0)
    if seconds < 0:
        assert abs(wait - 1.5 * HOUR * 1000) < 10_000
        step(rig, clock, -1.6 * seconds)
        assert rig.run(transitions.promote(rig.keys))[0] == 1
    assert len(rig.fetch(1, A)) == 1
