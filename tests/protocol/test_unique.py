"""Unique jobs by script calls: who holds a key, and when another may have it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from millstream.protocol import control, ended, transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.link import Link
from millstream.protocol.transitions import Kind, NewJob, Placed
from tests.protocol.rig import A, Rig

pytestmark = pytest.mark.leaves_jobs


def new(rig: Rig, job_id: str, *, delay: int | None = None, nonce: str = "", **extras: Any) -> NewJob:
    """A job with extras; by default unique, for a minute."""
    options: Mapping[str, Any] = extras or {"unique": "k", "unique_for": 60_000, "until": "finished"}
    marks = {"unique": options.get("until", "finished")} if "unique" in options else {}
    marks |= {"expires": 1} if "expires" in options else {}
    envelope = encode_envelope("work", [job_id], {}, queue="q", enqueued_at=1_700_000_000_000, options=marks)
    return NewJob(job_id, "normal", envelope, delay, nonce, options)


def add(rig: Rig, *jobs: NewJob) -> list[Placed]:
    return rig.run(transitions.enqueue(rig.keys, jobs))


def take_over(rig: Rig, job_id: str, **how: Any) -> bool:
    """Whether another job gets the key now."""
    return add(rig, new(rig, job_id, **how)) == [True]


def ttl(rig: Rig, key: str = "k") -> int:
    return int(rig.link.execute("PTTL", rig.keys.uniques + key))


def test_the_second_one_is_told_who_holds_the_key(rig: Rig) -> None:
    assert add(rig, new(rig, "first"), new(rig, "second")) == [True, "first"], "in one call"
    assert add(rig, new(rig, "third")) == ["first"], "and in another"
    assert rig.state("second") is None, "nothing was enqueued"
    assert rig.lengths() == {"n": 1}
    assert 0 < ttl(rig) <= 60_000


def test_another_key_is_another_job(rig: Rig) -> None:
    assert add(rig, new(rig, "x"), new(rig, "y", unique="other", unique_for=60_000)) == [True, True]


def test_plain_and_unique_jobs_in_one_call(rig: Rig) -> None:
    mixed = [rig.new("a"), new(rig, "b"), rig.new("c", delay=60_000), new(rig, "d"), rig.new("e", nonce="n")]
    assert add(rig, *mixed) == [True, True, True, "b", True]
    assert rig.lengths() == {"n": 3}


def test_a_lost_reply_finds_itself(rig: Rig) -> None:
    """With a generated id 0 stands for that, as for a plain job; a caller's id has its nonce."""
    assert add(rig, new(rig, "x")) == [True]
    assert add(rig, new(rig, "x")) == [False]
    assert add(rig, new(rig, "own", nonce="n", unique="k2", unique_for=60_000)) == [True]
    assert add(rig, new(rig, "own", nonce="n", unique="k2", unique_for=60_000)) == [True]
    assert add(rig, new(rig, "own", nonce="m", unique="k2", unique_for=60_000)) == [False]
    assert rig.lengths() == {"n": 2}


def test_one_of_many_at_once(rig: Rig, url: str) -> None:
    placed: list[Placed] = []

    def producer(number: int) -> None:
        link = Link(url)
        for turn in range(20):
            placed.append(link.run(transitions.enqueue(rig.keys, [new(rig, f"{number}.{turn}")]))[0])
        link.close()

    threads = [threading.Thread(target=producer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = {one for one in placed if isinstance(one, str)}
    assert (placed.count(True), len(placed), rig.lengths()) == (1, 80, {"n": 1})
    assert rig.state(winner) == "queued"


def test_the_end_of_the_holder_frees_the_key(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j"))
    (ref,) = rig.fetch()
    assert not take_over(rig, "early")
    outcome = transitions.Outcome(ref, "j", Kind.COMPLETED, 60_000, b"{}", holds=True)
    rig.run(transitions.settle(rig.keys, A, [outcome]))
    assert take_over(rig, "later")


def test_a_delayed_job_holds_its_key_from_the_enqueue_on_and_so_much_longer(rig: Rig) -> None:
    add(rig, new(rig, "j", delay=30_000))
    assert 60_000 < ttl(rig) <= 90_000
    assert not take_over(rig, "another")


@pytest.mark.parametrize("state", ["completed", "dead", "cancelled", "expired", "discarded", None])
def test_a_holder_that_has_ended_or_has_no_record_does_not_count(rig: Rig, state: str | None) -> None:
    """Its end was settled by a version that knew no keys, or its record was deleted by hand."""
    add(rig, new(rig, "j"))
    if state is None:
        rig.link.execute("DEL", rig.keys.job("j"))
    else:
        rig.link.execute("HSET", rig.keys.job("j"), "state", state)
    assert take_over(rig, "another")


def test_what_is_no_lock_does_not_count(rig: Rig) -> None:
    rig.link.execute("LPUSH", rig.keys.uniques + "k", "garbage")
    assert take_over(rig, "j")
    assert 0 < ttl(rig) <= 60_000


def test_a_flushed_server_holds_nothing(rig: Rig) -> None:
    add(rig, new(rig, "j"))
    rig.link.execute("FLUSHALL")
    assert take_over(rig, "j")


def test_a_lock_ends_by_itself(rig: Rig) -> None:
    """Whatever becomes of its holder."""
    add(rig, new(rig, "j", unique="k", unique_for=1))
    rig.link.execute("PEXPIRE", rig.keys.uniques + "k", 0)
    assert take_over(rig, "another")


@pytest.mark.parametrize(
    "extras",
    [
        {"unique": "", "unique_for": 1},
        {"unique": "k" * 201, "unique_for": 1},
        {"unique": 5, "unique_for": 1},
        {"unique": "k"},
        {"unique": "k", "unique_for": 0},
        {"unique": "k", "unique_for": "1"},
        {"unique": "k", "unique_for": 1e17},
        {"expires": 0},
        {"expires": None},
        {"expires": "soon"},
        {"nonce": 1, "expires": 5},
    ],
)
def test_extras_that_cannot_be_meant_enqueue_nothing(rig: Rig, extras: dict[str, Any]) -> None:
    wrong = NewJob("wrong", "normal", b'{"v":1,"n":"work","q":"q","t":1}', None, "", extras)
    with pytest.raises(Exception, match="the extras of job wrong are not valid"):
        add(rig, rig.new("before"), wrong)
    assert rig.lengths() == {}


def test_a_nonce_may_look_like_extras(rig: Rig) -> None:
    assert rig.add("x", nonce="{5f0c2a") == [True]
    assert rig.add("x", nonce="{5f0c2a") == [True], "the same call"
    assert rig.add("x", nonce="{other") == [False]


# Dead jobs that are retried.


def bury(rig: Rig, job_id: str) -> None:
    (ref,) = rig.fetch()
    rig.settle(ref, Kind.DEAD, 0, job_id=job_id)


def test_a_dead_job_that_is_retried_takes_its_key_again(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j"))
    bury(rig, "j")
    assert rig.run(control.dead_retry(rig.keys, ["j"])) == [control.Retried.QUEUED]
    assert 0 < ttl(rig) <= 60_000
    assert add(rig, new(rig, "another")) == ["j"]


def test_a_dead_job_stays_dead_while_another_has_its_key(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j"))
    bury(rig, "j")
    add(rig, new(rig, "holder"))
    assert rig.run(control.dead_retry(rig.keys, ["j"])) == [control.Held("holder")]
    assert rig.state("j") == "dead"
    bury(rig, "holder")
    retried = rig.run(control.dead_retry(rig.keys, ["j", "holder"]))
    assert retried == [control.Retried.QUEUED, control.Held("j")], "one of a key at a time"


# Held until the start.


def begin(rig: Rig, ref: str, job_id: str = "j", *, alone: bool = False) -> str:
    return rig.run(transitions.begin(rig.keys, job_id, ref, A, alone=alone)).word


def test_a_key_that_is_held_until_the_start(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j", unique="k", unique_for=60_000, until="started"))
    (ref,) = rig.fetch()
    assert not take_over(rig, "early")
    assert begin(rig, ref) == "ok"
    assert take_over(rig, "later")
    assert begin(rig, ref) == "ok", "the reply was lost: what another holds now is not touched"
    assert add(rig, new(rig, "third")) == ["later"]


def test_a_delivery_that_was_taken_frees_nothing(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j", unique="k", unique_for=60_000, until="started"))
    (ref,) = rig.fetch()
    rig.run(transitions.give_back(rig.keys, A, [ref]))
    assert begin(rig, ref) == "stale"
    assert not take_over(rig, "another")


def test_an_entry_that_carries_the_id_of_another_job_frees_nothing(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j", delay=60_000, unique="k", unique_for=60_000, until="started"))
    rig.link.execute("XADD", rig.keys.stream("normal"), "*", "id", "j", "env", "{}")
    (ref,) = rig.fetch()
    assert begin(rig, ref) == "ok"
    assert not take_over(rig, "another")


# Expiry.


def late(rig: Rig, job_id: str = "j") -> None:
    """Let a job's time be over."""
    rig.link.execute("HSET", rig.keys.job(job_id), "expires", 1)


def test_a_job_whose_time_is_over_is_not_started(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j", expires=60_000))
    (ref,) = rig.fetch()
    begun = rig.run(transitions.begin(rig.keys, "j", ref, A, alone=False))
    assert (begun.word, begun.expires) == ("ok", int(rig.record()["expires"]))
    assert 0 < begun.expires - rig.inspect().now <= 60_000
    late(rig)
    assert begin(rig, ref, alone=True) == "expired"
    assert "started" not in rig.record()


@pytest.mark.parametrize(("kind", "number"), [(Kind.RETRY, 60_000), (Kind.CRASH, 60_000), (Kind.CRASH, 0)])
def test_nothing_is_retried_after_its_deadline(rig: Rig, kind: Kind, number: int) -> None:
    rig.join()
    add(rig, new(rig, "j", expires=30_000))
    (ref,) = rig.fetch()
    if not number:
        late(rig)
    rig.settle(ref, kind, number)
    assert rig.state() == "dead"
    assert rig.counters() == {"dead": 1}
    assert rig.record()["attempt"] == ("1" if kind is Kind.RETRY else "0")
    assert rig.settle(ref, kind, number) is transitions.Verdict.ALREADY


def test_what_is_due_before_the_deadline_is_retried(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j", expires=90_000))
    (ref,) = rig.fetch()
    rig.settle(ref, Kind.RETRY, 60_000)
    assert rig.state() == "retrying"


def test_an_operator_who_retries_a_dead_job_means_it(rig: Rig) -> None:
    rig.join()
    add(rig, new(rig, "j", expires=60_000))
    late(rig)
    bury(rig, "j")
    rig.run(control.dead_retry(rig.keys, ["j"]))
    (ref,) = rig.fetch()
    assert begin(rig, ref) == "ok"


def test_a_cancelled_job_that_is_retried_takes_its_key_again_and_has_no_deadline_any_more(rig: Rig) -> None:
    both: dict[str, Any] = {"unique": "k", "unique_for": 60_000, "expires": 60_000}
    add(rig, new(rig, "j", **both))
    rig.run(transitions.cancel(rig.keys, "j"))
    add(rig, new(rig, "holder"))
    assert rig.run(ended.retry(rig.keys, ["j"])) == ["held by holder"]
    assert rig.state("j") == "cancelled"
    rig.run(transitions.cancel(rig.keys, "holder"))
    assert rig.run(ended.retry(rig.keys, ["j"])) == ["queued"]
    assert "expires" not in rig.record("j")
    assert not take_over(rig, "another")
