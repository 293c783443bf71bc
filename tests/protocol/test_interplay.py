"""Rules that meet: limits and keys, pauses and budgets, deadlines and hooks, retries of what waited somewhere."""

from __future__ import annotations

import orjson
import pytest

from millstream.protocol import control, ended, limits, transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.limits import checked_limit
from millstream.protocol.transitions import Fetched, Kind, NewJob, Outcome, Verdict
from tests.protocol.rig import A, Rig, refs_of

pytestmark = pytest.mark.leaves_jobs


def take(rig: Rig, count: int = 10) -> Fetched:
    return rig.run(transitions.take(rig.keys, A, count))


def gate(rig: Rig, concurrency: int | None = 5) -> None:
    rig.run(limits.set_limit(rig.keys, checked_limit(concurrency)))


def timed_out(rig: Rig, job_id: str = "j") -> None:
    """A job whose run was stopped for its time, counted apart: it is due at once."""
    ref = rig.take(job_id)
    assert rig.settle(ref, Kind.TIMEOUT, 0, job_id=job_id) is Verdict.OK


def test_what_was_held_with_counters_of_its_own_is_resumed_into_a_queue_with_rules(rig: Rig) -> None:
    timed_out(rig)
    rig.run(control.pause(rig.keys))
    assert rig.run(transitions.promote(rig.keys)).jobs == 1
    gate(rig)
    assert rig.run(control.resume(rig.keys)).moved == 1
    ((_, _, fields),) = take(rig).entries
    assert fields[fields.index(b"timeouts") + 1] == b"1"


def test_a_blocking_read_is_not_asked_for_before_all_of_a_paused_name_are_put_aside(rig: Rig) -> None:
    rig.join()
    rig.add(*(f"j{number}" for number in range(450)))
    rig.run(limits.pause_job(rig.keys, "work"))
    looks = 0
    while True:
        fetched = take(rig, 50)
        assert fetched.entries == []
        left = rig.link.execute("XLEN", rig.keys.stream("normal"))
        if not fetched.paused:
            break
        looks += 1
        assert looks < 10
    assert left == 0, "a blocking read would deliver them"
    assert looks > 0


def test_a_key_that_only_the_enqueue_knows_of_stops_nobody(rig: Rig) -> None:
    """An enqueue by another program, which left the key out of the envelope."""
    rig.join()
    envelope = encode_envelope("work", [], {}, queue="q", enqueued_at=1)
    jobs = [NewJob(job_id, "normal", envelope, None, "", {"key": "k", "places": 1}) for job_id in ("a", "b")]
    rig.run(transitions.enqueue(rig.keys, jobs))
    assert rig.run(transitions.cancel(rig.keys, "a"))[0] == "ok"
    rig.run(limits.tend(rig.keys))
    (ref,) = rig.fetch()
    assert rig.settle(ref, Kind.COMPLETED, job_id="b") is Verdict.OK


def test_a_job_that_was_cancelled_while_it_was_due_begins_anew_in_a_room_too(rig: Rig) -> None:
    timed_out(rig)
    assert rig.run(transitions.cancel(rig.keys, "j"))[0] == "ok"
    gate(rig)
    assert rig.run(ended.retry(rig.keys, ["j"])) == ["queued"]
    ((_, _, fields),) = take(rig).entries
    assert b"timeouts" not in fields


def test_a_dead_job_of_a_band_that_there_is_not_does_not_stop_the_retry_of_others(rig: Rig) -> None:
    rig.join()
    envelope = encode_envelope("work", [], {}, queue="q", enqueued_at=1)
    rig.link.execute("XADD", rig.keys.stream("normal"), "*", "id", "forged", "env", envelope, "band", "zebra")
    rig.add("j")
    forged, ours = rig.fetch()
    rig.settle(forged, Kind.DEAD, 0, job_id="forged")
    rig.settle(ours, Kind.DEAD, 0)
    assert rig.run(control.dead_retry(rig.keys, ["forged", "j"])) == [control.Retried.QUEUED] * 2
    assert len(rig.fetch()) == 2


@pytest.mark.parametrize("kind", [Kind.RETRY, Kind.TIMEOUT, Kind.CRASH])
def test_who_dies_of_his_deadline_is_told_of(rig: Rig, kind: Kind) -> None:
    rig.join()
    envelope = encode_envelope("work", [], {}, queue="q", enqueued_at=1, options={"expires": 60_000})
    rig.run(transitions.enqueue(rig.keys, [NewJob("j", "normal", envelope, None, "", {"expires": 60_000})]))
    (ref,) = rig.fetch()
    outcome = Outcome(ref, "j", kind, 3_600_000, orjson.dumps({"n": "work", "h": 1}))
    rig.run(transitions.settle(rig.keys, A, [outcome]))
    assert rig.state("j") == "dead"
    assert len(refs_of(rig.run(transitions.fetch(rig.keys, A, 10)))) == 1
