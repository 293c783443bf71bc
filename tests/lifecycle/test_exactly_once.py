"""Every job runs once, and nothing of it is left."""

from __future__ import annotations

import re
from collections import Counter

import redis as redis_py

from millstream.protocol.keys import STREAMS
from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill
from tests.support.waiting import wait_until

JOBS = 20_000


def test_twenty_thousand_jobs_run_once_each_and_leave_nothing(
    mill: StartMill, redis: redis_py.Redis, prefix: str
) -> None:
    running = mill(processes=2)
    handles = running.app.enqueue_many(program.noop.job(number) for number in range(JOBS))
    stats = prefix + "{default}:stats"
    wait_until(lambda: int(redis.hget(stats, "completed") or 0) >= JOBS, 60.0, running.up.log)

    ran = Counter(int(line.split()[1]) for line in running.lines("noop"))
    assert ran == Counter(range(JOBS))
    assert len({handle.id for handle in handles}) == JOBS
    running.up.stop()

    counters = running.counters()
    assert counters.pop("completed") == JOBS
    assert set(counters) <= {"release"}, counters  # a batch that met the end of the test
    _assert_nothing_left(redis, prefix)


def _assert_nothing_left(redis: redis_py.Redis, prefix: str) -> None:
    base = prefix + "{default}:"
    for name in STREAMS:
        stream = f"{base}stream:{name}"
        assert redis.xlen(stream) == 0
        assert [group["pending"] for group in redis.xinfo_groups(stream)] == [0]
    names = {key.decode().removeprefix(base) for key in redis.scan_iter(f"{prefix}*", count=5000)}
    records = {name for name in names if name.startswith("job:")}
    assert len(records) == JOBS
    pipe = redis.pipeline(transaction=False)
    for name in records:
        pipe.ttl(base + name)
    assert all(0 < ttl <= 3600 for ttl in pipe.execute())
    rest = names - records
    counted = r"stats(:.+)?|history(:\w+)?|enqueued"
    allowed = re.compile(rf"stream:\w+|{counted}|owners|control|meta|{prefix}(queues|hosts|schema)")
    assert all(allowed.fullmatch(name) for name in rest), rest
