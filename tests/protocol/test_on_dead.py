"""The notice of a death: enqueued in the step that buries the job, once, where it was asked for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from millstream.protocol import control, transitions
from millstream.protocol.transitions import NOT_COUNTED, Kind, Outcome, Verdict
from tests.protocol.rig import A, Rig

pytestmark = pytest.mark.leaves_jobs

ROW = {"n": "work", "a": 1, "w": "w", "s": 1_700_000_000_000, "d": 0.1, "c": "error"}


def settle(rig: Rig, ref: str, kind: Kind, number: int = 0, *, job_id: str = "j", **row: Any) -> Verdict:
    outcome = Outcome(ref, job_id, kind, number, orjson.dumps({**ROW, **row}))
    return rig.run(transitions.settle(rig.keys, A, [outcome], unknown_grace=0.0))[0][0]


def notices(rig: Rig) -> list[tuple[str, dict[str, Any]]]:
    """Ids and envelopes of what waits."""
    entries = rig.run(transitions.fetch(rig.keys, A, 10)).entries
    return [(fields[1].decode(), orjson.loads(fields[3])) for _, _, fields in entries]


@pytest.mark.parametrize(
    ("kind", "number", "run"),
    [(Kind.DEAD, 0, 1), (Kind.DEAD, NOT_COUNTED, 1), (Kind.CRASHED, 0, 1), (Kind.UNKNOWN, 5000, 2)],
)
def test_a_death_is_told_in_the_same_step(rig: Rig, kind: Kind, number: int, run: int) -> None:
    ref = rig.take("j")
    assert settle(rig, ref, kind, number, h=1) is Verdict.OK
    assert rig.state("j") == "dead"
    ((job_id, envelope),) = notices(rig)
    assert rig.state(job_id) == "queued"
    assert (envelope["v"], envelope["n"], envelope["q"]) == (1, "millstream.on_dead", "q")
    assert envelope["a"] == ["j", run, "work", {**ROW, "h": 1}]
    assert settle(rig, ref, kind, number, h=1) is Verdict.ALREADY
    assert notices(rig) == [], "a replay tells nothing"


def test_nobody_is_told_who_did_not_ask(rig: Rig) -> None:
    assert settle(rig, rig.take("j"), Kind.DEAD, o={"h": 1}, e={"message": ',"h":1}'}) is Verdict.OK
    assert notices(rig) == []


@pytest.mark.parametrize("number", [1, 2])
def test_what_was_no_job_or_is_refused_tells_nothing(rig: Rig, number: int) -> None:
    assert settle(rig, rig.take("j"), Kind.DEAD, number) is Verdict.OK
    assert notices(rig) == []


def test_only_a_run_that_made_it_dead_tells(rig: Rig) -> None:
    assert settle(rig, rig.take("j"), Kind.RETRY, 60_000, h=1) is Verdict.OK
    assert notices(rig) == []


def test_the_death_of_a_notice_is_not_told(rig: Rig) -> None:
    settle(rig, rig.take("j"), Kind.DEAD, h=1)
    (ref,) = rig.fetch(1)
    (job_id,) = (key.decode().rpartition("job:")[2] for key in rig.link.execute("KEYS", f"{rig.keys.records}on_dead:*"))
    settle(rig, ref, Kind.DEAD, job_id=job_id, n="millstream.on_dead", h=1)
    assert rig.state(job_id) == "dead"
    assert notices(rig) == []


def test_each_death_is_told(rig: Rig) -> None:
    """One that was retried and dies again."""
    told = set()
    ref = rig.take("j")
    for _ in range(2):
        settle(rig, ref, Kind.DEAD, h=1)
        ((job_id, _),) = notices(rig)
        told.add(job_id)
        rig.run(control.dead_retry(rig.keys, ["j"]))
        (ref,) = rig.fetch(1)
    assert len(told) == 2


def test_while_the_queue_is_paused_it_is_held(rig: Rig) -> None:
    ref = rig.take("j")
    rig.run(control.pause(rig.keys))
    settle(rig, ref, Kind.DEAD, h=1)
    assert rig.lengths() == {}
    rig.run(control.resume(rig.keys))
    assert [envelope["a"][0] for _, envelope in notices(rig)] == ["j"]


@pytest.mark.parametrize("tell", [True, False])
def test_a_job_whose_host_vanished_is_told_of(rig: Rig, tell: bool) -> None:
    """With a limit of its own: it is dead with the first run that had really started."""
    rig.take("j")
    rig.recover(gone="a-000001")
    (ref,) = rig.fetch(1)
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True, crash_limit=1, tell=tell)).word == "ok"
    assert rig.recover("again", gone="a-000001") == (1, 1)
    assert [envelope["a"] for _, envelope in notices(rig)] == [["j", 3, "work", {"c": "lease_expired"}]] * tell


def test_a_mark_without_them_forgets_limit_and_tell(rig: Rig) -> None:
    rig.take("j")
    rig.recover(gone="a-000001")
    (ref,) = rig.fetch(1)
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True, crash_limit=5, tell=True)).word == "ok"
    assert (rig.record()["limit"], rig.record()["tell"]) == ("5", "1")
    assert rig.run(transitions.begin(rig.keys, "j", ref, A, alone=True)).word == "ok"
    assert not {"limit", "tell"} & set(rig.record())


@pytest.mark.parametrize(("kind", "name"), [(Kind.TIMEOUT, b"timeouts"), (Kind.MEMORY, b"memory")])
def test_what_is_counted_apart_goes_along(rig: Rig, kind: Kind, name: bytes) -> None:
    """Through `due`, a hand-back and a crash; and a retry by an operator begins anew."""
    assert settle(rig, rig.take("j"), kind, 60_000) is Verdict.OK
    assert rig.record()[name.decode()] == "1"
    rig.link.execute("ZADD", rig.keys.due, 0, "j")
    rig.run(transitions.promote(rig.keys))
    assert name.decode() not in rig.record()
    (ref,) = rig.fetch(1)
    rig.run(transitions.give_back(rig.keys, A, [ref]))
    (ref,) = rig.fetch(1)
    settle(rig, ref, Kind.CRASH)
    ((letter, entry, fields),) = rig.run(transitions.fetch(rig.keys, A, 5)).entries
    counters = dict(zip(fields[4::2], fields[5::2], strict=True))
    assert (counters[name], counters[b"attempt"], counters[b"crashes"]) == (b"1", b"0", b"1")
    settle(rig, letter + entry.decode(), Kind.DEAD, NOT_COUNTED)
    assert rig.record()["attempt"] == "0"
    rig.run(control.dead_retry(rig.keys, ["j"]))
    ((_, _, fields),) = rig.run(transitions.fetch(rig.keys, A, 5)).entries
    assert name not in fields
