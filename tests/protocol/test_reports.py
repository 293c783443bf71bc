"""What runs report: progress is the current delivery's, the log keeps its newest lines."""

from __future__ import annotations

import itertools

from millstream.protocol import transitions
from millstream.protocol.info import job_info
from millstream.protocol.reports import LINE_LIMIT, LOG_BYTES, Line, report, shortened
from millstream.protocol.transitions import Kind
from tests.protocol.rig import B, Rig
from tests.support.waiting import wait_until

BATCHES = itertools.count()


def info(rig: Rig) -> tuple[float | None, str | None, list[str]]:
    known = job_info("q", "j", rig.inspect())
    return known.progress, known.message, [line.line for line in known.logs]


def tell(rig: Rig, ref: str, percent: float | None, *lines: str, run: int = 1) -> bool:
    progress = None if percent is None else (percent, f"at {percent}")
    return rig.run(report(rig.keys, "j", ref, run, progress, f"b{next(BATCHES)}", [Line(0, line) for line in lines]))


def test_progress_and_lines_outlive_the_end(rig: Rig) -> None:
    ref = rig.take()
    assert info(rig) == (None, None, [])
    assert tell(rig, ref, 12.5, "one", "two")
    assert tell(rig, ref, None, "three")
    assert info(rig) == (12.5, "at 12.5", ["one", "two", "three"])
    rig.settle(ref, Kind.COMPLETED)
    assert tell(rig, ref, 100, "late")
    assert info(rig) == (100, "at 100", ["one", "two", "three", "late"])
    assert 0 < rig.ttl() <= 60_000


def test_a_stale_delivery_overwrites_nothing(rig: Rig) -> None:
    old = rig.take()
    assert tell(rig, old, 90, "old")
    rig.age(old, 40_000)
    rig.recover()
    rig.join(B)
    (new,) = rig.fetch(consumer=B)
    assert info(rig) == (None, None, ["old"]), "what an earlier delivery had reached is not shown"
    assert tell(rig, new, 10, "new", run=2)
    assert not tell(rig, old, 95, "from the dead")
    assert info(rig) == (10, "at 10", ["old", "new"])
    rig.settle(new, Kind.COMPLETED, consumer=B)


def test_lines_that_come_after_a_retry_was_settled(rig: Rig) -> None:
    old = rig.take()
    rig.settle(old, Kind.RETRY, 1)
    assert tell(rig, old, 50, "why it failed")
    assert info(rig) == (None, None, ["why it failed"])
    wait_until(lambda: rig.run(transitions.promote(rig.keys)).jobs)
    (new,) = rig.fetch()
    assert tell(rig, new, 10, run=2)
    assert tell(rig, old, 60, "late")
    assert info(rig) == (10, "at 10", ["why it failed", "late"])
    rig.settle(new, Kind.COMPLETED)


def test_a_batch_whose_reply_was_lost_is_noted_once(rig: Rig) -> None:
    ref = rig.take()
    for batch in ("one", "one", "two"):
        assert rig.run(report(rig.keys, "j", ref, 1, (5, None), batch, [Line(0, batch)]))
    assert info(rig) == (5, None, ["one", "two"])
    rig.settle(ref, Kind.COMPLETED)


def test_nothing_is_made_for_an_unknown_job(rig: Rig) -> None:
    ref = rig.take()
    rig.link.execute("DEL", rig.keys.job("j"))
    assert not tell(rig, ref, 50, "line")
    assert rig.record() == {}
    rig.settle(ref, Kind.COMPLETED)
    rig.link.execute("DEL", rig.keys.job("j"))


def test_the_newest_lines_are_kept(rig: Rig) -> None:
    ref = rig.take()
    for start in range(0, 1000, 100):
        tell(rig, ref, None, *(f"line {start + number} é" for number in range(100)))
    kept = info(rig)[2]
    assert kept[-1] == "line 999 é"
    assert kept == [f"line {number} é" for number in range(1000 - len(kept), 1000)]
    assert LOG_BYTES - 100 < len(rig.record()["log"].encode()) <= LOG_BYTES
    tell(rig, ref, None, shortened("\0" * 5000))
    assert len(info(rig)[2][-1]) == LINE_LIMIT
    rig.settle(ref, Kind.COMPLETED)


def test_times_are_the_servers(rig: Rig) -> None:
    ref = rig.take()
    rig.run(report(rig.keys, "j", ref, 3, None, "b", [Line(5000, "before"), Line(0, "now")]))
    facts = rig.inspect()
    before, now = job_info("q", "j", facts).logs
    assert (before.run, now.run) == (3, 3)
    assert before.at and now.at
    assert (now.at - before.at).total_seconds() == 5
    assert abs(now.at.timestamp() * 1000 - facts.now) < 2000
    rig.settle(ref, Kind.COMPLETED)


def test_garbage_in_a_record_is_not_shown(rig: Rig) -> None:
    ref = rig.take()
    for progress, log in (("{", "{"), ('["x"]', "[1]\n[2,3]"), (f'["{ref}","a",7]', '[[],"a",[]]'), ("7", "\n")):
        rig.link.execute("HSET", rig.keys.job("j"), "progress", progress, "log", log)
        assert info(rig) == (None, None, [])
    rig.settle(ref, Kind.COMPLETED)
