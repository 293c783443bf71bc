"""What a job holds until its end is freed by every end, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from millstream.protocol import control, transitions
from millstream.protocol.envelope import parse_entry
from millstream.protocol.transitions import ENDS, Kind, Outcome, Verdict
from tests.protocol.rig import A, B, Rig

pytestmark = pytest.mark.leaves_jobs

STAYS = {
    Kind.RETRY: (60_000,),
    Kind.CRASH: (60_000, 0),
    Kind.RELEASE: (60_000, 0),
    Kind.UNKNOWN: (60_000,),
}


def hold(rig: Rig, job_id: str = "j") -> None:
    """Give a job the lock of a key."""
    rig.link.execute("HSET", rig.keys.job(job_id), "unique", "digest")
    rig.link.execute("SET", rig.keys.uniques + "digest", job_id, "PX", 60_000)


def holder(rig: Rig) -> str | None:
    found = rig.link.execute("GET", rig.keys.uniques + "digest")
    return found.decode() if found else None


def end(rig: Rig, ref: str, kind: Kind, number: int = 60_000, *, grace: float = 600.0) -> Verdict:
    outcome = Outcome(ref, "j", kind, number, b"{}", holds=True)
    return rig.run(transitions.settle(rig.keys, A, [outcome], grace))[0][0]


@pytest.mark.parametrize("kind", [*sorted(ENDS), Kind.DEAD, Kind.CRASHED])
def test_an_end_frees_it_and_a_replay_takes_it_from_nobody(rig: Rig, kind: Kind) -> None:
    ref = rig.take()
    hold(rig)
    number = 0 if kind is Kind.DEAD else 60_000
    assert end(rig, ref, kind, number) is Verdict.OK
    assert holder(rig) is None
    assert rig.counters() == {"dead" if rig.state() == "dead" else str(kind): 1}, "the mark is no kind of its own"
    rig.link.execute("SET", rig.keys.uniques + "digest", "another", "PX", 60_000)
    assert end(rig, ref, kind, number) is Verdict.ALREADY
    assert holder(rig) == "another"


@pytest.mark.parametrize(("kind", "delay"), [(kind, delay) for kind, delays in STAYS.items() for delay in delays])
def test_what_is_no_end_keeps_it(rig: Rig, kind: Kind, delay: int) -> None:
    ref = rig.take()
    hold(rig)
    assert end(rig, ref, kind, delay) is Verdict.OK
    assert holder(rig) == "j"


def test_an_unknown_job_frees_it_when_it_is_given_up(rig: Rig) -> None:
    ref = rig.take()
    hold(rig)
    assert end(rig, ref, Kind.UNKNOWN, 1, grace=0.0) is Verdict.OK
    assert (rig.state(), holder(rig)) == ("dead", None)


def test_an_end_frees_nothing_that_another_has_taken(rig: Rig) -> None:
    ref = rig.take()
    hold(rig)
    rig.link.execute("SET", rig.keys.uniques + "digest", "another", "PX", 60_000)
    assert end(rig, ref, Kind.COMPLETED) is Verdict.OK
    assert holder(rig) == "another"


def test_a_stale_end_frees_nothing(rig: Rig) -> None:
    ref = rig.take()
    hold(rig)
    rig.run(transitions.give_back(rig.keys, A, [ref]))
    assert end(rig, ref, Kind.COMPLETED) is Verdict.STALE
    assert holder(rig) == "j"


def test_what_cannot_be_freed_keeps_no_job_from_its_end(rig: Rig) -> None:
    ref = rig.take()
    hold(rig)
    rig.link.execute("DEL", rig.keys.uniques + "digest")
    rig.link.execute("LPUSH", rig.keys.uniques + "digest", "not a lock")
    rig.link.execute("PEXPIRE", rig.keys.uniques + "digest", 60_000)
    assert end(rig, ref, Kind.COMPLETED) is Verdict.OK
    assert (rig.state(), rig.pending()) == ("completed", 0)


def cancel_waiting(rig: Rig) -> None:
    assert rig.run(transitions.cancel(rig.keys, "j"))[0] == "ok"


def cancel_delivered(rig: Rig) -> None:
    (ref,) = rig.fetch(1)
    assert rig.run(transitions.cancel(rig.keys, "j"))[0] == "running"
    assert holder(rig) == "j", "it still runs"
    rig.run(transitions.give_back(rig.keys, A, [ref]))


def purge(rig: Rig) -> None:
    assert control.purge_all(rig.link, rig.keys, due=True) == 1


def lose_a_marked_run(rig: Rig) -> None:
    rig.run(transitions.give_back(rig.keys, A, rig.fetch(1)))
    (ref,) = rig.fetch(1)
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True)).word == "ok"
    rig.age(ref, 60_000)
    assert rig.recover("again", crash_limit=1) == (1, 1)


ENDINGS = {
    cancel_waiting: (None, 60_000),
    cancel_delivered: (None,),
    purge: (None, 60_000),
    lose_a_marked_run: (None,),
}


@pytest.mark.parametrize(
    ("ending", "delay"), [(ending, delay) for ending, delays in ENDINGS.items() for delay in delays]
)
def test_whatever_else_ends_a_job_frees_it(rig: Rig, ending: Callable[[Rig], None], delay: int | None) -> None:
    rig.join(A)
    rig.join(B)
    rig.add("j", delay=delay)
    hold(rig)
    ending(rig)
    assert holder(rig) is None


@pytest.mark.parametrize(
    ("options", "holds"),
    [({}, False), ({"keep": 5}, False), ({"unique": "finished"}, True), ({"key": "k", "keep": 5}, True)],
)
def test_an_entry_says_whether_its_job_holds_anything(options: dict[str, object], holds: bool) -> None:
    envelope = orjson.dumps({"v": 1, "n": "work", "q": "q", "t": 1, "o": options})
    assert parse_entry("n", b"1-0", [b"id", b"j", b"env", envelope], "q").holds is holds
