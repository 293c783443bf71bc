"""Where jobs wait that may not run now: the gate of a queue with a limit, and the rooms of names that are paused."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest

from millstream.protocol import control, limits, transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.errors import InvalidJob
from millstream.protocol.export import purge_into
from millstream.protocol.info import State, job_info
from millstream.protocol.inspect import Survey, survey
from millstream.protocol.limits import Limit, Rate, checked_limit
from millstream.protocol.listing import Wanted, list_jobs
from millstream.protocol.transitions import Fetched, Kind, NewJob, Verdict
from tests.protocol.rig import A, B, Rig, refs_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.leaves_jobs


def limit(rig: Rig, concurrency: int | None = None, rate: str | None = None, burst: int | None = None) -> bool:
    return rig.run(limits.set_limit(rig.keys, checked_limit(concurrency, rate, burst)))


def taken(rig: Rig, count: int = 10, consumer: str = A) -> Fetched:
    return rig.run(transitions.take(rig.keys, consumer, count))


def take(rig: Rig, count: int = 10, consumer: str = A) -> list[str]:
    """References of what was delivered."""
    return refs_of(taken(rig, count, consumer))


def ids(rig: Rig, refs: list[str]) -> list[str]:
    found = []
    for ref in refs:
        stream = next(name for name in rig.keys.streams if name.rpartition(":")[2][0] == ref[0])
        found.append(rig.link.execute("XRANGE", stream, ref[1:], ref[1:])[0][1][1].decode())
    return found


def named(rig: Rig, job_id: str, name: str, band: str = "normal", delay: int | None = None) -> None:
    envelope = encode_envelope(name, [], {}, queue="q", enqueued_at=1_700_000_000_000, priority=band)
    assert rig.run(transitions.enqueue(rig.keys, [NewJob(job_id, band, envelope, delay, "")])) == [True]


def counted(rig: Rig) -> Survey:
    return rig.run(survey(rig.keys))


def nobody_waits(rig: Rig) -> None:
    assert rig.link.execute("EXISTS", rig.keys.parked, rig.keys.crowded, rig.keys.room("gate")) == 0


class TestGate:
    def test_no_more_are_delivered_than_may_run(self, rig: Rig) -> None:
        rig.join(A)
        rig.join(B)
        assert limit(rig, 2)
        rig.add(*(f"j{number}" for number in range(5)))
        first, second = take(rig), take(rig, consumer=B)
        assert (len(first), len(second)) == (1, 1), "one at a time: what is delivered has its place"
        assert take(rig) == take(rig, consumer=B) == []
        assert (counted(rig).running, counted(rig).gated, counted(rig).waiting) == (2, 3, 3)
        assert rig.settle(first[0], Kind.COMPLETED, job_id="j0") is Verdict.OK
        assert ids(rig, take(rig, consumer=B)) == ["j2"]
        assert take(rig) == []

    def test_a_plain_fetch_and_a_blocking_read_find_nothing(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("j")
        fetched = rig.run(transitions.fetch(rig.keys, A, 10))
        assert (fetched.entries, fetched.ruled, fetched.paused) == ([], True, True)
        head = ("XREADGROUP", "GROUP", "millstream", A, "COUNT", 5, "STREAMS")
        assert rig.link.execute(*head, *rig.keys.streams, *">>>>>") is None

    def test_bands_are_strict_and_what_stood_in_the_streams_goes_first(self, rig: Rig) -> None:
        rig.join()
        rig.add("n0", band="normal")
        limit(rig, 1)
        for band in ("low", "normal", "critical", "high"):
            rig.add(f"{band[0]}1", f"{band[0]}2", band=band)
        order = []
        while refs := take(rig):
            order += ids(rig, refs)
            rig.settle(refs[0], Kind.COMPLETED, job_id=order[-1])
        assert order == ["c1", "c2", "h1", "h2", "n0", "n1", "n2", "l1", "l2"]
        nobody_waits(rig)

    def test_a_recovered_job_goes_first_and_its_place_is_not_given_away_twice(self, rig: Rig) -> None:
        rig.join(A, lease=1.0)
        rig.join(B)
        limit(rig, 1)
        rig.add("j", "k", "l")
        (ref,) = take(rig)
        assert take(rig, consumer=B) == []
        rig.age(ref, 2_000)
        assert rig.recover() == (1, 0)
        assert rig.pending() == 0
        (again,) = take(rig, consumer=B)
        assert (again[0], ids(rig, [again])) == ("a", ["j"])
        assert take(rig) == [], "nothing beside what runs"
        entry = rig.inspect("j").entry
        assert (entry["run"], entry["alone"]) == (b"2", b"1"), "as it would be without a limit"
        assert rig.settle(ref, Kind.COMPLETED, job_id="j") is Verdict.STALE
        assert rig.settle(again, Kind.COMPLETED, job_id="j", consumer=B) is Verdict.OK
        assert ids(rig, take(rig)) == ["k"]

    @pytest.mark.parametrize("kind", [Kind.RELEASE, Kind.CRASH])
    def test_what_goes_back_passes_the_gate_again_before_others(self, rig: Rig, kind: Kind) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("j", "k")
        (ref,) = take(rig)
        assert rig.settle(ref, kind, 0) is Verdict.OK
        assert rig.settle(ref, kind, 0) is Verdict.ALREADY, "a replay"
        assert counted(rig).gated == 2
        assert ids(rig, take(rig)) == ["j"]
        assert take(rig) == []

    def test_a_retry_with_a_delay_gives_its_place_up_and_comes_through_the_gate(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("j", "k")
        (ref,) = take(rig)
        assert rig.settle(ref, Kind.RETRY, 1) is Verdict.OK
        (other,) = take(rig)
        assert ids(rig, [other]) == ["k"]
        wait_until(lambda: rig.run(transitions.promote(rig.keys)).jobs)
        assert take(rig) == []
        assert rig.settle(other, Kind.COMPLETED, job_id="k") is Verdict.OK
        (again,) = take(rig)
        assert rig.inspect("j").entry["attempt"] == b"1"
        rig.settle(again, Kind.COMPLETED)
        nobody_waits(rig)

    def test_what_waits_at_the_gate_can_be_seen_cancelled_and_purged(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("j", "k", "l")
        take(rig)
        info = job_info("q", "k", rig.inspect("k"))
        assert (info.state, info.job, info.args) == (State.QUEUED, "work", ["k"])
        listed = list_jobs(rig.link, [rig.keys], Wanted(), limit=2)
        assert [one.id for one in listed.jobs] == ["j", "k"]
        assert [one.id for one in list_jobs(rig.link, [rig.keys], Wanted(), cursor=listed.cursor).jobs] == ["l"]
        assert rig.run(transitions.cancel(rig.keys, "k")) == ("ok", "queued")
        assert rig.state("k") == "cancelled"
        assert rig.run(control.purge(rig.keys)).removed == 1
        assert rig.state("l") is None
        nobody_waits(rig)
        assert counted(rig).waiting == 0

    def test_a_limit_that_is_lowered_lets_what_runs_end(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 3)
        rig.add(*(f"j{number}" for number in range(5)))
        refs = [take(rig)[0] for _ in range(3)]
        limit(rig, 1)
        for number, ref in enumerate(refs[:2]):
            rig.settle(ref, Kind.COMPLETED, job_id=f"j{number}")
            assert take(rig) == []
        rig.settle(refs[2], Kind.COMPLETED, job_id="j2")
        assert len(take(rig)) == 1
        assert take(rig) == []

    def test_a_limit_that_is_removed_leaves_the_gate_until_nobody_waits(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add(*(f"j{number}" for number in range(5)))
        assert limit(rig)
        assert not limit(rig), "it has none already"
        rig.add("last")
        delivered = taken(rig, 4)
        assert ids(rig, refs_of(delivered)) == ["j0", "j1", "j2", "j3"]
        assert ids(rig, take(rig, 4)) == ["j4", "last"], "in order, as many as are asked for"
        assert not taken(rig).ruled
        rig.add("plain")
        assert ids(rig, rig.fetch()) == ["plain"]
        nobody_waits(rig)

    def test_a_pause_goes_before_a_limit(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("j", "k")
        rig.run(control.pause(rig.keys))
        rig.add("l")
        assert taken(rig).paused
        assert (take(rig), counted(rig).held, counted(rig).gated) == ([], 1, 2)
        control.resume_all(rig.link, rig.keys)
        (ref,) = take(rig)
        assert (ids(rig, [ref]), take(rig)) == (["j"], [])
        assert (counted(rig).held, counted(rig).gated) == (0, 2)

    def test_a_lost_reply_is_found_by_reading_what_one_holds(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("j", "k")
        (ref,) = take(rig)
        held = rig.run(transitions.own(rig.keys, A))
        assert (refs_of(held), held.paused) == ([ref], True)
        assert take(rig) == []

    def test_what_was_lost_of_a_job_in_a_room_stops_nobody(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        rig.add("gone", "elsewhere", "j")
        rig.link.execute("DEL", rig.keys.job("gone"))
        rig.link.execute("HDEL", rig.keys.job("elsewhere"), "room")
        assert ids(rig, take(rig)) == ["j"]
        nobody_waits(rig)


class TestRate:
    def test_a_burst_then_the_pace(self, rig: Rig) -> None:
        rig.join()
        limit(rig, rate="20/s", burst=3)
        rig.add(*(f"j{number}" for number in range(8)))
        began = time.monotonic()
        assert len(take(rig)) == 3
        while not (refs := take(rig)):
            assert time.monotonic() - began < 5.0
        assert (len(refs), time.monotonic() - began > 0.045) == (1, True)
        found = 4
        while found < 8:
            found += len(take(rig))
        assert time.monotonic() - began >= 5 / 20 - 0.005

    def test_it_says_when_to_ask_again(self, rig: Rig) -> None:
        rig.join()
        limit(rig, rate="50/s", burst=1)
        rig.add("j", "k")
        take(rig)
        fetched = taken(rig)
        assert fetched.paused
        assert 0 < fetched.wait <= 0.02

    def test_a_quiet_time_saves_no_more_than_a_burst(self, rig: Rig) -> None:
        rig.join()
        limit(rig, rate="10/s", burst=2)
        rig.add("j")
        take(rig)
        rig.link.execute("HINCRBY", rig.keys.gate, "at", -3_600_000)
        rig.add("k", "l", "m")
        assert (len(take(rig)), len(take(rig))) == (2, 0)

    def test_a_clock_that_is_set_back_costs_no_more_than_what_was_saved(self, rig: Rig) -> None:
        rig.join()
        limit(rig, rate="100/s", burst=1)
        rig.add("j", "k")
        take(rig)
        rig.link.execute("HINCRBY", rig.keys.gate, "at", 3_600_000)
        wait_until(lambda: take(rig), 2.0)

    def test_each_delivery_counts_also_of_a_retry(self, rig: Rig) -> None:
        rig.join()
        limit(rig, rate="1/h", burst=2)
        rig.add("j")
        (ref,) = take(rig)
        rig.settle(ref, Kind.CRASH, 0)
        assert len(take(rig)) == 1
        rig.add("k")
        assert take(rig) == []


class TestNames:
    def test_jobs_of_a_paused_name_wait_wherever_they_are(self, rig: Rig) -> None:
        rig.join()
        named(rig, "before", "bad")
        named(rig, "other", "good")
        named(rig, "soon", "bad", delay=1)
        assert rig.run(limits.pause_job(rig.keys, "bad"))
        assert not rig.run(limits.pause_job(rig.keys, "bad"))
        named(rig, "after", "bad", band="critical")
        wait_until(lambda: rig.run(transitions.promote(rig.keys)).jobs)
        fetched = rig.run(transitions.fetch(rig.keys, A, 10))
        assert (fetched.entries, fetched.ruled) == ([], True)
        assert ids(rig, take(rig)) == ["other"]
        assert not taken(rig).paused, "a blocking read finds what is not paused"
        assert counted(rig).paused_jobs == ("bad",)
        assert (counted(rig).parked, counted(rig).waiting) == (3, 3)
        assert limits.resume_whole_job(rig.link, rig.keys, "bad") == ("done", 3)
        assert ids(rig, rig.fetch()) == ["after", "soon", "before"]
        nobody_waits(rig)

    def test_a_running_job_ends_and_its_retry_waits(self, rig: Rig) -> None:
        rig.join()
        named(rig, "j", "bad")
        (ref,) = rig.fetch()
        rig.run(limits.pause_job(rig.keys, "bad"))
        assert rig.settle(ref, Kind.CRASH, 0) is Verdict.OK
        assert take(rig) == []
        limits.resume_whole_job(rig.link, rig.keys, "bad")
        (again,) = rig.fetch()
        assert again[0] == "a"
        assert rig.settle(again, Kind.COMPLETED) is Verdict.OK

    def test_a_resume_that_was_left_is_gone_on_with_and_nobody_overtakes(self, rig: Rig) -> None:
        rig.join()
        rig.run(limits.pause_job(rig.keys, "work"))
        rig.add(*(f"j{number}" for number in range(5)))
        assert rig.run(limits.resume_job(rig.keys, "work", count=2)) == ("more", 2)
        rig.add("new")
        assert ids(rig, take(rig)) == ["j0", "j1"], "what has left the room is not sent back to it"
        assert rig.run(limits.resume_job(rig.keys, "", count=2)) == ("more", 2)
        assert rig.run(limits.resume_job(rig.keys, "", count=2)) == ("done", 2)
        assert rig.run(limits.resume_job(rig.keys, "", count=2)) == ("open", 0)
        assert ids(rig, rig.fetch()) == ["j2", "j3", "j4", "new"]

    def test_a_pause_during_a_resume_holds(self, rig: Rig) -> None:
        rig.join()
        rig.run(limits.pause_job(rig.keys, "work"))
        rig.add("j", "k")
        rig.run(limits.resume_job(rig.keys, "work", count=1))
        assert rig.run(limits.pause_job(rig.keys, "work"))
        assert rig.run(limits.resume_job(rig.keys, "")) == ("open", 0)
        assert take(rig) == []

    def test_names_a_gate_and_a_paused_queue_together(self, rig: Rig) -> None:
        rig.join()
        limit(rig, 1)
        named(rig, "bad", "bad")
        named(rig, "good", "good")
        rig.run(limits.pause_job(rig.keys, "bad"))
        (ref,) = take(rig)
        assert ids(rig, [ref]) == ["good"]
        rig.run(control.pause(rig.keys))
        limits.resume_whole_job(rig.link, rig.keys, "bad")
        assert counted(rig).held == 1
        control.resume_all(rig.link, rig.keys)
        assert take(rig) == []
        rig.settle(ref, Kind.COMPLETED, job_id="good")
        assert ids(rig, take(rig)) == ["bad"]

    def test_many_of_a_paused_name_before_another(self, rig: Rig) -> None:
        rig.join()
        for first in range(0, 600, 300):
            rig.add(*(f"j{number}" for number in range(first, first + 300)))
        named(rig, "last", "good")
        rig.run(limits.pause_job(rig.keys, "work"))
        refs = wait_until(lambda: take(rig), 5.0)
        assert ids(rig, refs) == ["last"]
        assert counted(rig).parked == 600
        assert rig.run(control.purge(rig.keys, count=1000)).removed == 600
        nobody_waits(rig)

    def test_an_envelope_that_is_none_is_of_no_paused_name(self, rig: Rig) -> None:
        rig.join()
        rig.run(limits.pause_job(rig.keys, "bad"))
        for job_id, envelope in {
            "a": b"bad",
            "b": b'{"n": ["bad"]}',
            "c": b"[" * 10_000,
            "d": b"x" * 1_000_000,
        }.items():
            assert rig.run(transitions.enqueue(rig.keys, [NewJob(job_id, "normal", envelope, None, "")])) == [True]
        assert len(take(rig)) == 4
        assert rig.run(transitions.enqueue(rig.keys, [NewJob("e", "normal", b'{ "n": "bad" }', None, "")])) == [True]
        assert take(rig) == []


class TestExport:
    def test_what_is_removed_is_in_the_file_and_nothing_else(self, rig: Rig, tmp_path: Path) -> None:
        rig.join()
        rig.add("running", "j", "k")
        rig.add("later", delay=60_000)
        rig.fetch(1)
        rig.run(limits.pause_job(rig.keys, "other"))
        named(rig, "parked", "other")
        with (tmp_path / "removed.ndjson").open("wb") as file:
            assert purge_into(file, rig.link, rig.keys, due=True) == 4
        lines = [orjson.loads(line) for line in (tmp_path / "removed.ndjson").read_text().splitlines()]
        assert sorted(line["id"] for line in lines) == ["j", "k", "later", "parked"]
        assert lines[0]["args"] == ["j"]
        assert rig.state("running") == "queued"
        assert counted(rig).waiting == counted(rig).due == 0
        assert rig.counters()["purged"] == 4
        assert rig.run(control.remove(rig.keys, ["j", "running"])) == [True, False], "a replay, and one that runs"


class TestWords:
    @pytest.mark.parametrize(
        ("text", "rate"), [("10/s", Rate(10, 1000)), ("100/m", Rate(100, 60_000)), ("5/2h", Rate(5, 7_200_000))]
    )
    def test_rates(self, text: str, rate: Rate) -> None:
        assert (Rate.parse(text), str(rate)) == (rate, text)

    @pytest.mark.parametrize("text", ["", "10", "0/s", "10/0s", "-1/s", "1.5/s", "10/w", "10 per s", "99999999/s"])
    def test_what_is_no_rate(self, text: str) -> None:
        with pytest.raises(InvalidJob, match="is not valid: use jobs per time"):
            Rate.parse(text)

    def test_what_is_no_limit(self) -> None:
        for concurrency in (0, -1, True, 10**9):
            with pytest.raises(InvalidJob, match=r"concurrency .* is not valid"):
                checked_limit(concurrency)
        with pytest.raises(InvalidJob, match="burst is about a rate"):
            checked_limit(burst=3)

    def test_changes_leave_what_is_not_named(self) -> None:
        first = limits.changed(limits.NO_LIMIT, 3, "10/s", None)
        assert first == Limit(3, Rate(10, 1000), 10)
        assert limits.changed(first, None, None, 2) == Limit(3, Rate(10, 1000), 2)
        assert limits.changed(first, 0, None, None) == Limit(None, Rate(10, 1000), 10)
        assert limits.changed(first, None, "0", None) == Limit(3)
        assert limits.changed(first, None, "1/m", None).burst == 1
