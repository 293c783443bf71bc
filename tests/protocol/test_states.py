"""What stands where its job is not: left behind, or put there by a stranger. It moves no job, and stops no other."""

from __future__ import annotations

import pytest

from millstream.protocol import control, transitions
from millstream.protocol.control import Resuming
from millstream.protocol.states import FINAL, TABLE, State, Transition
from millstream.protocol.transitions import Kind, Verdict
from tests.protocol.rig import A, B, Rig

pytestmark = pytest.mark.leaves_jobs


def test_the_table_leaves_final_states_only_by_an_operator_or_by_time() -> None:
    left = {transition for state, transition in TABLE if state in FINAL}
    assert left == {Transition.REVIVE, Transition.DELETE, Transition.FORGET}


@pytest.mark.parametrize("kind", [Kind.DEAD, Kind.COMPLETED])
def test_a_final_job_in_due_is_not_promoted(rig: Rig, kind: Kind) -> None:
    rig.settle(rig.take("j"), kind, 60_000 if kind is Kind.COMPLETED else 0)
    rig.link.execute("ZADD", rig.keys.due, 0, "j")
    assert rig.run(transitions.promote(rig.keys)) == (0, -1, 0)
    assert (rig.state("j"), rig.lengths()) == (str(kind), {})


def test_a_purge_leaves_the_record_of_a_job_that_does_not_wait(rig: Rig) -> None:
    ref = rig.take("j")
    rig.link.execute("ZADD", rig.keys.due, 0, "j")
    rig.link.execute("SET", rig.keys.job("k"), "no record", "EX", 60)
    rig.link.execute("ZADD", rig.keys.due, 0, "k")
    rig.add("later", delay=60_000)
    assert rig.run(control.purge(rig.keys, due=True)).removed == 3
    assert (rig.state("later"), rig.state("j")) == (None, "queued")
    assert rig.settle(ref, Kind.COMPLETED) is Verdict.OK
    assert rig.state("j") == State.COMPLETED


def test_a_held_entry_of_an_unknown_band_does_not_stop_a_resume(rig: Rig) -> None:
    rig.run(control.pause(rig.keys))
    envelope = rig.new("stranger").envelope
    for band in ("", "zebra"):
        rig.link.execute("XADD", rig.keys.held, "*", "id", "stranger" + band, "env", envelope, "band", band)
    rig.add("j")
    assert control.resume_all(rig.link, rig.keys) == (Resuming.DONE, 3)
    assert rig.lengths() == {"n": 3}


@pytest.mark.parametrize("how", ["give back", "retire", "recover"])
def test_a_late_settle_of_a_job_that_was_cancelled_meanwhile_is_stale(rig: Rig, how: str) -> None:
    ref = rig.take("j")
    rig.run(transitions.cancel(rig.keys, "j"))
    if how == "give back":
        rig.run(transitions.give_back(rig.keys, A, [ref]))
    elif how == "retire":
        rig.run(transitions.retire(rig.keys, A, delete=True))
    else:
        rig.join(B)
        rig.recover(gone=A.partition(":")[0])
    assert rig.state("j") == State.CANCELLED
    assert rig.settle(ref, Kind.COMPLETED) is Verdict.STALE
    assert rig.counters()["stale"] == 1
