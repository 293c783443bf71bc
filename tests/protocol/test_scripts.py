"""Entering and leaving a queue by script calls: enqueue, join, fetch, own, give back, retire, wait."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from millstream.protocol import transitions
from millstream.protocol.errors import Unavailable
from millstream.protocol.link import NoGroup
from millstream.protocol.scripts import script
from millstream.protocol.transitions import Kind, Verdict
from tests.protocol.rig import A, B, Rig, refs_of

pytestmark = pytest.mark.leaves_jobs

NAMES = sorted(
    path.name.removesuffix(".lua")
    for path in resources.files("millstream.protocol.scripts").iterdir()
    if path.name.endswith(".lua") and not path.name.startswith("_")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_has_its_contract_in_its_head(name: str) -> None:
    text = script(name).text
    assert text.startswith("#!lua"), "flags are declared"
    head = "\n".join(line for line in text.splitlines() if line.startswith("--"))
    assert re.search(r"^-- KEYS: ", head, re.M)
    assert re.search(r"^-- ARGV: ", head, re.M)
    assert re.search(r"^-- Returns ", head, re.M)
    assert "-- include:" not in text


@pytest.mark.parametrize("name", NAMES)
def test_every_script_loads(rig: Rig, name: str) -> None:
    loaded = rig.link.execute("SCRIPT", "LOAD", script(name).text)
    assert loaded.decode() == script(name).sha


def test_a_script_that_the_server_forgot_is_loaded_again(rig: Rig) -> None:
    rig.add("one")
    rig.link.execute("SCRIPT", "FLUSH")
    assert rig.add("two") == [True]
    rig.link.execute("SCRIPT", "FLUSH")
    first, second = rig.link.run_many([transitions.enqueue(rig.keys, [rig.new(name)]) for name in ("three", "four")])
    assert (first, second) == ([True], [True])


# Enqueue.


def test_enqueue_once_per_id(rig: Rig) -> None:
    assert rig.add("x", "y") == [True, True]
    assert rig.add("x", "z") == [False, True]
    assert rig.lengths() == {"n": 3}


def test_an_enqueue_whose_reply_was_lost_says_created_again(rig: Rig) -> None:
    assert rig.add("x", nonce="n1") == [True]
    assert rig.add("x", nonce="n1") == [True], "the same call"
    assert rig.add("x", nonce="n2") == [False], "another one"
    assert rig.lengths() == {"n": 1}


def test_an_id_stays_taken_after_the_end(rig: Rig) -> None:
    ref = rig.take("j")
    assert rig.settle(ref, Kind.COMPLETED) is Verdict.OK
    assert rig.add("j") == [False]
    assert rig.lengths() == {}


def test_bands_and_delays(rig: Rig) -> None:
    for band in ("low", "critical", "normal", "high"):
        rig.add(band, band=band)
    rig.add("later", delay=60_000)
    assert rig.lengths() == {"c": 1, "h": 1, "n": 1, "l": 1}
    assert rig.record("later")["state"] == "scheduled"
    assert rig.link.execute("ZCARD", rig.keys.due) == 1
    rig.join()
    assert [ref[0] for ref in rig.fetch(10)] == ["c", "h", "n", "l"], "strict order"


# Join, fetch, own.


def test_fetch_before_join_says_so(rig: Rig) -> None:
    rig.add("x")
    with pytest.raises(NoGroup):
        rig.fetch()
    assert isinstance(NoGroup(""), Unavailable)
    assert rig.join() == 5
    assert rig.join() == 0
    assert len(rig.fetch()) == 1, "what was enqueued before is not skipped"


def test_again_comes_first_and_alone(rig: Rig) -> None:
    ref = rig.take("j")
    rig.add("other")
    assert rig.run(transitions.give_back(rig.keys, A, [ref])) == 1
    (again,) = rig.fetch(10, B)
    assert again[0] == "a"
    assert [ref[0] for ref in rig.fetch(10, B)] == ["n"]


def test_fetch_delivers_at_most_as_many_as_asked(rig: Rig) -> None:
    rig.join()
    rig.add("c1", "c2", band="critical")
    rig.add("n1", "n2", "n3")
    assert [ref[0] for ref in rig.fetch(4)] == ["c", "c", "n", "n"]
    assert [ref[0] for ref in rig.fetch(4)] == ["n"]
    assert rig.fetch(4) == []


def test_own_reads_what_a_lost_reply_delivered(rig: Rig) -> None:
    rig.join()
    rig.add("x", "y")
    refs = rig.fetch(10)
    assert refs_of(rig.run(transitions.own(rig.keys, A))) == refs
    assert refs_of(rig.run(transitions.own(rig.keys, B))) == []
    rig.link.execute("XDEL", rig.keys.stream("normal"), refs[0][1:])
    assert refs_of(rig.run(transitions.own(rig.keys, A))) == refs[1:]
    assert rig.pending(A) == 1, "what was deleted is acknowledged"


# Give back, retire.


def test_give_back_makes_a_new_delivery(rig: Rig) -> None:
    ref = rig.take("j")
    assert rig.run(transitions.give_back(rig.keys, A, [ref])) == 1
    assert (rig.pending(), rig.lengths()) == (0, {"a": 1})
    assert rig.run(transitions.give_back(rig.keys, A, [ref])) == 0, "once"
    assert rig.settle(ref, Kind.COMPLETED) is Verdict.STALE
    ((_, _, fields),) = rig.run(transitions.fetch(rig.keys, A, 1)).entries
    counters = dict(zip(fields[4::2], fields[5::2], strict=True))
    assert counters == {b"run": b"2", b"attempt": b"0", b"crashes": b"0"}


def test_nobody_gives_back_what_another_one_holds(rig: Rig) -> None:
    ref = rig.take("j")
    assert rig.run(transitions.give_back(rig.keys, B, [ref])) == 0
    assert rig.pending(A) == 1


def test_retire_takes_back_all_but_what_is_spared(rig: Rig) -> None:
    rig.join()
    rig.add("x", "y", "z")
    refs = rig.fetch(3)
    assert rig.run(transitions.retire(rig.keys, A, delete=True, spare=[refs[1]])) == (2, 2)
    assert rig.pending(A) == 1
    assert rig.lengths() == {"a": 2, "n": 1}


def test_retire_deletes_an_empty_consumer_only(rig: Rig) -> None:
    rig.take("j")

    def consumers() -> list[object]:
        return rig.link.execute("XINFO", "CONSUMERS", rig.keys.stream("normal"), "millstream")  # type: ignore[no-any-return]

    assert rig.run(transitions.retire(rig.keys, A, delete=False)) == (1, 0)
    assert len(consumers()) == 1
    assert rig.run(transitions.retire(rig.keys, A, delete=True)) == (0, 0)
    assert consumers() == []
    rig.take("k")


# Waiting for an end.


def test_a_waiter_is_woken_by_the_end(rig: Rig) -> None:
    ref = rig.take("j")
    assert rig.run(transitions.await_end(rig.keys, "j", 1)) == "queued"
    assert rig.run(transitions.await_end(rig.keys, "nobody", 1)) == ""
    assert rig.settle(ref, Kind.COMPLETED) is Verdict.OK
    assert rig.link.execute("LLEN", rig.keys.waits + "j") == 1
    assert rig.link.execute("PTTL", rig.keys.waits + "j") > 0
    assert rig.link.execute("EXISTS", rig.keys.waiting) == 0
    assert rig.run(transitions.await_end(rig.keys, "j", 1)) == "completed"
    assert rig.link.execute("EXISTS", rig.keys.waiting) == 0


def test_a_waiter_that_gives_up_leaves_no_mark(rig: Rig) -> None:
    ref = rig.take("j")
    for step in (1, 1, 0, -1):
        rig.run(transitions.await_end(rig.keys, "j", step))
    assert rig.link.execute("HGET", rig.keys.waiting, "j") == b"1"
    rig.run(transitions.await_end(rig.keys, "j", -1))
    assert rig.link.execute("EXISTS", rig.keys.waiting) == 0
    rig.settle(ref, Kind.COMPLETED)
    assert rig.link.execute("EXISTS", rig.keys.waits + "j") == 0, "nobody waits: nothing is pushed"
