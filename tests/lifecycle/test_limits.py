"""Limits of a queue over two hosts, as somebody sees them who only reads when each job started and ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable

import psutil
import pytest

from millstream.protocol import control, limits
from millstream.protocol.app import Millstream
from millstream.protocol.inspect import survey
from millstream.protocol.limits import checked_limit
from millstream.protocol.link import Link
from tests.lifecycle import program
from tests.lifecycle.conftest import Mill, StartMill
from tests.support.acl import as_role
from tests.support.servers import Kind
from tests.support.waiting import stays, wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

LEASE = 2.0
HALF = 0.2
"""Seconds within which a pause or a resume holds on all hosts."""


def _two_hosts(mill: StartMill, processes: int = 3) -> tuple[Mill, Mill]:
    def start(name: str) -> Mill:
        return mill(processes=processes, crash_limit=10, supervisor=f'name = "{name}"\nlease = {LEASE}')

    return start("a"), start("b")


def _limit(running: Mill, concurrency: int | None = None, rate: str | None = None, burst: int | None = None) -> None:
    keys = running.app.queue_keys("default")
    running.operator.run(limits.set_limit(keys, checked_limit(concurrency, rate, burst)))


def _spans(hosts: Iterable[Mill]) -> list[tuple[float, str, str]]:
    """What the jobs noted of themselves: moment (monotonic), began or ended, and which run of which job."""
    notes = (line.split() for host in hosts for word in ("began", "ended") for line in host.lines(word))
    return sorted((float(moment), word, f"{job}/{run}") for word, job, run, moment in notes)


def _ended(hosts: Iterable[Mill]) -> int:
    return sum(word == "ended" for _, word, _ in _spans(hosts))


def _warmed_up(running: Mill) -> None:
    """Tiny jobs have made large batches; then nobody is in a blocking read any more, and nobody fetches."""
    for handle in program.app.enqueue_many(program.add.job(number) for number in range(1000)):
        handle.result(20)
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    with contextlib.closing(Link(as_role(running.app.client.url, "admin"))) as link:
        blocked = re.compile(rb" flags=b .*cmd=xreadgroup ")
        wait_until(lambda: not blocked.search(link.execute("CLIENT", "LIST")), 10.0)
        stays(lambda: not blocked.search(link.execute("CLIENT", "LIST")), 0.5)  # it was not between two of them


def _most_at_once(hosts: Iterable[Mill], died: dict[str, float]) -> int:
    """How many ran at once at most; *died*: when runs that noted no end were killed."""
    spans = _spans(hosts)
    ended = {run for _, word, run in spans if word == "ended"}
    moments = [(moment, 1 if word == "began" else -1) for moment, word, _ in spans]
    moments += [(died.get(run, float("inf")), -1) for _, word, run in spans if word == "began" and run not in ended]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def _nothing_is_stuck(running: Mill) -> None:
    found = running.operator.run(survey(running.app.queue_keys("default")))
    assert (found.waiting, found.running, found.due, found.parked, found.dead) == (0, 0, 0, 0, 0)
    exists = running.operator.execute("EXISTS", *(running.app.queue_keys("default").room(name) for name in ("gate",)))
    assert exists == 0


def test_no_more_run_than_allowed_while_workers_and_a_host_are_killed(mill: StartMill) -> None:
    first, second = _two_hosts(mill)
    _limit(first, 2)
    handles = program.app.enqueue_many(program.span.job(f"job{number}", 0.15) for number in range(30))
    died: dict[str, float] = {}

    def running(host: Mill) -> set[str]:
        runs = {word: {f"{one.split()[1]}/{one.split()[2]}" for one in host.lines(word)} for word in ("began", "ended")}
        return runs["began"] - runs["ended"] - died.keys()

    def kill(victim: Mill, pids: list[int]) -> None:
        for pid in pids:
            psutil.Process(pid).suspend()  # at one stroke: nothing more is noted, nothing is cleaned up
        killed = running(victim)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        died.update(dict.fromkeys(killed, time.monotonic()))

    hosts = (first, second)

    def busy_one() -> Mill:
        return wait_until(lambda: next((host for host in hosts if running(host)), None), 20.0)

    for _ in range(3):
        before = _ended(hosts)
        wait_until(lambda before=before: _ended(hosts) >= before + 2, 20.0)  # type: ignore[misc]
        victim = busy_one()
        kill(victim, victim.up.workers())
    lost = busy_one()
    kept = second if lost is first else first
    kill(lost, [lost.up.pid, *(process.pid for process in lost.up.tree())])
    lost.up.wait()
    for handle in handles:
        assert handle.result(40) is None
    assert died
    assert _most_at_once(hosts, died) <= 2
    assert len({run.split("/")[0] for _, word, run in _spans(hosts) if word == "ended"}) == 30
    wait_until(lambda: kept.operator.run(survey(kept.app.queue_keys("default"))).running == 0)
    _nothing_is_stuck(kept)
    kept.up.stop()


def test_a_limit_is_used_in_full_and_nobody_waits_for_a_fetched_job(mill: StartMill) -> None:
    """Tiny jobs have made large batches before; with a limit each worker fetches one."""
    first, second = _two_hosts(mill, processes=2)
    for handle in program.app.enqueue_many(program.noop.job(number) for number in range(300)):
        handle.result(20)
    _limit(first, 3)
    program.app.enqueue_many(program.span.job(f"job{number}", 0.3) for number in range(9))
    wait_until(lambda: len([one for one in _spans([first, second]) if one[1] == "ended"]) == 9, 20.0)
    assert _most_at_once([first, second], {}) == 3
    _nothing_is_stuck(first)
    first.up.stop()
    second.up.stop()


def test_no_more_start_in_any_time_than_burst_and_rate_allow(mill: StartMill) -> None:
    first, second = _two_hosts(mill)
    _limit(first, rate="20/s", burst=3)
    handles = program.app.enqueue_many(program.span.job(f"job{number}", 0) for number in range(40))
    for handle in handles:
        handle.result(20)
    starts = [moment for moment, word, _ in _spans([first, second]) if word == "began"]
    late = 0.05  # from the delivery, which is what counts, to the note, on a busy machine
    for index, begin in enumerate(starts):
        for count, end in enumerate(starts[index:], 1):
            assert count <= 3 + 20 * (end - begin + late) + 1e-6
    _nothing_is_stuck(first)
    first.up.stop()
    second.up.stop()


def test_a_pause_and_a_resume_hold_within_200_ms_also_for_idle_workers(mill: StartMill) -> None:
    first, second = _two_hosts(mill)
    keys, operator = first.app.queue_keys("default"), first.operator
    assert program.add.enqueue(1).result(5) == 3
    operator.run(control.pause(keys))  # all workers are in a blocking read
    handles = program.app.enqueue_many(program.span.job(f"held{number}", 0) for number in range(5))
    stays(lambda: not _spans([first, second]), 0.5)
    resumed = time.monotonic()
    control.resume_all(operator, keys)
    for handle in handles:
        handle.result(5)
    assert _spans([first, second])[0][0] - resumed <= HALF
    stream = iter(range(100_000))
    while len(_spans([first, second])) < 30:
        program.app.enqueue_many(program.span.job(f"busy{next(stream)}", 0.02) for _ in range(20))
    operator.run(control.pause(keys))
    paused = time.monotonic()
    program.app.enqueue_many(program.span.job(f"late{number}", 0.02) for number in range(20))
    time.sleep(1.0)  # in this time something would start, if anything did
    assert max(moment for moment, word, _ in _spans([first, second]) if word == "began") - paused <= HALF
    control.resume_all(operator, keys)
    wait_until(lambda: operator.run(survey(keys)).waiting + operator.run(survey(keys)).running == 0, 30.0)
    _nothing_is_stuck(first)
    first.up.stop()
    second.up.stop()


def test_what_was_fetched_behind_a_long_job_does_not_start_after_a_pause(mill: StartMill) -> None:
    """There is nobody idle to whom it would have been handed."""
    running = mill(processes=1)
    _warmed_up(running)
    program.until.enqueue("gate", "go")
    program.app.enqueue_many(program.span.job(f"behind{number}", 0) for number in range(3))
    running.up.send(signal.SIGCONT)
    running.wait_for("start", "gate")
    keys = running.app.queue_keys("default")
    assert running.operator.run(survey(keys)).running == 4
    running.operator.run(limits.pause_job(keys, "span"))
    wait_until(lambda: running.operator.run(survey(keys)).running == 1, 2.0)
    running.touch("go")
    running.wait_for("end", "gate")
    assert program.add.enqueue(1).result(5) == 3
    assert not running.lines("began")
    limits.resume_whole_job(running.operator, keys, "span")
    running.wait_for("ended", count=3)
    _nothing_is_stuck(running)
    running.up.stop()


def test_a_paused_name_holds_back_its_jobs_alone_on_all_hosts(mill: StartMill) -> None:
    first, second = _two_hosts(mill)
    keys, operator = first.app.queue_keys("default"), first.operator
    operator.run(limits.pause_job(keys, "span"))
    handles = program.app.enqueue_many(program.span.job(f"held{number}", 0) for number in range(5))
    assert [program.add.enqueue(number).result(5) for number in range(10)] == list(range(2, 12))
    assert not _spans([first, second])
    resumed = time.monotonic()
    limits.resume_whole_job(operator, keys, "span")
    for handle in handles:
        handle.result(5)
    assert _spans([first, second])[0][0] - resumed <= HALF
    _nothing_is_stuck(first)
    first.up.stop()
    second.up.stop()


def test_bands_are_strict_for_workers(mill: StartMill, app: Millstream) -> None:
    for band in ("low", "normal", "high", "critical"):
        app.enqueue_many(program.nap.using(priority=band).job(f"{band}{number:02}", 0) for number in range(40))
    running = mill()
    running.wait_for("end", count=160, timeout=20.0)
    order = [line.split()[1] for line in running.lines("end")]
    wanted = [f"{band}{number:02}" for band in ("critical", "high", "normal", "low") for number in range(40)]
    assert order == wanted
    running.up.stop()


def test_a_queue_with_a_small_weight_is_not_starved(mill: StartMill, app: Millstream) -> None:
    """The other one is never empty, and each of them gets its share all the time."""
    for queue, count in (("urgent", 500), ("default", 20)):
        app.enqueue_many(program.nap.using(queue=queue).job(queue, 0.006) for _ in range(count))
    running = mill(queues="{ urgent = 9, default = 1 }")
    running.wait_for("end", "default", count=20, timeout=40.0)
    assert running.count("end", "urgent") < 500
    running.wait_for("end", count=520, timeout=40.0)
    running.up.stop()


def test_keys_hold_over_hosts_and_a_kill_and_keep_nobody_waiting(mill: StartMill) -> None:
    first, second = _two_hosts(mill)
    hosts = (first, second)
    keyed = [
        program.span.using(concurrency_key=f"user-{number % 3}", concurrency=1).job(f"user-{number % 3}", 0.1)
        for number in range(24)
    ]
    handles = program.app.enqueue_many(keyed)
    assert program.add.enqueue(1).result(5) == 3, "nobody else waits behind them"
    wait_until(lambda: _ended(hosts) >= 4, 20.0)
    wait_until(lambda: first.count("began") > first.count("ended"), 20.0)
    for pid in first.up.workers():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _ended(hosts) >= 10, 20.0)
    tree = [psutil.Process(second.up.pid), *second.up.tree()]
    for process in tree:
        process.suspend()
    for process in reversed(tree):
        process.kill()
    second.up.wait()
    for handle in handles:
        assert handle.result(40) is None
    for user in range(3):
        spans = [one for one in _spans(hosts) if one[2].startswith(f"user-{user}/")]
        ended_at = 0.0
        for moment, word, _ in spans:
            if word == "began":
                assert moment >= ended_at
            else:
                ended_at = moment
        assert sum(word == "ended" for _, word, _ in spans) == 8
        begun = [index for index, (_, word, _) in enumerate(spans) if word == "began"]
        unfinished = [index for index in begun if index + 1 < len(spans) and spans[index + 1][1] != "ended"]
        assert len(unfinished) <= 2, "those that were killed; all others ended before the next began"
    wait_until(lambda: first.operator.run(survey(first.app.queue_keys("default"))).running == 0)
    _nothing_is_stuck(first)
    assert not first.operator.execute(
        "EXISTS", *(first.app.queue_keys("default").places + f"user-{n}" for n in range(3))
    )
    first.up.stop()
