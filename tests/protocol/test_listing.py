"""What people see of queues: counts, lists of jobs, hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as redis_py

from millstream.protocol import control, transitions
from millstream.protocol.errors import InvalidJob, JobNotFound
from millstream.protocol.info import State
from millstream.protocol.inspect import browse, hosts, known_queues
from millstream.protocol.listing import Wanted, find_job, infos_of, list_jobs
from millstream.protocol.transitions import Kind
from tests.support.filled import CONSUMER, Filled


@pytest.fixture
def filled(url: str, prefix: str) -> Iterator[Filled]:
    queue = Filled(url, prefix)
    yield queue
    queue.link.close()


@pytest.fixture
def places(filled: Filled) -> Iterator[Filled]:
    """j1 runs; j2, j3 wait; j4 is held; j5 is due; j6 is dead; j7 completed."""
    filled.add(7)
    taken = filled.take(7)
    filled.end([taken[6]], r=7)
    error = {"type": "ValueError", "message": "no luck", "traceback": "", "cause": "error"}
    filled.end([taken[5]], Kind.DEAD, c="error", e=error)
    filled.end([taken[4]], Kind.RETRY)
    filled.link.run(transitions.give_back(filled.keys, CONSUMER, [taken[1].ref, taken[2].ref]))
    filled.link.run(control.pause(filled.keys))
    filled.link.run(transitions.give_back(filled.keys, CONSUMER, [taken[3].ref]))
    yield filled
    control.resume_all(filled.link, filled.keys)
    filled.end(filled.take(1) + filled.take(1) + filled.take(1))
    filled.end([taken[0]])
    control.purge_all(filled.link, filled.keys, due=True)
    control.delete_dead(filled.link, filled.keys, ["j6"])


class TestLists:
    def test_each_place(self, places: Filled) -> None:
        found = {
            place: places.link.run(browse(places.keys, place)).ids
            for place in ("running", "queued", "due", "dead", "history")
        }
        assert found == {
            "running": ["j1"],
            "queued": ["j2", "j3", "j4"],
            "due": ["j5"],
            "dead": ["j6"],
            "history": ["j6", "j7"],
        }

    def test_all_jobs_in_order(self, places: Filled) -> None:
        page = list_jobs(places.link, [places.keys], Wanted())
        assert [(info.id, str(info.state)) for info in page.jobs] == [
            ("j1", "running"),
            ("j2", "queued"),
            ("j3", "queued"),
            ("j4", "queued"),
            ("j5", "retrying"),
            ("j6", "dead"),
            ("j7", "completed"),
        ]
        assert page.cursor is None

    @pytest.mark.parametrize("limit", [1, 2, 3, 5])
    @pytest.mark.parametrize("name", [None, "count"])
    def test_pages_join_to_the_whole(self, places: Filled, limit: int, name: str | None) -> None:
        ids: list[str] = []
        cursor: str | None = None
        while True:
            page = list_jobs(places.link, [places.keys], Wanted(name=name), limit=limit, cursor=cursor)
            assert len(page.jobs) <= limit
            ids += [info.id for info in page.jobs]
            cursor = page.cursor
            if cursor is None:
                break
        assert ids == ["j1", "j2", "j3", "j4", "j5", "j6", "j7"]

    def test_filters(self, places: Filled) -> None:
        def ids(wanted: Wanted) -> list[str]:
            return [info.id for info in list_jobs(places.link, [places.keys], wanted).jobs]

        assert ids(Wanted({State.RETRYING, State.DEAD})) == ["j5", "j6"]
        assert ids(Wanted({State.SCHEDULED})) == []
        assert ids(Wanted(name="another")) == []

    def test_a_cursor_of_another_list_is_refused(self, places: Filled) -> None:
        with pytest.raises(InvalidJob, match="cursor 'dead/q/' is not of this list"):
            list_jobs(places.link, [places.keys], Wanted({State.RUNNING}), cursor="dead/q/")

    def test_a_job_is_found_in_any_queue(self, places: Filled) -> None:
        queues = [places.all_keys.queue("another"), places.keys]
        keys, info = find_job(places.link, queues, "j5")
        assert (keys.queue, info.id, info.state) == ("q", "j5", State.RETRYING)
        with pytest.raises(JobNotFound, match="there is no job 'j9' in any of 2 queues"):
            find_job(places.link, queues, "j9")
        assert [info.id for info in infos_of(places.link, places.keys, ["j9", "j1"])] == ["j1"]

    def test_survey(self, places: Filled) -> None:
        seen = places.survey()
        assert (seen.running, seen.waiting, seen.held, seen.due, seen.dead) == (1, 3, 1, 1, 1)
        assert seen.streams == {"again": 2, "critical": 0, "high": 0, "normal": 0, "low": 0}
        assert seen.oldest is not None
        assert seen.next_due is not None


def test_queues_with_and_without_a_tag(filled: Filled, redis: redis_py.Redis) -> None:
    redis.sadd(filled.all_keys.queues, "plain", "tagged@shared")
    found = known_queues(filled.link, filled.all_keys)
    assert [(keys.queue, keys.tag) for keys in found] == [("plain", None), ("tagged", "shared")]


def test_hosts_by_their_heartbeats(filled: Filled, redis: redis_py.Redis) -> None:
    seconds, micros = redis.time()
    now = seconds * 1000 + micros // 1000
    redis.hset(filled.all_keys.hosts, "new", f'{{"at": {now}, "lease": 30, "pid": 7}}')
    redis.hset(filled.all_keys.hosts, "gone", f'{{"at": {now - 31_000}, "lease": 30}}')
    redis.hset(filled.all_keys.hosts, "garbage", "what")
    gone, new = hosts(filled.link, filled.all_keys)
    assert (gone.name, gone.alive, new.name, new.alive) == ("gone", False, "new", True)
    assert gone.age >= 31
    assert new.to_dict()["pid"] == 7
