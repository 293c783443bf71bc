"""How many jobs came into a queue: counted by the scripts, once each, by kind and name."""

from __future__ import annotations

import pytest

from millstream.protocol import control, transitions
from millstream.protocol.transitions import Kind, NewJob, Verdict
from tests.protocol.rig import A, Rig

pytestmark = pytest.mark.leaves_jobs

LIMIT = 1000
"""Fields after which new names are unknown ones; as in _enqueued.lua."""


def counts(rig: Rig) -> dict[str, int]:
    flat = rig.link.execute("HGETALL", rig.keys.enqueued)
    return {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def send(rig: Rig, *envelopes: str) -> list[transitions.Placed]:
    """Enqueue envelopes as they are."""
    jobs = [NewJob(f"sent{number}", "normal", text.encode(), None, "") for number, text in enumerate(envelopes)]
    return rig.run(transitions.enqueue(rig.keys, jobs))


def test_a_job_counts_once_however_often_it_is_sent(rig: Rig) -> None:
    rig.add("x", "y", nonce="n")
    rig.add("x", nonce="n")  # the reply was lost
    rig.add("x", "y", nonce="other")
    rig.add("later", delay=1000)
    rig.add("later", delay=1000)
    assert counts(rig) == {"immediate:work": 2, "delayed:work": 1}


def test_what_is_held_by_a_pause_has_come(rig: Rig) -> None:
    rig.run(control.pause(rig.keys))
    rig.add("x")
    rig.run(control.resume(rig.keys))
    assert counts(rig) == {"immediate:work": 1}


def test_a_batch_counts_each_name_by_itself(rig: Rig) -> None:
    send(rig, *[f'{{"v":1,"n":"{name}","q":"q","t":1}}' for name in ("a", "b", "a")])
    assert counts(rig) == {"immediate:a": 2, "immediate:b": 1}


@pytest.mark.parametrize(
    ("envelope", "name"),
    [
        ('{"q": "q", "a": [{"n": "wrong"}], "n": "right", "v": 1, "t": 1}', "right"),
        ('{"q":"q","a":[{"n":"wrong"}],"n":"right","v":1,"t":1}', "right"),
        ('{ "v": 1, "n": "sp\\u0061ced", "q": "q", "t": 1 }', "spaced"),
        ('{"v":1,"n":"two words","q":"q","t":1}', "(unknown)"),
        ('{"v":1,"n":"' + 101 * "x" + '","q":"q","t":1}', "(unknown)"),
        ('{"v":1,"n":["list"],"q":"q","t":1}', "(unknown)"),
        ('["n"]', "(unknown)"),
        ("no JSON", "(unknown)"),
        ("", "(unknown)"),
    ],
)
def test_names_of_envelopes_from_elsewhere(rig: Rig, envelope: str, name: str) -> None:
    assert send(rig, envelope) == [True]
    assert counts(rig) == {f"immediate:{name}": 1}


def test_too_many_names_are_unknown_ones(rig: Rig) -> None:
    rig.link.execute(
        "HSET", rig.keys.enqueued, *(part for number in range(LIMIT) for part in (f"immediate:n{number}", 1))
    )
    rig.add("x", "y")
    rig.add("later", delay=1000)
    send(rig, '{"v":1,"n":"n7","q":"q","t":1}')
    found = counts(rig)
    assert len(found) == LIMIT + 2
    assert found["immediate:(unknown)"] == 2 and found["delayed:(unknown)"] == 1 and found["immediate:n7"] == 2


def test_a_count_that_fails_fails_no_job(rig: Rig) -> None:
    rig.link.execute("SET", rig.keys.enqueued, "not a hash")
    assert rig.add("x", nonce="n") == [True]
    assert rig.add("x", nonce="n") == [True]
    rig.join()
    (ref,) = rig.fetch()
    assert rig.settle(ref, Kind.RETRY, job_id="x") is Verdict.OK
    rig.link.execute("DEL", rig.keys.enqueued)


def test_producers_of_nine_keys_may_still_come(rig: Rig) -> None:
    call = transitions.enqueue(rig.keys, [rig.new("x")])
    reply = rig.link.execute("EVAL", call.script.text, 9, *call.keys[:9], *call.args)
    assert reply == [1]
    assert rig.lengths() == {"n": 1}


@pytest.mark.parametrize(
    ("kind", "number", "retries"),
    [
        (Kind.RETRY, 1000, 1),
        (Kind.CRASH, 0, 1),
        (Kind.CRASH, 1000, 1),
        (Kind.RELEASE, 0, 0),
        (Kind.RELEASE, 1000, 0),
        (Kind.UNKNOWN, 1000, 0),
        (Kind.COMPLETED, 1000, 0),
        (Kind.DEAD, 0, 0),
    ],
)
def test_retries_are_what_counted_runs_come_back_as(rig: Rig, kind: Kind, number: int, retries: int) -> None:
    ref = rig.take()
    assert rig.settle(ref, kind, number) is Verdict.OK
    rig.settle(ref, kind, number)  # a replay
    assert counts(rig).get("retry:work", 0) == retries
    assert counts(rig)["immediate:work"] == 1


def test_a_cancelled_job_does_not_come_back(rig: Rig) -> None:
    ref = rig.take()
    assert rig.run(transitions.cancel(rig.keys, "j"))[0] == "running"
    assert rig.settle(ref, Kind.RETRY, 1000) is Verdict.OK
    assert rig.state() == "cancelled" and "retry:work" not in counts(rig)


def test_dead_jobs_come_back_as_retries(rig: Rig) -> None:
    ref = rig.take()
    rig.settle(ref, Kind.DEAD, 0)
    rig.run(control.dead_retry(rig.keys, ["j", "j"]))
    assert counts(rig)["retry:work"] == 1


def test_a_recovered_run_comes_back_as_a_retry_only_if_it_was_on(rig: Rig) -> None:
    ref = rig.take()
    rig.age(ref, 60_000)
    assert rig.recover("normal") == (1, 0)
    assert "retry:work" not in counts(rig)
    (ref,) = rig.fetch()
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True)).word == "ok"
    rig.age(ref, 60_000)
    assert rig.recover("again") == (1, 0)
    assert counts(rig)["retry:work"] == 1
