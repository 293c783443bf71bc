"""Pause, resume, purge, dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

from millstream.protocol import control, transitions
from millstream.protocol.control import Resuming, Retried
from millstream.protocol.info import State, job_info
from millstream.protocol.transitions import Kind
from tests.support.filled import CONSUMER, Filled


@pytest.fixture
def filled(url: str, prefix: str) -> Iterator[Filled]:
    queue = Filled(url, prefix)
    yield queue
    queue.link.close()


def kinds(redis: redis_py.Redis, filled: Filled) -> list[str]:
    entries: Any = redis.xrange(filled.keys.control)
    return [fields[b"kind"].decode() for _, fields in entries]


class TestPause:
    def test_nothing_is_fetched_and_what_comes_is_held(self, filled: Filled, redis: redis_py.Redis) -> None:
        before = filled.add(2)
        assert filled.link.run(control.pause(filled.keys)) is True
        after = filled.add(3)
        assert filled.take(10) == []
        seen = filled.survey()
        assert (seen.paused, seen.resuming, seen.waiting, seen.held) == (True, False, 5, 3)
        assert kinds(redis, filled) == ["pause"]
        control.resume_all(filled.link, filled.keys)
        assert filled.drain() == before + after

    def test_a_second_pause_says_so_and_publishes_nothing(self, filled: Filled, redis: redis_py.Redis) -> None:
        filled.link.run(control.pause(filled.keys))
        assert filled.link.run(control.pause(filled.keys)) is False
        assert kinds(redis, filled) == ["pause"]

    def test_what_runs_meanwhile_may_end_or_come_back(self, filled: Filled) -> None:
        filled.add(3)
        completed, retried, released = filled.take(3)
        filled.link.run(control.pause(filled.keys))
        filled.end([completed])
        filled.end([retried], Kind.CRASH)
        filled.link.run(transitions.give_back(filled.keys, CONSUMER, [released.ref]))
        seen = filled.survey()
        assert (seen.running, seen.held) == (0, 2)
        control.resume_all(filled.link, filled.keys)
        # Both go to `again`, in the order in which they came back, with what they had counted.
        first, second = filled.take(1) + filled.take(1)
        assert [(entry.id, entry.ref[0]) for entry in (first, second)] == [(retried.id, "a"), (released.id, "a")]
        assert (first.crashes, first.alone, second.run) == (1, True, 2)
        filled.end([first, second])

    def test_a_held_job_can_be_cancelled(self, filled: Filled) -> None:
        filled.link.run(control.pause(filled.keys))
        gone, stays = filled.add(2)
        assert filled.link.run(transitions.cancel(filled.keys, gone, 60.0))[0] == "ok"
        assert control.resume_all(filled.link, filled.keys) == (Resuming.DONE, 1)
        assert filled.drain() == [stays]


class TestResume:
    def test_priorities_and_order_are_kept(self, filled: Filled) -> None:
        filled.link.run(control.pause(filled.keys))
        low, normal = filled.add(2, band="low"), filled.add(2)
        critical, high = filled.add(2, band="critical"), filled.add(2, band="high")
        assert control.resume_all(filled.link, filled.keys) == (Resuming.DONE, 8)
        assert filled.drain() == [*critical, *high, *normal, *low]

    def test_steps_are_bounded_and_new_jobs_queue_up_behind(self, filled: Filled, redis: redis_py.Redis) -> None:
        filled.link.run(control.pause(filled.keys))
        held = filled.add(25)
        assert filled.link.run(control.resume(filled.keys, count=10)) == (Resuming.MORE, 10)
        late = filled.add(1)
        seen = filled.survey()
        assert (seen.paused, seen.resuming, seen.held) == (True, True, 16)
        assert control.resume_all(filled.link, filled.keys) == (Resuming.DONE, 16)
        assert kinds(redis, filled) == ["pause", "resume", "resume"]
        assert filled.drain() == held + late

    def test_what_is_moved_already_runs_while_the_rest_is_held(self, filled: Filled) -> None:
        filled.link.run(control.pause(filled.keys))
        held = filled.add(3)
        filled.link.run(control.resume(filled.keys, count=2))
        taken = filled.take(10)
        assert [entry.id for entry in taken] == held[:2]
        filled.end(taken)
        control.resume_all(filled.link, filled.keys)
        assert filled.drain() == held[2:]

    def test_another_goes_on_only_with_what_was_begun(self, filled: Filled) -> None:
        assert filled.link.run(control.resume(filled.keys, begin=False)) == (Resuming.OPEN, 0)
        filled.link.run(control.pause(filled.keys))
        held = filled.add(4)
        assert filled.link.run(control.resume(filled.keys, begin=False)) == (Resuming.PAUSED, 0)
        filled.link.run(control.resume(filled.keys, count=1))
        assert filled.link.run(control.resume(filled.keys, begin=False)) == (Resuming.DONE, 3)
        assert filled.drain() == held

    def test_a_pause_in_between_stops_it(self, filled: Filled) -> None:
        filled.link.run(control.pause(filled.keys))
        held = filled.add(4)
        filled.link.run(control.resume(filled.keys, count=1))
        assert filled.link.run(control.pause(filled.keys)) is True
        assert filled.link.run(control.resume(filled.keys, begin=False)) == (Resuming.PAUSED, 0)
        assert filled.take(10) == []
        control.resume_all(filled.link, filled.keys)
        assert filled.drain() == held

    def test_an_entry_that_was_moved_already_is_dropped(self, filled: Filled, redis: redis_py.Redis) -> None:
        filled.link.run(control.pause(filled.keys))
        held = filled.add(1)
        entries: Any = redis.xrange(filled.keys.held)
        control.resume_all(filled.link, filled.keys)
        filled.link.run(control.pause(filled.keys))
        redis.xadd(filled.keys.held, entries[0][1])
        assert control.resume_all(filled.link, filled.keys) == (Resuming.DONE, 0)
        assert filled.drain() == held


class TestPurge:
    def test_only_what_waits_is_removed(self, filled: Filled, redis: redis_py.Redis) -> None:
        filled.add(3)
        running = filled.take(2)
        filled.add(2, band="high")
        filled.link.run(control.pause(filled.keys))
        filled.add(2)
        due = filled.add(2, delay=60)
        assert control.purge_all(filled.link, filled.keys) == 5
        seen = filled.survey()
        assert (seen.waiting, seen.running, seen.due) == (0, 2, 2)
        records = {key.decode().rpartition(":")[2] for key in redis.scan_iter(filled.keys.records + "*")}
        assert records == {entry.id for entry in running} | set(due)
        filled.end(running)
        assert control.purge_all(filled.link, filled.keys, due=True) == 2
        assert filled.survey().counters == {"completed": 2, "purged": 7}

    def test_steps_are_bounded(self, filled: Filled) -> None:
        filled.add(25)
        assert filled.link.run(control.purge(filled.keys, count=10)) == (10, True)
        assert control.purge_all(filled.link, filled.keys) == 15

    def test_a_group_that_was_rebuilt_does_not_expose_what_runs(self, filled: Filled, redis: redis_py.Redis) -> None:
        filled.add(3)
        running = filled.take(2)
        redis.xgroup_setid(filled.keys.stream("normal"), "millstream", "0")
        assert control.purge_all(filled.link, filled.keys) == 1
        assert filled.survey().running == 2
        filled.end(running)

    def test_garbage_in_a_stream_goes_too(self, filled: Filled, redis: redis_py.Redis) -> None:
        filled.add(1)
        redis.xadd(filled.keys.stream("normal"), {"what": "ever"})
        redis.xadd(filled.keys.stream("normal"), {"id": "j1", "env": "an entry that the record does not know"})
        assert control.purge_all(filled.link, filled.keys) == 3

    def test_a_queue_that_was_never_used(self, filled: Filled) -> None:
        assert control.purge_all(filled.link, filled.keys, due=True) == 0

    def test_who_waits_for_a_purged_job_is_woken(self, filled: Filled, redis: redis_py.Redis) -> None:
        (job,) = filled.add(1)
        filled.link.run(transitions.await_end(filled.keys, job, 1))
        control.purge_all(filled.link, filled.keys)
        assert redis.lpop(filled.keys.waits + job) == b"1"
        assert filled.link.run(transitions.await_end(filled.keys, job, 0)) == ""


class TestDead:
    def test_a_retried_job_starts_afresh_and_keeps_its_history(self, filled: Filled) -> None:
        (job,) = filled.die(1)
        assert control.retry_dead(filled.link, filled.keys, [job]) == {job: Retried.QUEUED}
        seen = filled.survey()
        assert (seen.dead, seen.waiting) == (0, 1)
        (entry,) = filled.take(1)
        assert (entry.id, entry.run, entry.attempt, entry.crashes, entry.args) == (job, 2, 0, 0, [job])
        filled.end([entry], r="done")
        info = job_info("q", job, filled.link.run(transitions.inspect(filled.keys, job)))
        assert (info.state, info.result, info.error) == (State.COMPLETED, "done", None)
        assert [attempt.cause for attempt in info.attempts] == ["error", None]

    def test_the_result_of_an_earlier_run_is_not_kept(self, filled: Filled) -> None:
        (job,) = filled.die(1, r={"large": True}, c="result")
        control.retry_dead(filled.link, filled.keys, [job])
        tries = filled.link.run(transitions.inspect(filled.keys, job)).record["tries"]
        assert b"large" not in tries
        assert b'"c":"result"' in tries
        filled.drain()

    def test_priority_is_kept(self, filled: Filled) -> None:
        filled.add(1, band="high")
        filled.end(filled.take(1), Kind.DEAD)
        control.retry_dead(filled.link, filled.keys, ["j1"])
        normal = filled.add(1)
        assert filled.drain() == ["j1", *normal]

    def test_a_paused_queue_holds_it(self, filled: Filled) -> None:
        (job,) = filled.die(1)
        filled.link.run(control.pause(filled.keys))
        assert control.retry_dead(filled.link, filled.keys, [job]) == {job: Retried.QUEUED}
        assert filled.survey().held == 1
        control.resume_all(filled.link, filled.keys)
        assert filled.drain() == [job]

    def test_what_is_not_dead_is_told(self, filled: Filled) -> None:
        (job,) = filled.add(1)
        expected = {job: Retried.NOT_DEAD, "unknown": Retried.NOT_DEAD}
        assert control.retry_dead(filled.link, filled.keys, [job, "unknown"]) == expected
        assert control.delete_dead(filled.link, filled.keys, [job, "unknown"]) == 0
        assert filled.drain() == [job]

    def test_a_malformed_entry_has_nothing_to_run(self, filled: Filled, redis: redis_py.Redis) -> None:
        (job,) = filled.die(1)
        redis.hdel(filled.keys.job(job), "env")
        assert control.retry_dead(filled.link, filled.keys, [job]) == {job: Retried.MALFORMED}
        assert filled.survey().dead == 1
        assert control.delete_dead(filled.link, filled.keys, [job]) == 1

    def test_a_deleted_one_is_gone(self, filled: Filled, redis: redis_py.Redis) -> None:
        ids = filled.die(250)
        assert control.delete_dead(filled.link, filled.keys, ids) == 250
        assert filled.survey().dead == 0
        assert list(redis.scan_iter(filled.keys.records + "*")) == []
