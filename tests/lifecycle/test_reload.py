"""HUP: new jobs run new code, old jobs end under old code, the supervisor stays, and no job notices."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

import millstream
from millstream import Millstream
from millstream.protocol.location import DATA_FOLDER, socket_path
from tests.lifecycle.conftest import StartReloading, lives
from tests.lifecycle.reloading import Reloading, code, environment, pid_of, toml
from tests.support.processes import command_line, tree
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import stays, wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)


def test_new_jobs_run_new_code_and_old_jobs_end_under_old_code(reloading: StartReloading) -> None:
    running = reloading()
    workers, maintenance = running.up.workers(), running.up.maintenance()
    long = running.begin("long")
    old = pid_of(running.lines("start", "long")[0])
    running.reload(code("two"))
    assert running.runs() == "two"
    assert lives(old)
    wait_until(lambda: set(workers) & set(running.up.workers()) == {old}, 5.0, "the idle old worker has left")
    assert len(running.up.workers()) == 3
    assert len(running.others("maintenance")) == 1
    assert running.up.maintenance() != maintenance
    running.touch("go")
    assert long.result(10) == "one"
    assert long.info().attempts[0].cause is None
    wait_until(lambda: not lives(old), 5.0, "its worker leaves")
    assert running.runs() == "two"
    assert running.count("start", "long") == 1
    running.up.stop()
    assert "Traceback" not in running.up.log(), running.up.log()


@pytest.mark.parametrize("preload", ["false", "true"])
def test_no_job_is_lost_delayed_or_run_twice_under_load(reloading: StartReloading, preload: str) -> None:
    running = reloading(toml(f"preload = {preload}"))
    handles = []
    over = threading.Event()

    def produce() -> None:
        for number in range(2000):
            handles.append(running.enqueue("work", f"n{number}"))
            if over.wait(0.01) and number >= 300:
                return

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for version in ("two", "three", "four"):
            running.reload(code(version))
    finally:
        over.set()
        producer.join()
    handles.append(running.enqueue("work", f"n{len(handles)}"))  # the producer may have ended before the last one
    versions = [handle.result(20) for handle in handles]
    assert len(versions) >= 300
    assert set(versions) == {"one", "two", "three", "four"}
    starts = [line.split() for line in running.lines("start")]
    assert Counter(words[1] for words in starts) == {f"n{number}": 1 for number in range(len(handles))}
    moments = sorted(float(words[4]) for words in starts)
    assert max(after - before for before, after in pairwise(moments)) < 1.0
    assert running.counters()["completed"] == len(handles)
    assert {info.crashes for info in (handle.info() for handle in handles)} == {0}
    running.up.stop()


def test_what_waits_behind_a_long_job_does_not_wait_for_its_end(reloading: StartReloading) -> None:
    """The only worker has fetched them all, and is told to leave: the rest of its batch goes back at once."""
    running = reloading(toml(default='processes = 1\nqueues = ["default"]'))
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    for number in range(200):  # until the worker takes them to be short, and fetches many at a time
        running.enqueue("work", f"short{number}")
    handles = [running.enqueue("work", "long", "go"), *(running.enqueue("work", f"n{n}") for n in range(5))]
    running.up.send(signal.SIGCONT)
    running.wait_for("start", "long")
    held = running.up.command("queues", "show", "default", "--json").stdout
    assert re.search(r'"running": ?[2-9]', held), held
    running.reload(code("two"))
    assert [handle.result(5) for handle in handles[1:]] == ["two"] * 5
    assert handles[0].status() == "running"
    running.touch("go")
    assert handles[0].result(5) == "one"
    running.up.stop()


def test_two_hups_are_two_reloads_and_the_second_counts(reloading: StartReloading) -> None:
    running = reloading()
    running.hup()
    running.wait_event("reload.started")
    running.deploy(code("two"))
    running.hup()
    running.hup()
    running.wait_event("reload.started", 2)
    running.wait_event("reload.done")
    wait_until(lambda: running.runs() == "two", 10.0)
    stays(lambda: running.events("reload.started") == 2, 1.0, "the third was one with the second")
    assert running.up.pid == running.pid and running.up.running
    running.up.stop()


def test_new_workers_that_never_get_ready_leave_the_old_ones_at_work(reloading: StartReloading) -> None:
    """The import works, the start hook does not: what no rehearsal sees."""
    hook = "\n@app.on_worker_start\ndef die() -> None:\n    os._exit(3)\n"
    running = reloading(toml("restart_intensity = 1"))
    running.deploy(code("two", hook))
    running.hup()
    running.up.wait_log('"event":"group.degraded"', 30)
    assert running.events("reload.done") == 0
    assert running.runs() == "one"
    running.reload(code("three"))
    assert running.runs() == "three"
    running.up.stop()


def test_a_quiet_supervisor_stays_quiet(reloading: StartReloading) -> None:
    running = reloading()
    running.up.send(signal.SIGTSTP)
    running.up.wait_log("SIGTSTP")
    running.reload(code("two"))
    handle = running.enqueue("work", "later")
    stays(lambda: running.count("start") == 0, 1.0)
    running.up.send(signal.SIGCONT)
    assert handle.result(10) == "two"
    running.up.stop()


def test_a_hup_before_it_is_ready_waits_until_then(url: str, prefix: str, tmp_path: Path) -> None:
    slow = code("one", "\n@app.on_worker_start\ndef wait() -> None:\n    time.sleep(1)\n")
    up = Supervised(tmp_path / "own", slow, toml(), redis_url=url, prefix=prefix, env=environment(tmp_path))
    try:
        up.start(wait=False)
        up.wait_log("worker.started", 20)
        up.send(signal.SIGHUP)
        up.wait_log("reload.done", 30)
        assert up.log().index("SIGHUP") < up.log().index("millstream is ready") < up.log().index("reload.started")
        up.stop()
    finally:
        up.close()


def test_reloads_leave_no_descriptors_and_no_processes(reloading: StartReloading) -> None:
    running = reloading()

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{running.pid}/fd"))

    before = descriptors()
    for _ in range(4):
        running.reload()
    wait_until(lambda: len(running.up.tree()) == 3, 10.0, running.up.log)
    wait_until(lambda: descriptors() == before, 5.0, lambda: f"{descriptors()}, not {before}")
    running.up.stop()


# The configuration.


def test_more_processes(reloading: StartReloading) -> None:
    running = reloading()
    running.reload(configuration=toml(default='processes = 5\nqueues = ["default"]'))
    wait_until(lambda: len(running.up.workers()) == 5, 10.0)
    handles = [running.enqueue("work", f"n{number}", "go") for number in range(5)]
    running.wait_for("start", count=5)
    running.touch("go")
    assert [handle.result(10) for handle in handles] == ["one"] * 5
    running.reload(configuration=toml(default='processes = 1\nqueues = ["default"]'))
    wait_until(lambda: len(running.up.workers()) == 1, 10.0)
    running.up.stop()


def test_new_changed_and_removed_groups(reloading: StartReloading) -> None:
    """Old workers keep the group of their start, whatever has its name or its place now."""
    running = reloading(
        toml(
            a='processes = 1\nqueues = ["a"]', b='processes = 1\nqueues = ["x", "b"]', c='processes = 1\nqueues = ["c"]'
        )
    )
    jobs = {queue: running.begin(f"on-{queue}", queue=queue) for queue in ("a", "b", "c")}
    running.reload(configuration=toml(c='processes = 1\nqueues = ["c", "d"]', e='processes = 1\nqueues = ["a", "b"]'))
    for queue in ("a", "b", "c", "d"):
        assert running.enqueue("work", f"new-{queue}", queue=queue).result(10) == "one"

    def groups() -> list[str]:
        return sorted(re.findall(r'"group": ?"(\w)"', running.up.command("ps", "--json").stdout))

    wait_until(lambda: groups() == ["a", "b", "c", "c", "e"], 10.0, lambda: f"{groups()}")
    victim = pid_of(running.lines("start", "on-b")[0])
    os.kill(victim, signal.SIGKILL)
    running.wait_for("start", "on-b", count=2)
    assert jobs["a"].cancel()
    wait_until(lambda: jobs["a"].status() == "cancelled", 10.0, running.up.log)
    running.touch("go")
    assert [jobs[queue].result(10) for queue in ("b", "c")] == ["one", "one"]
    assert (jobs["b"].info().crashes, jobs["c"].info().crashes) == (1, 0)
    wait_until(lambda: len(running.up.workers()) == 2, 10.0)
    assert sorted(running.up.workers("c") + running.up.workers("e")) == sorted(running.up.workers())
    running.up.stop()


def test_a_removed_queue_is_kept_for_the_jobs_that_still_run(reloading: StartReloading) -> None:
    running = reloading(toml(a='processes = 1\nqueues = ["a"]', b='processes = 1\nqueues = ["b"]'))
    job = running.begin("old", queue="b")
    running.reload(configuration=toml(a='processes = 1\nqueues = ["a"]'))
    assert job.cancel()
    wait_until(lambda: job.status() == "cancelled", 10.0, running.up.log)
    wait_until(lambda: len(running.up.workers()) == 1, 10.0)
    running.up.stop()


# Deadlines and deaths of old workers.


def test_the_hard_limit_of_an_old_worker_holds(reloading: StartReloading) -> None:
    running = reloading(toml(default='processes = 1\nkill_after = 0.5\nqueues = ["default"]'))
    handle = running.enqueue("hang")
    begun = float(running.wait_for("start", "hang")[0].split()[4])
    running.reload(code("two"))
    assert time.monotonic() - begun < 12.0, "else this says nothing"
    wait_until(lambda: handle.status() == "dead", 20.0, running.up.log)
    info = handle.info()
    assert info.error is not None
    assert info.error.cause == "timeout"
    assert "in hang" in (info.error.stack or "")
    blind = float(running.up.wait_log(r'"seconds":([\d.]+),[^\n]*"reload.taken_over"')[1])
    assert 12.0 <= (info.attempts[0].duration or 0.0) <= 12.5 + blind + 1.5
    assert running.runs() == "two"
    running.up.command("dead", "delete", handle.id, "--yes")
    running.up.stop()


def test_a_killed_old_worker_has_its_job_run_again_by_new_code(reloading: StartReloading) -> None:
    running = reloading()
    handle = running.begin("job")
    old = pid_of(running.lines("start", "job")[0])
    running.reload(code("two"))
    os.kill(old, signal.SIGKILL)
    running.wait_for("start", "job", count=2, timeout=5.0)
    running.touch("go")
    assert handle.result(10) == "two"
    assert handle.info().crashes == 1
    assert len(running.up.workers()) == 2, "nothing is started in its place"
    running.up.stop()


def test_a_drain_after_a_reload_takes_old_and_new_workers(reloading: StartReloading) -> None:
    running = reloading(toml("drain_timeout = 3"))
    handle = running.begin("old", limit=1.0)
    running.reload(code("two"))
    new = running.begin("new", limit=60.0)
    started = time.monotonic()
    running.up.stop()
    assert time.monotonic() - started < 6.0
    assert handle.result(1) == "one"
    assert new.status() == "queued"
    assert new.cancel()


# What others see.


def test_the_private_server_stays(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    up = supervise(code("one"), toml(), redis_url=None, env=environment(tmp_path))
    app = Millstream(redis_url=f"unix://{socket_path(up.folder / DATA_FOLDER)}", prefix=up.prefix)
    running = Reloading(up, app)

    def servers() -> list[int]:
        return [child.pid for child in tree(up.pid) if "valkey.sock" in command_line(child)]

    before = servers()
    assert len(before) == 1
    running.reload(code("two"))
    assert running.runs() == "two"
    assert servers() == before
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: servers() and servers() != before, 10.0, up.log)
    wait_until(lambda: "redis.back" in up.log() or running.runs() == "two", 10.0)
    running.reload(code("three"))
    second = servers()
    app.client.close()
    up.stop()
    assert not lives(second[0]), "the successor ends it"


def test_the_name_stays_ours(reloading: StartReloading) -> None:
    running = reloading(toml('name = "here"'))
    row = running.up.command("ps", "--json").stdout
    running.reload(code("two"))
    for pid in (running.pid, *running.up.workers()):
        held = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.exists()]
        assert any(name.endswith(".lock") for name in held), "each process of the tree holds the lock"
    again = running.up.command("up")
    assert again.returncode == 75, again.stderr
    assert running.up.running
    after = running.up.command("ps", "--json").stdout
    for field in ("instance", "started", "pid"):
        pattern = rf'"{field}": ?"?([^",]+)'
        assert re.findall(pattern, row)[:1] == re.findall(pattern, after)[:1] != [], field
    running.up.stop()


def test_the_supervisor_does_not_import_the_application_again(reloading: StartReloading) -> None:
    """Also with `preload`: while new workers import for long it reaps and recovers as ever."""
    running = reloading(toml("preload = true"))
    handle = running.begin("job")
    running.deploy(code("two", "time.sleep(3)"))
    running.hup()
    running.up.wait_log("reload.taken_over", 30)
    (worker,) = {int(line.split()[3]) for line in running.lines("start") if line.split()[1] == "job"}
    os.kill(worker, signal.SIGKILL)
    running.wait_for("start", "job", count=2, timeout=2.0)
    running.touch("go")
    assert handle.result(20) == "one", "an old worker has run it: new ones are not ready yet"
    running.up.stop()


def test_many_hups_do_not_make_many_workers(reloading: StartReloading) -> None:
    running = reloading()
    running.deploy(code("two", "time.sleep(3)"))
    for number in range(1, 4):
        running.hup()
        wait_until(lambda number=number: running.up.log().count("reload.taken_over") == number, 30)  # type: ignore[misc]
        assert len(running.up.workers()) <= 4, "two old ones, two new ones"
    running.up.wait_log("reload.done", 40)
    assert running.runs() == "two"
    running.up.stop()


def test_a_new_version_of_millstream_takes_over(
    supervise: Callable[..., Supervised], url: str, prefix: str, tmp_path: Path
) -> None:
    package = tmp_path / "site"
    shutil.copytree(Path(millstream.__file__).parent, package / "millstream")
    variables = environment(tmp_path, PYTHONPATH=str(package))
    up = supervise(code("one"), toml(), env=variables)
    app = Millstream(redis_url=url, prefix=prefix)
    running = Reloading(up, app)
    long = running.begin("long")
    source = package / "millstream" / "__init__.py"
    source.write_text(source.read_text().replace(f'"{millstream.__version__}"', '"99.0"'))
    running.reload()
    up.wait_log('"version":"99.0","event":"reload.taken_over"')
    wait_until(lambda: '"99.0"' in up.command("ps", "--json").stdout, 10.0)
    running.touch("go")
    assert long.result(10) == "one"
    assert running.runs() == "one"
    scoreboard = package / "millstream" / "protocol" / "scoreboard.py"
    before = scoreboard.read_text()
    scoreboard.write_text(re.sub(r"^LAYOUT = \d+", "LAYOUT = 9999", before, flags=re.MULTILINE))
    assert "needs a restart" in running.refused()
    scoreboard.write_text(before)
    parts = package / "millstream" / "supervisor" / "reload" / "handover.py"
    parts.write_text(parts.read_text().replace("    quiet: bool\n", "    silent: bool\n"))
    assert "needs a restart" in running.refused(), "what is handed over is not what it expects"
    assert running.runs() == "one"
    app.client.close()
    up.stop()
