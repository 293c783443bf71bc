"""Concurrency keys: how many jobs of one key run at once, whoever comes, fails, crashes or is cancelled."""

from __future__ import annotations

from typing import Any

import pytest

from millstream import Millstream
from millstream.protocol import control, limits, transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.errors import InvalidJob, MillstreamError
from millstream.protocol.transitions import Kind, NewJob, Outcome, Verdict
from tests.protocol.rig import A, B, Rig
from tests.support.waiting import wait_until

pytestmark = pytest.mark.leaves_jobs


def add(rig: Rig, *ids: str, key: str = "k", places: int = 1, name: str = "work", **more: Any) -> None:
    """Enqueue jobs of one key; *more*: band and delay."""
    jobs = []
    for job_id in ids:
        band = more.get("band", "normal")
        options = {"key": key}
        envelope = encode_envelope(name, [], {}, queue="q", enqueued_at=1, priority=band, options=options)
        extras = {"key": key, "places": places}
        jobs.append(NewJob(job_id, band, envelope, more.get("delay"), "", extras))
    created = rig.run(transitions.enqueue(rig.keys, jobs))
    assert created == [True] * len(jobs)


def ready(rig: Rig, consumer: str = A) -> dict[str, str]:
    """Deliver what may run: id and reference of each."""
    found = {}
    fetched = rig.run(transitions.fetch(rig.keys, consumer, 50))
    for letter, entry, fields in fetched.entries:
        found[fields[1].decode()] = letter + entry.decode()
    return found


def settle(rig: Rig, job_id: str, ref: str, kind: Kind = Kind.COMPLETED, number: int = 60_000) -> Verdict:
    """End a run, as the worker does of a job that holds something."""
    outcome = Outcome(ref, job_id, kind, number, b"{}", holds=True)
    return rig.run(transitions.settle(rig.keys, A, [outcome]))[0][0]


def holders(rig: Rig, key: str = "k") -> set[str]:
    return {member.decode() for member in rig.link.execute("SMEMBERS", rig.keys.places + key)}


def nothing_is_held(rig: Rig, key: str = "k") -> None:
    names = (rig.keys.places + key, rig.keys.room(f"key:{key}"), rig.keys.parked, rig.keys.crowded)
    assert rig.link.execute("EXISTS", *names) == 0


def test_one_runs_the_others_wait_and_nobody_else_waits_for_them(rig: Rig) -> None:
    rig.join()
    add(rig, "a", "b", "c")
    add(rig, "other", key="l")
    rig.add("plain")
    running = ready(rig)
    assert set(running) == {"a", "other", "plain"}
    assert settle(rig, "a", running["a"]) is Verdict.OK
    assert settle(rig, "a", running["a"]) is Verdict.ALREADY
    (following,) = ready(rig).items()
    assert (following[0], holders(rig)) == ("b", {"b"})
    assert settle(rig, *following) is Verdict.OK
    (last,) = ready(rig).items()
    settle(rig, *last)
    nothing_is_held(rig)


def test_several_places_and_higher_bands_first(rig: Rig) -> None:
    rig.join()
    add(rig, "a", "b", "c", places=2)
    add(rig, "urgent", places=2, band="critical")
    running = ready(rig)
    assert set(running) == {"a", "b"}
    settle(rig, "b", running["b"])
    settle(rig, "a", running["a"])
    assert set(ready(rig)) == {"urgent", "c"}


def test_nobody_overtakes_who_waits_also_where_he_would_find_a_place(rig: Rig) -> None:
    """Each job says how many there may be where it runs."""
    rig.join()
    add(rig, "a", "b")
    add(rig, "c", places=2)
    running = ready(rig)
    assert set(running) == {"a"}
    settle(rig, "a", running["a"])
    assert set(ready(rig)) == {"b", "c"}


@pytest.mark.parametrize("kind", [*transitions.ENDS, Kind.DEAD, Kind.CRASHED])
def test_every_end_gives_the_place_on(rig: Rig, kind: Kind) -> None:
    rig.join()
    add(rig, "a", "b")
    assert settle(rig, "a", ready(rig)["a"], kind, 0 if kind in (Kind.DEAD, Kind.CRASHED) else 1000) is Verdict.OK
    assert holders(rig) == {"b"}
    assert set(ready(rig)) == {"b"}


@pytest.mark.parametrize("kind", [Kind.RETRY, Kind.RELEASE, Kind.CRASH, Kind.UNKNOWN])
def test_who_comes_later_again_gives_the_place_up_meanwhile(rig: Rig, kind: Kind) -> None:
    rig.join()
    add(rig, "a", "b")
    assert settle(rig, "a", ready(rig)["a"], kind, 1) is Verdict.OK
    running = ready(rig)
    assert (set(running), holders(rig)) == ({"b"}, {"b"})
    wait_until(lambda: rig.run(transitions.promote(rig.keys)).jobs)
    assert not ready(rig), "it waits for its place"
    settle(rig, "b", running["b"])
    assert set(ready(rig)) == {"a"}


@pytest.mark.parametrize("kind", [Kind.RELEASE, Kind.CRASH])
def test_who_comes_back_at_once_keeps_the_place(rig: Rig, kind: Kind) -> None:
    rig.join()
    add(rig, "a", "b")
    assert settle(rig, "a", ready(rig)["a"], kind, 0) is Verdict.OK
    assert (set(ready(rig)), holders(rig)) == ({"a"}, {"a"})


def test_a_job_whose_host_has_vanished_keeps_its_place(rig: Rig) -> None:
    rig.join(A, lease=1.0)
    rig.join(B)
    add(rig, "a", "b")
    ref = ready(rig)["a"]
    rig.age(ref, 2_000)
    assert rig.recover() == (1, 0)
    assert (set(ready(rig, B)), holders(rig)) == ({"a"}, {"a"})


def test_a_cancelled_job_gives_its_place_on(rig: Rig) -> None:
    rig.join()
    add(rig, "a", "b", "c", "d")
    assert rig.run(transitions.cancel(rig.keys, "a")) == ("ok", "queued")
    assert rig.run(transitions.cancel(rig.keys, "c")) == ("ok", "queued"), "it waits for its place"
    (running,) = ready(rig).items()
    assert running[0] == "b"
    assert rig.run(transitions.cancel(rig.keys, "b")) == ("running", "running")
    assert settle(rig, *running, Kind.RETRY, 10_000) is Verdict.OK, "it ends instead of being retried"
    assert rig.state("b") == "cancelled"
    assert set(ready(rig)) == {"d"}


def test_delayed_jobs_take_their_places_when_their_time_comes(rig: Rig) -> None:
    rig.join()
    add(rig, "a", "b", delay=1)
    assert holders(rig) == set()
    wait_until(lambda: rig.run(transitions.promote(rig.keys)).wait == -1)
    assert set(ready(rig)) == {"a"}


def test_with_a_limit_a_paused_queue_and_a_paused_name(rig: Rig) -> None:
    rig.join()
    rig.run(limits.set_limit(rig.keys, limits.checked_limit(1)))
    add(rig, "a", "b")
    add(rig, "x", key="l")
    take = transitions.take(rig.keys, A, 10)
    (first,) = rig.run(take).entries
    rig.run(control.pause(rig.keys))
    add(rig, "c", key="m")
    rig.run(limits.pause_job(rig.keys, "work"))
    assert settle(rig, "a", first[0] + first[1].decode()) is Verdict.OK
    assert holders(rig) == set(), "who may not run keeps no place"
    control.resume_all(rig.link, rig.keys)
    assert not rig.run(take).entries
    assert limits.resume_whole_job(rig.link, rig.keys, "work").moved >= 2
    seen = []
    while entries := rig.run(take).entries:
        ((letter, entry, fields),) = entries
        seen.append(fields[1].decode())
        settle(rig, seen[-1], letter + entry.decode())
    assert sorted(seen) == ["b", "c", "x"]
    for key in "klm":
        nothing_is_held(rig, key)


def test_a_purge_leaves_no_place_behind(rig: Rig) -> None:
    rig.join()
    add(rig, *(f"j{number}" for number in range(10)))
    running = ready(rig)
    add(rig, "later", delay=60_000)
    while rig.run(control.purge(rig.keys, due=True, count=3)).more:
        pass
    assert holders(rig) == set(running) == {"j0"}
    settle(rig, "j0", running["j0"])
    nothing_is_held(rig)


def test_a_purge_counts_whoever_gets_a_place_meanwhile_once(rig: Rig) -> None:
    rig.join()
    rig.run(limits.set_limit(rig.keys, limits.Limit(1)))
    add(rig, "first")
    rig.run(control.pause(rig.keys))
    add(rig, "second")
    assert rig.run(control.purge(rig.keys)) == (2, False)
    assert (rig.state("first"), rig.state("second"), rig.counters()) == (None, None, {"purged": 2})
    nothing_is_held(rig)


def test_a_dead_job_that_is_retried_waits_for_its_place(rig: Rig) -> None:
    rig.join()
    add(rig, "a", "b")
    settle(rig, "a", ready(rig)["a"], Kind.DEAD, 0)
    running = ready(rig)
    assert rig.run(control.dead_retry(rig.keys, ["a"])) == [control.Retried.QUEUED]
    assert not ready(rig)
    settle(rig, "b", running["b"])
    assert set(ready(rig)) == {"a"}


def test_maintenance_frees_a_place_whose_job_ended_without_saying_so(rig: Rig) -> None:
    """A worker of an older version ends it, or its record is lost."""
    rig.join()
    add(rig, "a", "b", "c", "d", places=2)
    running = ready(rig)
    rig.settle(running["a"], Kind.COMPLETED, job_id="a")
    rig.link.execute("DEL", rig.keys.job("b"))
    assert not ready(rig)
    assert rig.run(limits.tend(rig.keys)) == ("0", 2, False)
    assert set(ready(rig)) == {"c", "d"}
    assert rig.run(limits.tend(rig.keys)) == ("0", 0, False)


def test_many_of_a_paused_name_before_one_that_may_run(rig: Rig) -> None:
    """More than one step passes over; maintenance goes on."""
    rig.join()
    add(rig, "a")
    add(rig, *(f"j{number}" for number in range(250)), name="bad")
    add(rig, "last")
    running = ready(rig)
    rig.run(limits.pause_job(rig.keys, "bad"))
    settle(rig, "a", running["a"])
    for _ in range(3):
        rig.run(limits.tend(rig.keys))
    assert [fields[1] for _, _, fields in rig.run(transitions.take(rig.keys, A, 9)).entries] == [b"last"]


@pytest.mark.parametrize(
    "extras", [{"key": 7}, {"key": ""}, {"key": "x" * 201}, {"key": "k", "places": "1"}, {"key": "k", "places": 0}]
)
def test_extras_that_cannot_be_meant_are_refused_as_a_whole(rig: Rig, extras: dict[str, Any]) -> None:
    jobs = [rig.new("good"), rig.new("bad")._replace(extras={"places": 1, **extras})]
    with pytest.raises(MillstreamError, match="the extras of job bad are not valid"):
        rig.run(transitions.enqueue(rig.keys, jobs))
    assert rig.state("good") is None


def test_a_forged_envelope_takes_no_place_and_frees_none(rig: Rig) -> None:
    rig.join()
    add(rig, "a", "b")
    running = ready(rig)
    for number, key in enumerate([7, ["k"], {"k": 1}, "k", "x" * 1_000_000]):
        envelope = encode_envelope("work", [], {}, queue="q", enqueued_at=1, options={"key": key})
        rig.run(transitions.enqueue(rig.keys, [NewJob(f"f{number}", "normal", envelope, None, "")]))
    forged = ready(rig)
    assert len(forged) == 5
    for job_id, ref in forged.items():
        assert settle(rig, job_id, ref, Kind.RETRY if job_id == "f4" else Kind.COMPLETED, 1000) is Verdict.OK
    assert holders(rig) == set(running) == {"a"}


class TestOptions:
    @pytest.fixture
    def app(self) -> Millstream:
        return Millstream(redis_url="redis://nowhere")

    def test_a_key_is_a_text_or_made_of_the_arguments(self, app: Millstream) -> None:
        @app.job(concurrency_key=lambda user, n=0: f"user-{user}", concurrency=2)
        def work(user: int, n: int = 0) -> None: ...

        assert work.job(7, n=3).seat == ("user-7", 2)
        assert work.using(concurrency_key="all").job(7).seat == ("all", 1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"concurrency": 2}, "concurrency is about a key"),
            ({"concurrency_key": "k", "concurrency": 0}, "concurrency 0 is not valid"),
            ({"concurrency_key": "k", "concurrency": True}, "concurrency True is not valid"),
            ({"concurrency_key": ""}, "use a text of 1 to 200 bytes"),
            ({"concurrency_key": "x" * 10**6}, "use a text of 1 to 200 bytes"),
            ({"concurrency_key": 7}, "use a text of 1 to 200 bytes"),
        ],
    )
    def test_what_is_no_key(self, app: Millstream, options: dict[str, Any], message: str) -> None:
        @app.job
        def work() -> None: ...

        with pytest.raises(InvalidJob, match=message) as refused:
            work.using(**options)
        assert len(str(refused.value)) < 200

    def test_a_function_that_gives_no_key(self, app: Millstream) -> None:
        @app.job(concurrency_key=lambda user: user)
        def work(user: int) -> None: ...

        with pytest.raises(InvalidJob, match="concurrency_key of job 'work' gave 7"):
            work.job(7)
