"""/metrics: what was done is counted once, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess

import psutil
import pytest
import redis as redis_py

from millstream.protocol import transitions
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.protocol.transitions import NewJob, Outcome
from millstream.supervisor.web.gauges import GAUGES
from millstream.worker import metrics
from tests.supervisor.web.conftest import TOML, Mill, StartMill
from tests.support.acl import as_role
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

KEPT = re.compile(r"_total(\{|$)|_bucket\{|_count(\{|$)|_sum(\{|$)")


def remove_dead(mill: Mill, redis: redis_py.Redis) -> None:
    """Leave no dead letters."""
    for queue in ("a", "b"):
        base = f"{mill.up.prefix}{{{queue}}}:"
        dead: list[bytes] = redis.zrange(f"{base}dead", 0, -1)  # type: ignore[assignment]
        redis.delete(f"{base}dead", *(f"{base}job:{job.decode()}" for job in dead))


def test_series_exist_before_the_first_event(mill: StartMill) -> None:
    running = mill()
    samples = running.metrics()
    assert running.finished("ok", "completed") == running.finished("die_once", "retried") == 0
    for name in (
        'millstream_job_duration_seconds_count{job="ok",queue="a"}',
        'millstream_job_wait_seconds_count{queue="b"}',
        'millstream_job_end_to_end_seconds_count{queue="b"}',
        'millstream_job_attempts_count{queue="a"}',
        'millstream_jobs_redelivered_total{queue="a",reason="crash"}',
        'millstream_worker_exits_total{group="default",reason="crash"}',
        'millstream_worker_busy_seconds_total{group="default"}',
        'millstream_redis_errors_total{op="exchange"}',
        "millstream_stale_settles_total",
        "millstream_draining",
    ):
        assert samples[name] == 0, name
    assert samples['millstream_workers_target{group="default"}'] == 1
    assert samples['millstream_worker_resident_memory_bytes{group="default"}'] > 1e6
    running.up.stop()


def test_the_target_is_the_current_one(mill: StartMill) -> None:
    running = mill(processes="{ min = 1, max = 3 }")
    target = 'millstream_workers_target{group="default"}'
    assert running.metrics()[target] == 1
    gates = [running.enqueue("until", f"gate{number}") for number in range(9)]
    running.wait_metric(target, 3)
    running.wait_metric('millstream_workers{group="default",state="busy"}', 3)
    assert running.get("/healthz").json() == {"status": "ok", "reasons": []}
    for number, gate in enumerate(gates):
        (running.up.folder / f"gate{number}").touch()
        gate.result(10)
    running.up.stop()


def test_lint(mill: StartMill) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine (Debian package prometheus)")
    running = mill()
    running.enqueue("until", "go")
    running.wait_metric('millstream_workers{group="default",state="busy"}', 1)
    running.enqueue("until", "go")  # waits: some gauges are absent where nothing runs or waits
    running.wait_metric('millstream_queue_jobs{queue="b",state="ready"}', 1)
    running.wait_metric('millstream_jobs_enqueued_total{job="until",kind="immediate",queue="b"}', 2)
    text = running.get("/metrics").text
    assert _lint(text) == (0, "")
    names = [*(metric.name for metric in metrics.COUNTED), *(gauge.name for gauge in GAUGES)]
    for name in names:
        planted = re.sub(rf"^# HELP {name} .*\n", "", text, flags=re.MULTILINE)
        code, said = _lint(planted)
        assert code != 0 and name in said, f"{name} is not among what is checked"
    assert _lint(text.replace("millstream_draining", "millstream_draining_total"))[0] != 0, "a gauge is no total"
    (running.up.folder / "go").touch()
    running.wait_finished("until", "completed", 2)
    running.up.stop()


def _lint(text: str) -> tuple[int, str]:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_outcomes_durations_and_attempts(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill(processes=2)
    for number in range(50):
        running.enqueue("ok", number)
    running.enqueue("fail")
    running.enqueue("die_once", "died")
    running.wait_finished("ok", "completed", 50)
    running.wait_finished("fail", "dead", 1)
    running.wait_finished("die_once", "completed", 1)
    assert running.finished("fail", "retried") == running.finished("die_once", "retried") == 1
    samples = running.metrics()
    assert samples['millstream_job_duration_seconds_count{job="ok",queue="a"}'] == 50
    assert samples['millstream_job_duration_seconds_bucket{job="ok",le="+Inf",queue="a"}'] == 50
    assert samples['millstream_job_wait_seconds_count{queue="b"}'] == 4
    assert samples['millstream_job_end_to_end_seconds_count{queue="b"}'] == 2
    assert samples['millstream_job_attempts_sum{queue="b"}'] == 3
    assert samples['millstream_jobs_redelivered_total{queue="b",reason="crash"}'] == 1
    assert samples['millstream_worker_exits_total{group="default",reason="crash"}'] == 1
    assert samples['millstream_worker_busy_seconds_total{group="default"}'] > 0
    remove_dead(running, redis)
    running.up.stop()


def test_what_came_is_counted_wherever_it_came_from(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill()
    came = 'millstream_jobs_enqueued_total{{job="{}",kind="{}",queue="{}"}}'
    for kind in ("immediate", "delayed", "retry"):
        running.wait_metric(came.format("fail", kind, "b"), 0)
    running.app.enqueue("ok", 1, queue="a").result(10)
    assert running.up.command("enqueue", "ok", "2").returncode == 0
    assert running.up.command("enqueue", "ok", "3", "--delay", "0.1").returncode == 0
    running.enqueue("fail")
    for number in range(3):
        running.app.enqueue(f"made_up_{number}", queue="b").cancel()
    running.wait_metric(came.format("ok", "immediate", "a"), 2)
    running.wait_metric(came.format("ok", "delayed", "a"), 1)
    running.wait_metric(came.format("fail", "retry", "b"), 1)
    running.wait_metric(came.format("(unknown)", "immediate", "b"), 3)
    samples = running.metrics()
    assert samples[came.format("fail", "immediate", "b")] == 1 and samples[came.format("ok", "retry", "a")] == 0
    assert not [name for name in samples if "made_up" in name]
    running.wait_finished("fail", "dead", 1)
    running.wait_finished("ok", "completed", 3)
    remove_dead(running, redis)
    running.up.stop()


def test_what_is_running_and_waiting_is_shown(mill: StartMill, redis: redis_py.Redis) -> None:
    running = mill()
    handle = running.enqueue("until", "go")
    running.enqueue("until", "go")
    running.wait_metric('millstream_workers{group="default",state="busy"}', 1)
    running.wait_metric('millstream_queue_jobs{queue="b",state="ready"}', 1)
    samples = running.metrics()
    started = samples['millstream_oldest_running_job_start_timestamp_seconds{group="default"}']
    waiting = samples['millstream_queue_oldest_ready_job_timestamp_seconds{queue="b"}']
    assert abs(started - waiting) < 5 and started > 1.7e9
    assert samples["millstream_collector_age_seconds"] < 10
    assert running.up.command("queues", "pause", "a").returncode == 0
    running.wait_metric('millstream_queue_paused{queue="a"}', 1)
    (running.up.folder / "go").touch()
    handle.result(10)
    running.wait_finished("until", "completed", 2)
    running.wait_metric('millstream_workers{group="default",state="idle"}', 1)
    assert 'millstream_oldest_running_job_start_timestamp_seconds{group="default"}' not in running.metrics()
    assert running.up.command("queues", "resume", "a").returncode == 0
    running.up.stop()


def vanished(url: str, prefix: str, job_id: str, crashes: int) -> None:
    """Leave a job in queue `a` that was on when its host vanished, after so many crashes."""
    keys, consumer = Keys(prefix).queue("a"), "gone-000001:g/0:1"
    with contextlib.closing(Link(as_role(url, "worker"))) as link:
        link.run(transitions.join(keys, "gone-000001", 0.1))
        envelope = encode_envelope("ok", [1], {}, queue="a", enqueued_at=1_700_000_000_000)
        link.run(transitions.enqueue(keys, [NewJob(job_id, "normal", envelope, None, "")]))
        ref = ""
        for left in range(crashes, -1, -1):
            ((letter, entry, _),) = link.run(transitions.fetch(keys, consumer, 1)).entries
            ref = letter + entry.decode()
            if left:
                link.run(transitions.settle(keys, consumer, [Outcome(ref, job_id, "crash", 0, b"{}")]))
        assert link.run(transitions.begin(keys, job_id, ref, consumer, alone=True)).word == "ok"


def test_runs_of_a_vanished_host_are_counted_by_who_recovers_them(
    mill: StartMill, url: str, prefix: str, redis: redis_py.Redis
) -> None:
    vanished(url, prefix, "again", crashes=0)
    vanished(url, prefix, "dies", crashes=2)
    running = mill(supervisor="lease = 1")
    running.wait_finished("ok", "dead", 1)
    running.wait_finished("ok", "retried", 1)
    running.wait_finished("ok", "completed", 1)
    running.wait_metric('millstream_jobs_redelivered_total{queue="a",reason="idle"}', 1)
    running.wait_metric('millstream_jobs_enqueued_total{job="ok",kind="retry",queue="a"}', 3)
    remove_dead(running, redis)
    running.up.stop()


def test_rounds_of_commands_are_timed(mill: StartMill) -> None:
    running = mill(supervisor="lease = 1")
    count = 'millstream_redis_command_duration_seconds_count{{op="{}"}}'
    for number in range(3):
        running.enqueue("ok", number).result(10)
    running.enqueue("until", "go")  # its lease is renewed
    for operation in ("exchange", "urgent", "duties"):
        wait_until(lambda of=operation: running.metrics()[count.format(of)] >= 3, 20.0, running.up.log)  # type: ignore[misc]
    samples = running.metrics()
    for operation in ("exchange", "urgent", "duties"):
        seconds = samples[f'millstream_redis_command_duration_seconds_sum{{op="{operation}"}}']
        assert 0 < 10 * seconds < samples[count.format(operation)], "no blocking read is among them"
    (running.up.folder / "go").touch()
    running.up.stop()


def test_a_collection_that_fails_is_counted(mill: StartMill, redis: redis_py.Redis, prefix: str) -> None:
    running = mill()
    running.wait_metric("millstream_fleet_instances", 1)
    assert running.metrics()["millstream_collector_errors_total"] == 0
    stats = f"{prefix}{{b}}:stats"
    redis.set(stats, "no hash")
    wait_until(lambda: running.metrics()["millstream_collector_errors_total"] > 0, describe=running.up.log)
    redis.delete(stats)
    errors = running.metrics()["millstream_collector_errors_total"]
    wait_until(lambda: running.metrics()["millstream_collector_age_seconds"] < 2, 20.0, running.up.log)
    assert running.metrics()["millstream_collector_errors_total"] <= errors + 1
    running.enqueue("ok", 1).result(10)
    running.up.stop()


def test_metrics_of_handlers_appear(mill: StartMill) -> None:
    running = mill()
    for number in (1, 50, 500):
        running.enqueue("ok", number).result(10)
    samples = running.metrics()
    assert samples['shop_seen_total{kind="job"}'] == 3
    assert samples["shop_size_bytes_count"] == 3 and samples['shop_size_bytes_bucket{le="100.0"}'] == 2
    assert samples["shop_open_files"] == 2
    (worker,) = running.up.workers()
    os.kill(worker, signal.SIGKILL)
    running.wait_metric('millstream_worker_exits_total{group="default",reason="crash"}', 1)
    running.wait_metric("shop_open_files", 0)  # a live gauge dies with its process
    running.enqueue("ok", 2).result(10)
    assert running.metrics()['shop_seen_total{kind="job"}'] == 4
    running.up.stop()


def test_preloaded_applications_count_too(mill: StartMill) -> None:
    running = mill(processes=2, supervisor="preload = true")
    for number in range(20):
        running.enqueue("ok", number).result(10)
    running.wait_finished("ok", "completed", 20)
    assert running.metrics()['shop_seen_total{kind="job"}'] == 20
    running.up.stop()


def test_nothing_goes_backwards_and_nothing_is_lost(mill: StartMill) -> None:
    """Everything is killed while jobs run, again and again."""
    running = mill(processes=2)
    before: dict[str, float] = {}
    for round_ in range(4):
        for number in range(100):
            running.enqueue("ok", number)
        victims = [*running.up.workers(), running.up.maintenance(), running.web()]
        for pid in filter(None, victims):
            os.kill(pid, signal.SIGKILL)
        gone = running.web  # the next look is at another web child
        wait_until(lambda old=victims[-1], new=gone: new() != old, describe=running.up.log)  # type: ignore[misc]
        wait_until(lambda old=before: _monotonic(running, old), 20.0)  # type: ignore[misc]
        running.wait_finished("ok", "completed", 100 * (round_ + 1), timeout=30)
        after = running.metrics()
        assert not [name for name, value in before.items() if after[name] < value]
        before = {name: value for name, value in after.items() if KEPT.search(name)}
    assert len(before) > 50
    stats = running.app.client.execute("HGETALL", running.app.queue_keys("a").stats)
    assert dict(zip(stats[::2], stats[1::2], strict=True))[b"completed"] == b"400"
    running.up.stop()


def _monotonic(running: Mill, before: dict[str, float]) -> bool:
    try:
        after = running.metrics()
    except OSError:
        return False  # the address is still that of the one that was killed
    assert not [name for name, value in before.items() if after.get(name, -1) < value]
    return True


@pytest.mark.slow
def test_files_are_bounded(mill: StartMill) -> None:
    """There are as many files as records were ever used, not as processes that ever lived."""
    running = mill(processes=2)
    exits = 'millstream_worker_exits_total{group="default",reason="crash"}'
    for number in range(50):
        for pid in running.up.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda least=2 * number: running.metrics()[exits] > least, 20.0, running.up.log)  # type: ignore[misc]
        wait_until(lambda: len(running.up.workers()) == 2, 20.0, running.up.log)
    running.wait_metric('millstream_workers{group="default",state="idle"}', 2, 20)
    assert running.metrics()[exits] >= 95
    owners = {path.stem.rpartition("_")[2] for path in running.folder().glob("*.db")}
    assert len(owners) <= 2 * 2 + 16 + 1, owners
    folder = running.folder()
    running.up.stop()
    assert not folder.exists()


def test_what_a_killed_supervisor_left_is_removed(mill: StartMill) -> None:
    running = mill()
    left = running.folder()
    descendants = [psutil.Process(running.web()), psutil.Process(running.up.pid)]
    running.up.send(signal.SIGKILL)
    running.up.wait()
    psutil.wait_procs(descendants, 5)
    assert left.exists()
    running.up.start()
    assert not left.exists() and running.folder().exists()
    running.wait_metric('millstream_workers{group="default",state="idle"}', 1)
    running.up.stop()
    assert not [*left.parent.glob("metrics-*"), *left.parent.glob("*.web")]


def test_jobs_run_on_where_the_folder_is_removed(mill: StartMill) -> None:
    """Somebody empties the temporary folder: it is shown; processes that start afterwards count in new files."""
    running = mill()
    running.enqueue("ok", 1).result(10)
    running.wait_finished("ok", "completed", 1)
    shutil.rmtree(running.folder())
    running.enqueue("ok", 2).result(10)
    running.wait_finished("ok", "completed", 2)  # the files are still mapped
    assert running.get("/healthz").reasons() == {"metrics"}
    wait_until(lambda: running.up.command("healthcheck").returncode == 0, 20.0, running.up.log)
    for pid in (*running.up.workers(), running.up.maintenance()):
        os.kill(pid or 0, signal.SIGKILL)
    for number in range(3, 6):
        running.enqueue("ok", number).result(20)
    running.wait_finished("ok", "completed", 5)
    running.wait_metric('millstream_worker_exits_total{group="default",reason="crash"}', 1)
    wait_until(lambda: not running.get("/healthz").reasons(), describe=lambda: running.get("/healthz").text)
    running.up.stop()


def test_a_reload_counts_on_and_calls_groups_by_their_names(mill: StartMill) -> None:
    """Also groups that are gone, while their workers end what they run."""
    running = mill(web='max_backlog_age = 100\n[workers.other]\nqueues = ["c", "b"]\nprocesses = 1')
    for number in range(20):
        running.enqueue("ok", number)
    running.wait_finished("ok", "completed", 20)
    held = [running.enqueue("until", f"go{number}") for number in range(2)]
    wait_until(lambda: all(handle.status() == "running" for handle in held), describe=running.up.log)
    before = {name: value for name, value in running.metrics().items() if KEPT.search(name)}
    web = running.web()
    toml = TOML.format(processes=2, web="", supervisor="")
    (running.up.folder / "millstream.toml").write_text(f'app = "app_under_test:app"\n{toml}')
    source = running.up.folder / "app_under_test.py"
    source.write_text(source.read_text() + "\n@app.job(queue='a')\ndef added() -> None: ...\n")
    running.up.send(signal.SIGHUP)
    running.up.wait_log("reload.done", 30)
    wait_until(lambda: running.web() != web and len(re.findall("web.listening", running.up.log())) == 2)
    assert _monotonic(running, before)
    assert running.metrics()['millstream_jobs_finished_total{job="added",outcome="completed",queue="a"}'] == 0
    wait_until(lambda: running.get("/readyz").code == running.get("/healthz").code == 200, 10.0)
    samples = running.metrics()
    assert samples['millstream_workers{group="default",state="draining"}'] == 1
    assert samples['millstream_workers{group="default",state="idle"}'] == 2
    assert samples['millstream_workers{group="other",state="draining"}'] == 1
    assert samples['millstream_workers_target{group="default"}'] == 2
    assert 'millstream_workers_target{group="other"}' not in samples
    text = running.get("/metrics").text
    names = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(names) == len(set(names)), "each series once"
    if shutil.which("promtool"):
        assert _lint(text) == (0, "")
    os.kill(running.up.workers("other")[0], signal.SIGKILL)
    running.wait_metric('millstream_worker_exits_total{group="other",reason="crash"}', 1)
    for number in range(2):
        (running.up.folder / f"go{number}").touch()
    for handle in held:
        handle.result(10)
    running.wait_metric('millstream_workers{group="default",state="draining"}', 0)
    running.wait_finished("until", "completed", 2)
    folder = running.folder()
    running.up.stop()
    assert not folder.exists()
    assert not any(path.is_symlink() for path in folder.parent.iterdir())
