"""The end of a run, kind by kind, and the fence: at most one delivery settles."""

from __future__ import annotations

import pytest

from millstream.protocol import control, transitions
from millstream.protocol.transitions import Kind, Outcome, Verdict
from tests.protocol.rig import A, B, Rig

pytestmark = pytest.mark.leaves_jobs

KINDS = {
    # kind: (number, state, stream or place of the next run, attempt, crashes)
    Kind.COMPLETED: (60_000, "completed", None, None, None),
    Kind.DISCARDED: (60_000, "discarded", None, None, None),
    Kind.CANCELLED: (60_000, "cancelled", None, None, None),
    Kind.EXPIRED: (60_000, "expired", None, None, None),
    Kind.DEAD: (0, "dead", None, "1", "0"),
    Kind.CRASHED: (0, "dead", None, "0", "1"),
    Kind.RETRY: (60_000, "retrying", "due", "1", "0"),
    Kind.TIMEOUT: (60_000, "retrying", "due", "0", "0"),
    Kind.MEMORY: (60_000, "retrying", "due", "0", "0"),
    Kind.CRASH: (60_000, "retrying", "due", "0", "1"),
    Kind.RELEASE: (60_000, "scheduled", "due", "0", "0"),
    Kind.UNKNOWN: (60_000, "scheduled", "due", "0", "0"),
}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_end(rig: Rig, kind: Kind) -> None:
    number, state, place, attempt, crashes = KINDS[kind]
    ref = rig.take("j")
    assert rig.settle(ref, kind, number) is Verdict.OK
    record = rig.record()
    assert (record["state"], record.get("attempt"), record.get("crashes")) == (state, attempt, crashes)
    assert (rig.pending(), rig.lengths()) == (0, {}), "acknowledged and deleted"
    assert rig.link.execute("ZCARD", rig.keys.due) == (1 if place == "due" else 0)
    assert rig.link.execute("ZCARD", rig.keys.dead) == (1 if state == "dead" else 0)
    if place == "due":
        assert rig.ttl() == -1
        assert record["run"] == "2"
    else:
        assert 0 < rig.ttl() <= (7 * 86_400_000 if state == "dead" else 60_000)
        assert rig.link.execute("LRANGE", rig.keys.history, 0, -1) == [b"j"]
    named = {Kind.CRASHED: "dead", Kind.TIMEOUT: "retry", Kind.MEMORY: "retry"}
    counted = named.get(kind, str(kind))
    assert rig.counters() == {counted: 1}


@pytest.mark.parametrize("kind", [Kind.CRASH, Kind.RELEASE])
def test_without_a_delay_the_next_run_comes_at_once(rig: Rig, kind: Kind) -> None:
    ref = rig.take("j")
    assert rig.settle(ref, kind, 0) is Verdict.OK
    assert rig.lengths() == {"a": 1}
    ((_, _, fields),) = rig.run(transitions.fetch(rig.keys, A, 5)).entries
    assert (b"alone" in fields) == (kind is Kind.CRASH), "a job that crashed runs alone"


@pytest.mark.parametrize("kind", list(Kind))
def test_a_replay_changes_nothing(rig: Rig, kind: Kind) -> None:
    """The reply was lost and the same settle comes again: it finds `already`."""
    number = KINDS[kind][0]
    ref = rig.take("j")
    assert rig.settle(ref, kind, number) is Verdict.OK
    before = (rig.record(), rig.counters())
    assert rig.settle(ref, kind, number) is Verdict.ALREADY
    assert (rig.record(), rig.counters()) == before


@pytest.mark.parametrize("kind", list(Kind))
def test_a_stale_settle_changes_nothing_and_is_counted(rig: Rig, kind: Kind) -> None:
    ref = rig.take("j")
    rig.run(transitions.give_back(rig.keys, A, [ref]))
    (new,) = rig.fetch(1, B)
    before = rig.record()
    assert rig.settle(ref, kind, KINDS[kind][0]) is Verdict.STALE
    assert rig.record() == before
    assert rig.counters() == {"release": 1, "stale": 1}
    assert rig.pending(B) == 1
    assert rig.settle(new, Kind.COMPLETED, consumer=B) is Verdict.OK
    assert rig.settle(ref, kind, KINDS[kind][0]) is Verdict.STALE
    assert rig.state() == "completed"


def test_only_the_consumer_that_holds_it_settles(rig: Rig) -> None:
    ref = rig.take("j")
    assert rig.settle(ref, Kind.COMPLETED, consumer=B) is Verdict.STALE
    assert rig.pending(A) == 1


def test_a_batch_settles_item_by_item(rig: Rig) -> None:
    rig.join()
    rig.add("x", "y", "z", "w")
    refs = rig.fetch(4)
    rig.settle(refs[1], Kind.COMPLETED, job_id="y")
    rig.run(transitions.give_back(rig.keys, A, [refs[2]]))
    kinds = {"x": Kind.COMPLETED, "y": Kind.COMPLETED, "z": Kind.COMPLETED, "w": "nonsense"}
    outcomes = [Outcome(ref, name, kind, 1000, b"{}") for ref, (name, kind) in zip(refs, kinds.items(), strict=True)]
    verdicts = rig.run(transitions.settle(rig.keys, A, outcomes))
    assert [verdict for verdict, _ in verdicts] == [Verdict.OK, Verdict.ALREADY, Verdict.STALE, Verdict.ERROR]
    assert "unknown kind nonsense" in verdicts[3][1]
    assert rig.pending(A) == 1, "what met an error is not acknowledged"
    assert rig.state("w") == "queued"


def test_a_broken_record_spoils_nobody_else(rig: Rig) -> None:
    """Lua does not roll back: an error amid a batch leaves the others settled and its own job where it was."""
    rig.join()
    rig.add("x", "y", "z")
    refs = rig.fetch(3)
    rig.link.execute("DEL", rig.keys.job("y"))
    rig.link.execute("SET", rig.keys.job("y"), "not a hash", "EX", 60)
    outcomes = [Outcome(ref, name, Kind.COMPLETED, 1000, b"{}") for ref, name in zip(refs, "xyz", strict=True)]
    verdicts = [verdict for verdict, _ in rig.run(transitions.settle(rig.keys, A, outcomes))]
    assert verdicts == [Verdict.OK, Verdict.ERROR, Verdict.OK]
    assert (rig.state("x"), rig.state("z"), rig.pending(A)) == ("completed", "completed", 1)


def test_an_unknown_job_is_dead_after_the_grace(rig: Rig) -> None:
    ref = rig.take("j")
    outcome = Outcome(ref, "j", Kind.UNKNOWN, 1, b"{}")
    assert rig.run(transitions.settle(rig.keys, A, [outcome], 0.0))[0][0] is Verdict.OK
    assert rig.state() == "dead"


def test_earlier_runs_are_kept_bounded(rig: Rig) -> None:
    ref = rig.take("j")
    row = b'{"c":"error","e":{"message":"' + b"x" * 60_000 + b'"}}'
    for _ in range(8):
        outcome = Outcome(ref, "j", Kind.RETRY, 1, row)
        assert rig.run(transitions.settle(rig.keys, A, [outcome]))[0][0] is Verdict.OK
        rig.link.execute("ZADD", rig.keys.due, 0, "j")
        assert rig.run(transitions.promote(rig.keys)) == (1, -1, 0)
        (ref,) = rig.fetch(1)
    assert len(rig.record()["tries"]) <= 262_144 + len(row)
    assert rig.record()["state"] == "queued"


def test_a_malformed_entry_keeps_no_payload_and_cannot_be_retried(rig: Rig) -> None:
    rig.join()
    rig.link.execute("XADD", rig.keys.stream("normal"), "*", "id", "j", "env", "garbage")
    (ref,) = rig.fetch(1)
    assert rig.settle(ref, Kind.DEAD, 1) is Verdict.OK
    assert "env" not in rig.record()
    assert rig.run(control.dead_retry(rig.keys, ["j"])) == [control.Retried.MALFORMED]


def test_garbage_with_the_id_of_a_job_does_not_touch_the_job(rig: Rig) -> None:
    rig.join()
    rig.add("j")
    rig.link.execute("XADD", rig.keys.stream("normal"), "*", "id", "j", "env", "garbage")
    real, garbage = rig.fetch(2)
    assert rig.settle(garbage, Kind.DEAD, 1) is Verdict.OK
    assert rig.state("j") == "queued"
    assert rig.settle(real, Kind.COMPLETED) is Verdict.OK
    assert rig.state("j") == "completed"
