"""Jobs that have ended are enqueued again or deleted by an operator, and only those."""

from __future__ import annotations

import pytest

from millstream.protocol import control, ended, transitions
from millstream.protocol.info import State, job_info
from millstream.protocol.transitions import Kind, Verdict
from tests.protocol.rig import A, Rig


def run_of(rig: Rig, ref: str) -> int:
    """The number of the delivery that stands at *ref*."""
    fields = rig.inspect().entry
    assert rig.record()["entry"] == ref
    return int(fields.get("run", b"1"))


def test_a_job_that_was_cancelled_while_it_waited_runs_again(rig: Rig) -> None:
    first = rig.take()
    rig.run(transitions.give_back(rig.keys, A, [first]))
    assert rig.run(transitions.cancel(rig.keys, "j")) == ("ok", "queued")
    assert rig.run(ended.retry(rig.keys, ["j", "k"])) == ["queued", "absent"]
    assert rig.ttl() == -1
    (again,) = rig.fetch()
    assert run_of(rig, again) == 3, "delivered twice before, or about to be: no number is used twice"
    assert rig.settle(again, Kind.COMPLETED) is Verdict.OK


def test_one_that_was_cancelled_while_the_queue_was_paused(rig: Rig) -> None:
    rig.join()
    rig.run(control.pause(rig.keys))
    rig.add("j", band="high")
    rig.run(transitions.cancel(rig.keys, "j"))
    assert rig.run(ended.retry(rig.keys, ["j"])) == ["queued"]
    assert rig.record()["entry"].startswith("x")
    control.resume_all(rig.link, rig.keys)
    (ref,) = rig.fetch()
    assert ref.startswith("h")
    rig.settle(ref, Kind.COMPLETED)


@pytest.mark.parametrize("kind", [Kind.CANCELLED, Kind.EXPIRED])
def test_one_whose_run_was_settled_so(rig: Rig, kind: Kind) -> None:
    ref = rig.take()
    rig.settle(ref, kind)
    info = job_info("q", "j", rig.inspect())
    assert (str(info.state), info.args) == (str(kind), ["j"])
    assert rig.run(ended.retry(rig.keys, ["j"])) == ["queued"]
    (again,) = rig.fetch()
    assert run_of(rig, again) == 2
    assert rig.settle(ref, kind) is Verdict.STALE, "the earlier run has nothing to say any more"
    assert rig.state() == "queued"
    rig.settle(again, Kind.COMPLETED)


def test_one_that_was_cancelled_instead_of_being_retried(rig: Rig) -> None:
    ref = rig.take()
    rig.run(transitions.cancel(rig.keys, "j"))
    rig.settle(ref, Kind.RETRY)
    assert rig.state() == State.CANCELLED
    assert ended.retry_all(rig.link, rig.keys, ["j"]) == {"j": "queued"}
    (again,) = rig.fetch()
    assert run_of(rig, again) == 3
    rig.settle(again, Kind.COMPLETED)


def test_a_dead_one(rig: Rig) -> None:
    rig.settle(rig.take(), Kind.DEAD, 0)
    assert ended.retry_all(rig.link, rig.keys, ["j"]) == {"j": "queued"}
    (again,) = rig.fetch()
    rig.settle(again, Kind.COMPLETED)


def test_what_cannot_run_again(rig: Rig) -> None:
    rig.join()
    rig.add("done", "gone", "waits", "old")
    refs = rig.fetch(2)
    rig.settle(refs[0], Kind.COMPLETED, job_id="done")
    rig.settle(refs[1], Kind.DISCARDED, job_id="gone")
    rig.run(transitions.cancel(rig.keys, "old"))
    rig.link.execute("HDEL", rig.keys.job("old"), "env")
    words = ended.retry_all(rig.link, rig.keys, ["done", "gone", "waits", "old"])
    assert words == {"done": "completed", "gone": "discarded", "waits": "waiting", "old": "no payload"}
    assert rig.lengths() == {"n": 1}
    rig.settle(rig.fetch()[0], Kind.COMPLETED, job_id="waits")


def test_deleted_is_what_has_ended_and_nothing_else(rig: Rig) -> None:
    rig.join()
    rig.add("done", "dead", "runs", "waits")
    refs = rig.fetch(3)
    rig.settle(refs[0], Kind.COMPLETED, job_id="done")
    rig.settle(refs[1], Kind.DEAD, 0, job_id="dead")
    rig.add("later", delay=60_000)
    words = ended.delete_all(rig.link, rig.keys, ["done", "dead", "runs", "waits", "later", "done"])
    assert words == {"done": "absent", "dead": "deleted", "runs": "queued", "waits": "queued", "later": "scheduled"}
    assert [rig.state(one) for one in ("done", "dead", "runs", "waits", "later")] == [
        None,
        None,
        "queued",
        "queued",
        "scheduled",
    ]
    assert rig.link.execute("ZCARD", rig.keys.dead) == 0
    assert rig.add("done") == [True], "its id is free again"
    rig.settle(refs[2], Kind.COMPLETED, job_id="runs")
    for ref, one in zip(rig.fetch(), ("waits", "done"), strict=True):
        rig.settle(ref, Kind.COMPLETED, job_id=one)
    rig.link.execute("DEL", rig.keys.due, rig.keys.job("later"))
