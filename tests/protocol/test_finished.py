"""The jobs of a name that finished last are found, however many others finished since."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from millstream.protocol import control, transitions
from millstream.protocol.listing import Page, Wanted, list_jobs
from millstream.protocol.transitions import Kind
from tests.support.filled import Filled


@pytest.fixture
def filled(url: str, prefix: str) -> Iterator[Filled]:
    queue = Filled(url, prefix)
    yield queue
    queue.link.close()


def finished(filled: Filled, name: str | None = None, limit: int = 200, cursor: str | None = None) -> Page:
    wanted = Wanted(name=name, finished=True)
    return list_jobs(filled.link, [filled.keys], wanted, limit=limit, cursor=cursor)


def ids(page: Page) -> list[str]:
    return [info.id for info in page.jobs]


def ran(filled: Filled, count: int, name: str, kind: Kind = Kind.COMPLETED) -> list[str]:
    """Let jobs of a name run to an end of this kind; their ids."""
    made = filled.add(count, name=name)
    for _ in range(0, count, 200):
        filled.end(filled.take(200), kind)
    return made


def test_a_rare_one_among_many(filled: Filled) -> None:
    rare = ran(filled, 2, "rare")
    ran(filled, 1400, "common")
    assert ids(finished(filled, "rare")) == rare[::-1]
    assert not set(rare) & set(ids(finished(filled, limit=1000))), "the history of all has gone past them"


def test_the_last_hundred_of_a_name_newest_first(filled: Filled) -> None:
    made = ran(filled, 450, "render")
    page = finished(filled, "render")
    assert ids(page) == made[:-101:-1]
    assert 2_500_000_000 < int(filled.link.execute("PTTL", filled.keys.history_of("render"))) <= 2_592_000_000
    first = finished(filled, "render", limit=30)
    assert ids(first) + ids(finished(filled, "render", limit=70, cursor=first.cursor)) == ids(page)


def test_a_batch_of_several_names(filled: Filled) -> None:
    made = [filled.add(1, name=name)[0] for name in ("a", "a.b", "a", "b-1", "a.b")]
    filled.end(filled.take(5))
    assert ids(finished(filled, "a")) == [made[2], made[0]]
    assert ids(finished(filled, "a.b")) == [made[4], made[1]]
    assert ids(finished(filled, "b-1")) == [made[3]]
    assert ids(finished(filled)) == made[::-1]


def test_however_they_ended(filled: Filled) -> None:
    kinds = (Kind.COMPLETED, Kind.DISCARDED, Kind.CANCELLED, Kind.EXPIRED)
    made = [ran(filled, 1, "render", kind)[0] for kind in kinds]
    filled.add(2, name="render")
    one, two = filled.take(2)
    error = {"type": "ValueError", "message": "no luck", "traceback": "", "cause": "error"}
    filled.link.run(
        transitions.settle(filled.keys, "host-1a2b3c:default/0:1", [filled.outcome(one, Kind.DEAD, {"e": error}, 0)])
    )
    filled.end([two], Kind.CRASHED, e=error)
    assert ids(finished(filled, "render")) == [two.id, one.id, *made[::-1]]
    control.delete_dead(filled.link, filled.keys, [one.id, two.id])


def test_what_runs_again_has_not_finished(filled: Filled) -> None:
    filled.add(3, name="render")
    entries = filled.take(3)
    for entry, kind in zip(entries, (Kind.RETRY, Kind.CRASH, Kind.RELEASE), strict=True):
        filled.end([entry], kind)
    assert ids(finished(filled, "render")) == []
    control.purge_all(filled.link, filled.keys, due=True)


def test_names_that_nobody_registered_make_no_lists(filled: Filled) -> None:
    """Anybody may enqueue any name: what did not run is in the history of all, and in no list of its own."""
    filled.add(3, name="made.up")
    unknown, forged, malformed = filled.take(3)
    for entry, kind, number in ((unknown, Kind.UNKNOWN, 1), (forged, Kind.DEAD, 2), (malformed, Kind.DEAD, 1)):
        outcome = filled.outcome(entry, kind, {}, number)
        filled.link.run(transitions.settle(filled.keys, "host-1a2b3c:default/0:1", [outcome], unknown_grace=0))
    assert filled.survey().dead == 3
    assert not filled.link.execute("EXISTS", filled.keys.history_of("made.up"))
    control.delete_dead(filled.link, filled.keys, [entry.id for entry in (unknown, forged, malformed)])


def test_a_replay_adds_nothing(filled: Filled) -> None:
    filled.add(1, name="render")
    entries = filled.take(1)
    filled.end(entries)
    filled.end(entries)
    assert filled.link.execute("LLEN", filled.keys.history_of("render")) == 1


def test_a_list_that_is_something_else_keeps_no_job_from_ending(filled: Filled) -> None:
    filled.link.execute("SET", filled.keys.history_of("render"), "no list", "EX", 60)
    made = ran(filled, 1, "render")
    assert ids(finished(filled)) == made
