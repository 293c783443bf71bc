"""Progress and log lines of a handler, as its caller sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import redis as redis_py

from millstream import CurrentJob, Handle, InvalidJob, Millstream, ResultNotKept, State
from millstream.worker import reporting
from tests.support.proxy import Proxy
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

ONE_SERVER = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

APP = """
import asyncio, ctypes, os, signal, threading, time
from pathlib import Path
from millstream import Discard, Millstream, Retry, current_job

app = Millstream()

def wait_for(name: str) -> None:
    while not Path(name).exists():
        time.sleep(0.01)

@app.job
def steps() -> None:
    job = current_job()
    for percent in range(0, 43):
        job.progress(percent, f"step {percent}")
        job.log(f"did {percent}")
    wait_for("go")
    job.progress(99.5)
    job.log("last")

@app.job
def tight(count: int) -> float:
    job, begun = current_job(), time.thread_time()
    for number in range(count):
        job.progress(number * 100 / count)
    return (time.thread_time() - begun) / count

@app.job(retry=Retry(attempts=2, delay=0.05, jitter=False))
def second_time() -> None:
    job = current_job()
    job.log(f"attempt {job.attempt}")
    if job.attempt == 1:
        job.progress(80)
        raise ValueError("no")

@app.job
def in_threads() -> None:
    job = current_job()
    threads = [threading.Thread(target=job.log, args=(f"thread {number}",)) for number in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

@app.job
async def in_coroutine() -> None:
    current_job().progress(10, "a")
    await asyncio.to_thread(lambda: current_job().log("from a thread"))
    await asyncio.gather(*(note(number) for number in range(3)))

async def note(number: int) -> None:
    current_job().log(f"task {number}")

@app.job
def in_a_fork() -> None:
    current_job().progress(1, "parent")
    child = os.fork()
    if child == 0:
        current_job().progress(50, "child")
        time.sleep(60)
    wait_for("go")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

@app.job(tags=["own"])
def labelled(ending: str) -> str:
    if ending == "discarded":
        raise Discard("not needed")
    return ending

@app.job(timeout=8, retry=1)
def hangs() -> None:
    current_job().progress(7, "before it hung")
    current_job().log("a line")
    wait_for("hang")
    sum(range(10**12))

@app.job(retry=1)
def dies() -> None:
    current_job().log("goodbye")
    current_job().progress(66)
    wait_for("go")
    os.kill(os.getpid(), signal.SIGKILL)

@app.job
def many() -> int:
    number = 0
    while not Path("go").exists():
        number += 1
        current_job().progress(50, str(number))
        current_job().log(str(number))
        Path("number").write_text(str(number))
        time.sleep(0.05)
    return number
"""

TOML = """
[workers.default]
queues = ["default"]
processes = 1
kill_after = 0.3
crash_limit = 1
"""


@pytest.fixture
def producer(url: str, prefix: str) -> Iterator[Callable[..., Handle[Any]]]:
    app = Millstream(redis_url=url, prefix=prefix)
    yield lambda name, *args: app.enqueue(name, *args, queue="default")
    app.client.close()


def lines(handle: Handle[Any]) -> list[str]:
    return [line.line for line in handle.info().logs]


def test_what_a_caller_sees(
    supervise: Callable[..., Supervised], producer: Callable[..., Handle[Any]], redis: redis_py.Redis
) -> None:
    up = supervise(APP, TOML)
    _while_it_runs_and_when_it_has_ended(up, producer("steps"))
    _a_tight_loop_costs_next_to_nothing(producer("tight", 200_000), redis)
    _a_failed_attempt(producer("second_time"))
    _threads_coroutines_and_forked_processes(up, producer)
    _labels_outlive_the_end_and_results_do_if_asked(up, redis)
    up.stop()


def _while_it_runs_and_when_it_has_ended(up: Supervised, handle: Handle[Any]) -> None:
    wait_until(lambda: handle.progress() == (42.0, "step 42"), describe=lambda: str(handle.info()) + up.log())
    wait_until(lambda: lines(handle) == [f"did {number}" for number in range(43)], describe=lambda: str(lines(handle)))
    assert handle.status() is State.RUNNING
    (up.folder / "go").touch()
    handle.result(10)
    assert handle.progress() == (99.5, None), "the last word is there when the end is"
    assert lines(handle)[-1] == "last"
    assert [line.run for line in handle.info().logs] == [1] * 44
    (up.folder / "go").unlink()


def _a_tight_loop_costs_next_to_nothing(handle: Handle[Any], redis: redis_py.Redis) -> None:
    before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    each = handle.result(60)
    assert each < 5e-6, "well above the 0.2 µs that it takes, for slow machines"
    assert handle.progress()[0] == pytest.approx(100, abs=0.01)
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 400, "not one call for each word"


def _a_failed_attempt(handle: Handle[Any]) -> None:
    """Its lines are kept, its progress is not the next one's."""
    handle.result(20)
    assert [(line.run, line.line) for line in handle.info().logs] == [(1, "attempt 1"), (2, "attempt 2")]
    assert handle.progress() == (None, None)


def _threads_coroutines_and_forked_processes(up: Supervised, producer: Callable[..., Handle[Any]]) -> None:
    threads, coroutine = producer("in_threads"), producer("in_coroutine")
    threads.result(10)
    assert sorted(lines(threads)) == [f"thread {number}" for number in range(5)]
    coroutine.result(10)
    assert coroutine.progress() == (10, "a")
    assert lines(coroutine) == ["from a thread", "task 0", "task 1", "task 2"]
    fork = producer("in_a_fork")
    wait_until(lambda: fork.progress() == (50, "child"), describe=lambda: str(fork.info()))
    (up.folder / "go").touch()
    fork.result(10)


def _labels_outlive_the_end_and_results_do_if_asked(up: Supervised, redis: redis_py.Redis) -> None:
    names: dict[str, Any] = {"__name__": "app_of_the_producer"}
    exec(APP, names)
    app, labelled = names["app"], names["labelled"]
    app.connect_to(up.redis_url, up.prefix)
    labels = {"tags": ["urgent", "own"], "metadata": {"customer": "acme", "lines": [1, None]}}
    for ending in ("completed", "discarded"):
        handle = labelled.using(**labels).enqueue(ending)
        app.client.wait_for_end(app.queue_keys("default"), handle.id, 20)
        info = handle.info()
        assert (info.state, info.args) == (ending, None)
        assert (info.tags, info.metadata) == (("own", "urgent"), labels["metadata"])
    plain = labelled.enqueue("x")
    assert plain.info().tags == ("own",)
    plain.result(10)

    kept = labelled.using(result_ttl=60).enqueue("kept")
    assert kept.result(10) == "kept"
    gone = labelled.using(result_ttl=0).enqueue("gone")
    with_id = labelled.using(result_ttl=0, id="mine").enqueue("gone")
    for handle, keep in ((gone, 300), (with_id, 86400), (kept, 300)):
        if handle is not kept:
            with pytest.raises(ResultNotKept, match="completed, but its result_ttl is 0: no result is kept") as raised:
                handle.result(10)
            assert raised.value.info.result is None
        assert handle.status() is State.COMPLETED
        assert keep - 60 < redis.ttl(app.queue_keys("default").job(handle.id)) <= keep
    assert not labelled.using(id="mine").enqueue("again").created, "its id is taken as that of any job"
    app.client.close()


@ONE_SERVER
@pytest.mark.leaves_jobs
def test_what_was_reported_before_a_kill(
    supervise: Callable[..., Supervised], producer: Callable[..., Handle[Any]]
) -> None:
    up = supervise(APP, TOML)
    hangs = producer("hangs")
    wait_until(lambda: hangs.progress()[0] == 7 and lines(hangs))
    (up.folder / "hang").touch()
    wait_until(lambda: hangs.status() is State.DEAD, 20, lambda: str(hangs.info()))
    assert hangs.progress() == (7, "before it hung")
    assert lines(hangs) == ["a line"]
    error = hangs.info().error
    assert error is not None
    assert "in hangs" in error.stack, error.stack
    assert "reporting" not in error.stack, "our own thread is no part of what hung"
    dies = producer("dies")
    wait_until(lambda: dies.progress() == (66, None) and lines(dies))
    (up.folder / "go").touch()
    wait_until(lambda: dies.status() is State.DEAD, 20, lambda: str(dies.info()))
    assert (dies.progress(), lines(dies)) == ((66, None), ["goodbye"])
    up.stop()


@ONE_SERVER
def test_a_handler_notices_no_outage(
    supervise: Callable[..., Supervised], producer: Callable[..., Handle[Any]], proxy: Proxy
) -> None:
    up = supervise(APP, TOML, redis_url=proxy.url)
    handle = producer("many")
    wait_until(lambda: handle.progress()[1], 20, lambda: str(handle.info()))
    proxy.blackhole()
    number = up.folder / "number"
    before = int(number.read_text() or 0)
    wait_until(lambda: int(number.read_text() or 0) > before + 30, 10, "the handler waits for Redis")
    proxy.resume()
    wait_until(lambda: len(lines(handle)) > before + 30, 20, lambda: str(lines(handle)))
    (up.folder / "go").touch()
    last = handle.result(20)
    wait_until(lambda: handle.progress() == (50, str(last)), describe=lambda: str(handle.info()))
    assert lines(handle) == [str(line + 1) for line in range(last)], "each line once"
    up.stop()


@pytest.fixture
def job() -> Iterator[CurrentJob]:
    before, reporting._reporter = reporting._reporter, None
    yield CurrentJob("j", "work", "q", 1, 1, {}, "n1-0")
    reporting._reporter = before


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan"), float("inf"), None, "50", True, [5], 1j])
def test_what_is_no_percentage(job: CurrentJob, percent: Any) -> None:
    with pytest.raises(ValueError, match=r"^progress .* is not valid: use a number from 0 to 100$"):
        job.progress(percent)


def test_what_is_one(job: CurrentJob) -> None:
    for percent in (0, 100, 0.5, Decimal("33.3")):
        job.progress(percent)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the message of progress 5 is not valid: use a text"):
        job.progress(1, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": "red"}, "tags 'red' are not valid: use a list of texts"),
        ({"tags": 5}, "tags 5 are not valid: use a list of texts"),
        ({"tags": ["a", 5]}, "tag 5 is not valid: use 1 to 100 printable characters"),
        ({"tags": ["x" * 101]}, "is not valid: use 1 to 100 printable characters"),
        ({"tags": [str(number) for number in range(21)]}, "21 tags are too many: use 20 at most"),
        ({"metadata": ["a"]}, r"metadata \['a'\] is not valid: use a dict of values by name"),
        ({"metadata": {"a": {1}}}, r"metadata\['a'\] is not JSON: set has no JSON form"),
        ({"metadata": {"a": [float("nan")]}}, r"metadata\['a'\]\[0\] is not JSON: nan has no JSON form"),
        ({"metadata": {1: "a"}}, "metadata is not JSON: the key 1 is not a string"),
        ({"metadata": {"a": "x" * 5000}}, "metadata is 5,008 bytes, the limit is 4,096"),
        ({"result_ttl": -1}, "result_ttl -1 is not valid"),
        ({"result_ttl": "1h"}, "result_ttl '1h' is not valid"),
    ],
)
def test_options_that_are_refused(options: Any, message: str) -> None:
    job = Millstream(redis_url="unix:///nowhere").job(name="work")(lambda: None)
    with pytest.raises(InvalidJob, match=message):
        job.using(**options)
