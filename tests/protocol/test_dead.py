"""Dead letters: normalised messages, pages that miss nothing, groups, TTL and cap."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from millstream.protocol import control, transitions
from millstream.protocol.dead import DeadJob, Which, dead_prune, dead_scan, group_dead, normalised, walk
from millstream.protocol.errors import InvalidJob
from millstream.protocol.transitions import Kind, Outcome
from tests.protocol.rig import A, Rig

pytestmark = pytest.mark.leaves_jobs


def die(rig: Rig, *ids: str, kind: str = "ValueError", message: str = "no luck", **row: Any) -> None:
    """Let jobs die, all at the same moment."""
    rig.join()
    rig.add(*ids)
    refs = rig.fetch(len(ids))
    told = {"n": "work", "a": 1, "w": "w", "s": 1, "d": 0.1, "c": "error", "e": {"type": kind, "message": message}}
    rows = [
        Outcome(ref, job_id, Kind.DEAD, 0, orjson.dumps({**told, **row})) for ref, job_id in zip(refs, ids, strict=True)
    ]
    assert rig.run(transitions.settle(rig.keys, A, rows))


def ids_of(rig: Rig, **options: Any) -> list[str]:
    return [one.id for found in walk(rig.link, [rig.keys], Which(), **options) for one in found.jobs]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("no user 42 in 3.5 s", "no user <number> in <number> s"),
        ("key 'a b' and \"c\"", "key <text> and <text>"),
        ("can't open 'x.csv': it isn't there", "can't open <text>: it isn't there"),
        ("at 0x7f3a and deadbeef01", "at <hex> and <hex>"),
        ("order 0192fb7c-1d2e-7abc-8def-0123456789ab", "order <uuid>"),
        ("feedback about decades", "feedback about decades"),
        ("10.0.0.1:6379 refused\n  twice", "<number>:<number> refused twice"),
        ("x" * 500, "x" * 200),
    ],
)
def test_normalised_messages(message: str, expected: str) -> None:
    assert normalised(message) == expected


def test_a_group_is_the_job_the_type_and_the_message() -> None:
    one = DeadJob("1", 0, "work", "error", "ValueError", "no 1")
    assert one.group == one._replace(id="2", died_at=9, message="no 22", cause="crash").group
    assert len({one.group, one._replace(job="b").group, one._replace(type="b").group}) == 3
    assert len(one.group) == 10


def test_pages_of_many_that_died_at_one_moment(rig: Rig) -> None:
    ids = [f"j{number:03}" for number in range(250)]
    die(rig, *ids)
    assert sorted(ids_of(rig)) == ids


@pytest.mark.parametrize("act", [control.retry_dead, control.delete_dead], ids=["retry", "delete"])
def test_what_is_taken_on_the_way_hides_nothing(rig: Rig, act: Any) -> None:
    die(rig, *(f"a{number:03}" for number in range(150)))
    die(rig, *(f"b{number:03}" for number in range(150)), kind="KeyError")
    which, taken = Which(error="keyerror"), 0
    for found in walk(rig.link, [rig.keys], which):
        act(rig.link, rig.keys, [one.id for one in found.jobs])
        taken += len(found.jobs)
    assert taken == 150
    assert {job_id[0] for job_id in ids_of(rig)} == {"a"}
    assert len(ids_of(rig)) == 150


def test_those_that_die_meanwhile_are_not_met(rig: Rig) -> None:
    die(rig, "early")
    until = int(rig.link.execute("ZSCORE", rig.keys.dead, "early"))
    rig.link.execute("ZADD", rig.keys.dead, until + 5, "late")
    rig.link.execute("HSET", rig.keys.job("late"), "state", "dead")
    assert ids_of(rig, until=until) == ["early"]
    assert ids_of(rig, until=until + 5) == ["late", "early"]


def test_filters(rig: Rig) -> None:
    die(rig, "a", message="no luck 1")
    die(rig, "b", kind="KeyError", message="'x'", c="timeout")
    die(rig, "c", n="play")

    def found(**which: Any) -> list[str]:
        return sorted(one.id for page in walk(rig.link, [rig.keys], Which(**which)) for one in page.jobs)

    assert found(name="play") == ["c"]
    assert found(cause="timeout") == ["b"]
    assert found(error="VALUEERROR: no") == ["a", "c"]
    assert found(older_than=3600) == []
    assert found(older_than=0, name="work") == ["a", "b"]
    groups = group_dead(rig.link, [rig.keys], Which()).groups
    assert sorted(group.count for group in groups) == [1, 1, 1]
    key = next(group.key for group in groups if group.job == "play")
    assert found(group=key) == ["c"]


def test_groups_are_counted_and_bounded(rig: Rig) -> None:
    for number in range(5):
        die(rig, f"x{number}", message=f"no user {number}")
    die(rig, "y", kind="KeyError", message="'k'")
    grouped = group_dead(rig.link, [rig.keys], Which())
    assert (grouped.looked_at, grouped.total) == (6, 6)
    first, second = grouped.groups
    assert (first.count, first.message, first.example, second.count) == (5, "no user <number>", "x4", 1)
    assert first.first <= first.last
    die(rig, *(f"z{number}" for number in range(200)))
    grouped = group_dead(rig.link, [rig.keys], Which(), scan=50)
    assert (grouped.looked_at, grouped.total) == (100, 206), "whole pages"


def test_garbage_is_shown_as_it_is(rig: Rig) -> None:
    """What a stranger wrote into the dead letters keeps nobody from reading the others."""
    die(rig, "good")
    at = int(rig.link.execute("ZSCORE", rig.keys.dead, "good"))
    for number, out in enumerate((b"\xff", b"[1]", b'{"e":1,"n":{},"c":[]}', b'{"e":{"message":null}}', b"")):
        rig.link.execute("HSET", rig.keys.job(f"g{number}"), "state", "dead", "out", out)
        rig.link.execute("ZADD", rig.keys.dead, at, f"g{number}")
    rig.link.execute("SET", rig.keys.job("string"), "x")
    rig.link.execute("ZADD", rig.keys.dead, at, "string", at, "gone")
    found = rig.run(dead_scan(rig.keys)).jobs
    assert sorted(one.id for one in found) == ["g0", "g1", "g2", "g3", "g4", "good"]
    assert {one.message for one in found if one.id != "good"} == {""}
    rig.link.execute("DEL", rig.keys.job("string"))


def test_a_cursor_of_another_list(rig: Rig) -> None:
    with pytest.raises(InvalidJob, match="is not of this list"):
        list(walk(rig.link, [rig.keys], Which(), cursor="other/1/j"))


def test_ttl_and_cap_hold_from_then_on(rig: Rig) -> None:
    die(rig, "a", "b", "c")
    assert rig.run(dead_prune(rig.keys, 60.0, 2)) == (1, False)
    assert ids_of(rig) == ["c", "b"]
    assert rig.record("a") == {}
    die(rig, "d", "e")
    assert sorted(ids_of(rig)) == ["d", "e"], "the cap is kept by the burial itself"
    assert 50_000 < rig.ttl("d") <= 60_000
    rig.link.execute("ZADD", rig.keys.dead, 1, "d")
    assert rig.run(dead_prune(rig.keys, 60.0, 2)) == (1, False)
    assert ids_of(rig) == ["e"]


def test_a_lower_cap_is_reached_in_steps(rig: Rig) -> None:
    rig.run(dead_prune(rig.keys, 60.0, 1000))
    die(rig, *(f"j{number:03}" for number in range(300)))
    rig.link.execute("HSET", rig.keys.meta, "dead_cap", 1)
    die(rig, "last")
    assert len(ids_of(rig)) == 201, "no burial deletes more than 100"
    assert rig.run(dead_prune(rig.keys, 60.0, 1, count=150)) == (150, True)
    assert rig.run(dead_prune(rig.keys, 60.0, 1, count=150)) == (50, False)
    assert ids_of(rig) == ["last"]


def test_pruning_forgets_what_is_dead_no_more(rig: Rig) -> None:
    die(rig, "a", "b")
    rig.link.execute("DEL", rig.keys.job("a"))
    assert rig.run(dead_prune(rig.keys, 60.0, 10)) == (1, False)
    assert ids_of(rig) == ["b"]


def test_a_dead_job_that_is_retried_keeps_its_history(rig: Rig) -> None:
    die(rig, "a")
    control.retry_dead(rig.link, rig.keys, ["a"])
    assert b"no luck" in rig.inspect("a").record["tries"]
