"""Leases: renewing, what happens when one is over, crashes that count, and who may hold a name."""

from __future__ import annotations

import pytest

from millstream.protocol import control, transitions
from millstream.protocol.keys import Keys
from millstream.protocol.transitions import Kind, Verdict
from tests.protocol.rig import A, B, Rig
from tests.support.waiting import wait_until

pytestmark = pytest.mark.leaves_jobs


def test_what_is_renewed_is_not_recovered(rig: Rig) -> None:
    ref = rig.take("j")
    rig.age(ref, 40_000)
    assert rig.run(transitions.renew(rig.keys, A, [ref])) == []
    assert rig.recover() == (0, 0)
    assert rig.pending(A) == 1


def test_a_lease_is_its_owners_own(rig: Rig) -> None:
    """Each consumer is judged by the lease of its instance, an unknown one by 30 s."""
    rig.join(A, lease=10.0)
    rig.join(B, lease=60.0)
    rig.add("x", "y", "z")
    mine, other, foreign = rig.fetch(1, A)[0], rig.fetch(1, B)[0], rig.fetch(1, "c-1:g/0:1")[0]
    for ref, consumer in ((mine, A), (other, B), (foreign, "c-1:g/0:1")):
        rig.age(ref, 20_000, consumer)
    assert rig.recover() == (1, 0)
    assert (rig.pending(A), rig.pending(B)) == (0, 1)
    rig.age(foreign, 31_000, "c-1:g/0:1")
    assert rig.recover() == (1, 0)
    assert rig.pending() == 1


def test_what_a_dead_instance_held_is_recovered_at_once(rig: Rig) -> None:
    ref = rig.take("j")
    assert rig.recover() == (0, 0)
    assert rig.recover(gone="a-000001") == (1, 0)
    assert rig.settle(ref, Kind.COMPLETED) is Verdict.STALE


def test_an_expired_lease_is_no_crash_unless_the_job_had_started_alone(rig: Rig) -> None:
    ref = rig.take("j")
    rig.recover(gone="a-000001")
    ((_, _, fields),) = rig.run(transitions.fetch(rig.keys, A, 5)).entries
    assert dict(zip(fields[4::2], fields[5::2], strict=True))[b"crashes"] == b"0"
    assert b"alone" in fields
    ref = rig.record()["entry"]
    rig.recover("again", gone="a-000001")  # it was delivered but had not started
    (ref,) = rig.fetch(1)
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True)).word == "ok"
    rig.recover("again", gone="a-000001")
    ((_, _, fields),) = rig.run(transitions.fetch(rig.keys, A, 5)).entries
    assert dict(zip(fields[4::2], fields[5::2], strict=True))[b"crashes"] == b"1"


def test_the_third_marked_run_that_expires_makes_the_job_dead(rig: Rig) -> None:
    rig.take("j")
    assert rig.recover(gone="a-000001") == (1, 0)
    for crashes in (1, 2, 3):
        (ref,) = rig.fetch(1)
        assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True)).word == "ok"
        assert rig.recover("again", gone="a-000001") == (1, 1 if crashes == 3 else 0)
        if crashes == 2:
            assert rig.state() == "retrying", "the second one waits"
            rig.link.execute("ZADD", rig.keys.due, 0, "j")
            assert rig.run(transitions.promote(rig.keys))[0] == 1
    record = rig.record()
    assert (record["state"], record["crashes"], record["out"]) == ("dead", "3", '{"c":"lease_expired"}')


def test_a_start_cannot_be_marked_after_the_delivery_was_taken(rig: Rig) -> None:
    ref = rig.take("j")
    rig.recover(gone="a-000001")
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True)).word == "stale"
    assert "started" not in rig.record()


def test_renew_names_what_is_lost(rig: Rig) -> None:
    rig.join()
    rig.add("x", "y")
    refs = rig.fetch(2)
    rig.run(transitions.give_back(rig.keys, A, [refs[0]]))
    assert rig.run(transitions.renew(rig.keys, A, refs)) == [refs[0]]


def test_a_sweep_keeps_its_place(rig: Rig) -> None:
    rig.join()
    rig.add(*(f"j{number}" for number in range(25)))
    rig.fetch(25)
    seen, cursor = 0, ""
    for _ in range(10):
        step = rig.run(transitions.recover(rig.keys, "normal", cursor, row=b"{}", count=10, gone="a-000001"))
        seen, cursor = seen + step.recovered, step.cursor
        if not cursor:
            break
    assert seen == 25
    assert rig.pending() == 0


def test_prune_spares_the_living_and_the_holding(rig: Rig) -> None:
    def prune(own: list[str], alive: list[str]) -> int:
        return rig.run(transitions.prune(rig.keys, "c-1", own, alive))

    def consumers() -> set[bytes]:
        rows = rig.link.execute("XINFO", "CONSUMERS", rig.keys.stream("normal"), "millstream")
        return {row[1] for row in rows}

    rig.join(A, lease=0.0)
    rig.join(B, lease=0.0)
    rig.add("j", "k")
    (ref,), (other,) = rig.fetch(1, A), rig.fetch(1, B)
    rig.settle(other, Kind.COMPLETED, job_id="k", consumer=B)
    prune([], ["b-000001"])
    assert consumers() == {A.encode(), B.encode()}, "one holds a job, the other is alive"
    wait_until(lambda: prune([], []), 2.0, "the lease of 0 s is over")
    wait_until(lambda: consumers() == {A.encode()}, 2.0)
    assert rig.link.execute("HKEYS", rig.keys.owners) == [b"a-000001"]
    rig.settle(ref, Kind.COMPLETED)
    wait_until(lambda: prune([], []), 2.0)
    assert consumers() == set()
    assert rig.link.execute("HLEN", rig.keys.owners) == 0


# Cancelling.


def test_cancel_says_what_it_found(rig: Rig) -> None:
    ref = rig.take("running")
    rig.add("waiting")
    rig.add("later", delay=60_000)
    assert rig.run(transitions.cancel(rig.keys, "nobody")) == ("absent", "")
    assert rig.run(transitions.cancel(rig.keys, "waiting")) == ("ok", "queued")
    assert rig.run(transitions.cancel(rig.keys, "later")) == ("ok", "scheduled")
    assert rig.run(transitions.cancel(rig.keys, "running")) == ("running", "running")
    rig.settle(ref, Kind.COMPLETED, job_id="running")
    assert rig.run(transitions.cancel(rig.keys, "running")) == ("ended", "completed")
    assert rig.lengths() == {}
    assert rig.link.execute("ZCARD", rig.keys.due) == 0
    assert 0 < rig.ttl("waiting") <= 86_400_000


def test_a_held_job_can_be_cancelled(rig: Rig) -> None:
    rig.run(control.pause(rig.keys))
    rig.add("j")
    assert rig.run(transitions.cancel(rig.keys, "j")) == ("ok", "queued")
    assert rig.link.execute("XLEN", rig.keys.held) == 0


MOVES = {
    "retried": lambda rig, ref: rig.settle(ref, Kind.RETRY, 1000),
    "crashed": lambda rig, ref: rig.settle(ref, Kind.CRASH, 0),
    "released": lambda rig, ref: rig.settle(ref, Kind.RELEASE, 0),
    "given back": lambda rig, ref: rig.run(transitions.give_back(rig.keys, A, [ref])),
    "retired": lambda rig, ref: rig.run(transitions.retire(rig.keys, A, delete=False)),
    "recovered": lambda rig, ref: rig.recover(gone="a-000001"),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_cancellation_that_was_accepted_outlives_every_move(rig: Rig, move: str) -> None:
    ref = rig.take("j")
    rig.run(transitions.await_end(rig.keys, "j", 1))
    assert rig.run(transitions.cancel(rig.keys, "j"))[0] == "running"
    MOVES[move](rig, ref)
    assert rig.state() == "cancelled"
    assert (rig.pending(), rig.lengths()) == (0, {})
    assert rig.link.execute("ZCARD", rig.keys.due) == 0
    assert 0 < rig.ttl() <= 86_400_000
    assert rig.counters()["cancelled"] == 1
    assert rig.link.execute("LLEN", rig.keys.waits + "j") == 1, "who waits is woken"


def test_a_cancellation_does_not_outlive_a_dead_letter(rig: Rig) -> None:
    ref = rig.take("j")
    rig.run(transitions.cancel(rig.keys, "j"))
    assert rig.settle(ref, Kind.DEAD, 0) is Verdict.OK
    assert rig.run(control.dead_retry(rig.keys, ["j"])) == [control.Retried.QUEUED]
    assert rig.state() == "queued"


# Names of supervisors.


def test_a_live_name_is_not_given_twice(rig: Rig, prefix: str) -> None:
    keys = Keys(prefix)

    def host(instance: str, what: str, *, lease: float = 30.0, gone: str = "") -> bytes:
        beat = b'{"instance":"%b","lease":%d}' % (instance.encode(), lease)
        return rig.run(transitions.host(keys, "name", instance, what, beat, gone))

    assert host("n-1", "claim") == b""
    assert b'"n-1"' in host("n-2", "claim")
    assert b'"n-1"' in host("n-2", "beat"), "nobody takes a name by beating"
    assert host("n-1", "beat") == b""
    assert host("n-2", "claim", gone="n-1") == b"", "the holder is known to be dead"
    assert b'"n-2"' in host("n-1", "beat")
    host("n-1", "leave")
    assert b'"n-2"' in rig.link.execute("HGET", keys.hosts, "name"), "only the holder leaves"
    host("n-2", "leave")
    assert rig.link.execute("HEXISTS", keys.hosts, "name") == 0
    assert host("n-3", "claim", lease=0) == b""
    assert host("n-4", "claim") == b"", "the lease is over"
