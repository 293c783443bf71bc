"""The command line against a real server: what is printed where, exit codes, options before and after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from millstream.protocol import control
from millstream.protocol.transitions import Kind
from millstream.supervisor.cli import run
from tests.support.filled import Filled
from tests.support.servers import StartServer
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

APP = """
from millstream import Millstream

app = Millstream()

@app.job(queue="q")
def add(a: int, b: int = 1) -> int:
    return a + b

@app.job(queue="q", timeout=0)
def endless() -> None:
    pass
"""

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, url: str, prefix: str) -> None:
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", url)
    monkeypatch.setenv("MILLSTREAM_PREFIX", prefix)


@pytest.fixture
def filled(url: str, prefix: str) -> Iterator[Filled]:
    queue = Filled(url, prefix)
    yield queue
    queue.link.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application, the current one for the test."""
    folder, before = tmp_path / "project", Path.cwd()
    folder.mkdir()
    (folder / "project_jobs.py").write_text(APP)
    (folder / "millstream.toml").write_text('app = "project_jobs:app"\n')
    monkeypatch.setattr(sys, "path", [*sys.path])
    os.chdir(folder)
    yield folder
    os.chdir(before)
    sys.modules.pop("project_jobs", None)


@pytest.fixture
def cli(capsys: Capture) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


Cli = Callable[..., tuple[int, str, str]]


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "millstream", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options)


class TestOutput:
    def test_table_is_plain_and_aligned_where_nobody_looks(self, cli: Cli, filled: Filled) -> None:
        filled.add(12)
        filled.add(1, delay=60)
        code, out, err = cli("queues", "list")
        assert (code, err) == (0, "")
        head, row = out.splitlines()
        assert head.split() == ["QUEUE", "STATE", "WAITING", "RUNNING", "DUE", "DEAD", "OLDEST"]
        assert row.split()[:6] == ["q", "open", "12", "0", "1", "0"]
        assert head.index("WAITING") + len("WAITING") == row.index("12") + 2
        control.purge_all(filled.link, filled.keys, due=True)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--json", "queues", "list"),
            ("queues", "list", "--json"),
            ("-o", "json", "queues", "list"),
            ("queues", "list", "-o", "json"),
            ("-o", "ndjson", "queues", "list", "--json"),
        ],
    )
    def test_json_before_and_after_the_command(self, cli: Cli, filled: Filled, arguments: tuple[str, ...]) -> None:
        filled.die(1)
        code, out, _ = cli(*arguments)
        (row,) = json.loads(out)
        assert (code, row["queue"], row["dead"], row["paused"]) == (0, "q", 1, False)
        control.delete_dead(filled.link, filled.keys, ["j1"])

    def test_ndjson_is_a_line_per_row(self, cli: Cli, filled: Filled) -> None:
        filled.add(3)
        _, out, _ = cli("jobs", "list", "-o", "ndjson")
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["j1", "j2", "j3"]
        filled.drain()

    def test_an_empty_table_is_told_on_stderr(self, cli: Cli) -> None:
        assert cli("queues", "list") == (0, "", "no queue was used yet\n")
        assert cli("queues", "list", "--json") == (0, "[]\n", "")

    def test_control_characters_of_errors_are_escaped(self, cli: Cli, filled: Filled) -> None:
        error = {"type": "ValueError", "message": "red \x1b[31m", "traceback": "one\n\x07two", "cause": "error"}
        filled.die(1, e=error)
        _, listed, _ = cli("dead", "list")
        _, shown, _ = cli("dead", "show", "j1")
        assert "\x1b" not in listed + shown
        assert "red \\x1b[31m" in listed
        assert "\\x07two" in shown
        control.delete_dead(filled.link, filled.keys, ["j1"])

    def test_help_of_everything(self, cli: Cli) -> None:
        code, out, _ = cli("--help")
        assert code == 0
        assert "queues" in out
        for command in ("up", "demo", "check", "enqueue", "ps", "stats"):
            assert cli(command, "--help")[0] == 0
        for group in ("config", "queues", "jobs", "dead", "workers"):
            code, out, _ = cli(group, "--help")
            assert (code, "Commands:" in out) == (0, True)


class TestEnqueue:
    def test_a_registered_job_is_checked_and_its_queue_known(self, cli: Cli, project: Path, filled: Filled) -> None:
        code, out, err = cli("enqueue", "add", "2", "--kwargs", '{"b": 3}')
        assert (code, err) == (0, "")
        (entry,) = filled.take(1)
        assert (entry.id, entry.name, entry.args, entry.kwargs) == (out.strip(), "add", [2], {"b": 3})
        filled.end([entry])

    def test_a_wrong_call_is_a_usage_error(self, cli: Cli, project: Path) -> None:
        code, out, err = cli("enqueue", "add")
        assert (code, out) == (2, "")
        assert err == "millstream: add(a: int, b: int = 1) -> int: missing a required argument: 'a'\n"

    def test_an_unknown_name_needs_a_queue(self, cli: Cli, project: Path, filled: Filled) -> None:
        code, _, err = cli("enqueue", "nothing", "1")
        assert code == 2
        assert "there is no job 'nothing': this application has: add, endless" in err
        assert cli("enqueue", "nothing", "1", "--queue", "q")[0] == 0
        (entry,) = filled.take(1)
        assert entry.name == "nothing"
        filled.end([entry])

    def test_arguments_are_json_or_text(self, cli: Cli, filled: Filled) -> None:
        arguments = ("42", "4.5", "null", '{"a": [1]}', "hello", '"42"', "", "--", "-x")
        assert cli("enqueue", "any", "--queue", "q", *arguments)[0] == 0
        (entry,) = filled.take(1)
        assert entry.args == [42, 4.5, None, {"a": [1]}, "hello", "42", "", "-x"]
        filled.end([entry])

    def test_options(self, cli: Cli, filled: Filled) -> None:
        call = ("enqueue", "any", "--queue", "q", "--id", "mine", "--delay", "60", "--priority", "high", "--json")
        assert json.loads(cli(*call)[1]) == {"id": "mine", "queue": "q", "created": True}
        code, out, err = cli(*call)
        assert (code, json.loads(out)["created"]) == (0, False)
        assert err == "job mine existed already; nothing was enqueued\n"
        assert filled.survey().due == 1
        assert cli("queues", "purge", "q", "--due", "--yes")[0] == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--kwargs", "[1]"), "must be a JSON object"),
            (("--kwargs", "{"), "not JSON"),
            (("--priority", "urgent"), "priority 'urgent' is not valid"),
            (("--delay", "-1"), "-1.0 is not in the range"),
            (("--id", "white space"), "job id 'white space' is not valid"),
            (("--queue", "a/b"), "queue name 'a/b' is not valid"),
        ],
    )
    def test_bad_options(self, cli: Cli, arguments: tuple[str, ...], message: str) -> None:
        code, out, err = cli("enqueue", "any", "--queue", "q", *arguments)
        assert (code, out) == (2, "")
        assert message in err


class TestQueues:
    def test_show(self, cli: Cli, filled: Filled) -> None:
        filled.add(2, band="high")
        filled.end(filled.take(1))
        code, out, _ = cli("queues", "show", "q")
        assert code == 0
        lines = [line.split() for line in out.splitlines()]
        for expected in (["state", "open"], ["waiting", "1"], ["high", "1"], ["completed", "so", "far", "1"]):
            assert expected in lines
        filled.drain()

    def test_an_unknown_queue_is_told_with_those_in_use(self, cli: Cli, filled: Filled) -> None:
        filled.drain()
        filled.link.execute("SADD", filled.all_keys.queues, "q")
        for command in ("show", "pause", "resume", "purge"):
            code, _, err = cli("queues", command, "nope")
            assert (code, err) == (1, "millstream: there is no queue 'nope'; queues in use: q\n")

    def test_pause_and_resume(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        assert cli("queues", "pause", "q") == (0, "", "queue q is paused; 1 job waiting\n")
        assert cli("queues", "pause", "q")[2] == "queue q was paused already; 1 job waiting\n"
        filled.add(2)
        assert cli("queues", "list")[1].splitlines()[1].split()[:3] == ["q", "paused", "3"]
        assert cli("queues", "resume", "q") == (0, "", "queue q is open again, 2 held jobs moved\n")
        _, out, _ = cli("queues", "resume", "q", "--json")
        assert json.loads(out) == {"queue": "q", "paused": False, "changed": False, "moved": 0}
        filled.drain()

    def test_purge_counts_asks_and_removes(self, cli: Cli, filled: Filled) -> None:
        filled.add(3)
        filled.add(2, delay=60)
        assert cli("queues", "purge", "q", "--dry-run") == (0, "", "would remove 3 jobs of queue q\n")
        assert cli("queues", "purge", "q", "--due", "--dry-run")[2] == "would remove 5 jobs of queue q\n"
        code, _, err = cli("queues", "purge", "q")
        assert code == 2
        assert "Remove 3 jobs of queue q?" in err
        assert "pass --yes" in err
        assert filled.survey().waiting == 3
        assert cli("queues", "purge", "q", "--yes") == (0, "", "removed 3 jobs\n")
        code, out, _ = cli("queues", "purge", "q", "--due", "--yes", "--json")
        assert (code, json.loads(out)) == (0, {"queue": "q", "removed": 2})


class TestJobs:
    def test_list_and_show_hide_arguments_unless_asked(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        for command in (("jobs", "list"), ("jobs", "show", "j1")):
            plain = json.loads(cli(*command, "--json")[1])
            full = json.loads(cli(*command, "--json", "--args")[1])
            plain, full = (rows[0] if isinstance(rows, list) else rows for rows in (plain, full))
            assert "args" not in plain
            assert full["args"] == ["j1"]
        assert '["j1"]' not in cli("jobs", "show", "j1")[1]
        assert '["j1"]' in cli("jobs", "show", "j1", "--args")[1]
        filled.drain()

    def test_the_promised_names(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        filled.end(filled.take(1), r={"x": 1}, m=2048)
        row = json.loads(cli("jobs", "show", "j1", "--json")[1])
        promised = (
            "id job queue state priority attempt max_attempts crashes run progress message result error attempts "
            "enqueued_at due_at started_at finished_at metadata tags"
        )
        assert set(row) == set(promised.split())
        assert set(row["attempts"][0]) == {
            "attempt",
            "worker",
            "cause",
            "started_at",
            "duration",
            "cpu_seconds",
            "peak_rss",
        }
        text = cli("jobs", "show", "j1")[1]
        assert 'result    {"x":1}' in text
        assert "1: ok after 250 ms, 200 ms CPU, peak 2.0 KiB on host-1a2b3c:default/0:1" in text

    def test_list_filters_and_pages(self, cli: Cli, filled: Filled) -> None:
        filled.add(3)
        filled.add(2, name="other")
        running = filled.take(1)
        _, out, _ = cli("jobs", "list", "--name", "other", "-o", "ndjson")
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["j4", "j5"]
        assert len(cli("jobs", "list", "--state", "running", "--state", "dead")[1].splitlines()) == 2
        _, _, err = cli("jobs", "list", "--limit", "2")
        cursor = err.split("--cursor ")[1].strip()
        out = cli("jobs", "list", "--limit", "10", "--cursor", cursor, "-o", "ndjson")[1]
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["j3", "j4", "j5"]
        assert cli("jobs", "list", "--cursor", "nonsense")[0] == 2
        filled.end(running)
        filled.drain()

    def test_an_unknown_job(self, cli: Cli, filled: Filled) -> None:
        filled.link.execute("SADD", filled.all_keys.queues, "q")
        for command in ("show", "watch"):
            code, out, err = cli("jobs", command, "nope")
            assert (code, out) == (1, "")
            assert "there is no job 'nope' in queue 'q'" in err

    def test_cancel(self, cli: Cli, filled: Filled) -> None:
        filled.add(3)
        running, done = filled.take(2)
        filled.end([done])
        code, _, err = cli("jobs", "cancel", "j3", "j1")
        assert (code, err) == (0, "job j3 is cancelled\njob j1 is running; it was asked to stop\n")
        code, out, _ = cli("jobs", "cancel", "j2", "j9", "-o", "ndjson")
        assert code == 1
        assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["ended", "absent"]
        filled.end([running])

    def test_watch_ends_with_the_job(self, filled: Filled) -> None:
        filled.add(2)
        with start("jobs", "watch", "j1", "-o", "ndjson") as good, start("jobs", "watch", "j2") as bad:
            wait_until(lambda: len(filled.link.execute("HKEYS", filled.keys.waiting)) == 2)
            first, second = filled.take(2)
            filled.end([first], r=1)
            filled.end([second], Kind.DEAD, c="error", e={"type": "E", "message": "m", "cause": "error"})
            out, _ = good.communicate(timeout=20)
            states = [json.loads(line)["state"] for line in out.splitlines()]
            assert (good.returncode, states[0], states[-1]) == (0, "queued", "completed")
            out, err = bad.communicate(timeout=20)
            assert bad.returncode == 1
            assert err.startswith("queued, attempt 0\n")
            assert "E: m" in out
        control.delete_dead(filled.link, filled.keys, ["j2"])

    def test_watch_gives_up(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        code, _, err = cli("jobs", "watch", "j1", "--timeout", "0.1")
        assert (code, err.splitlines()[-1]) == (1, "job j1 has not ended within 0.1 s")
        filled.drain()


class TestDead:
    def test_list_shows_what_killed_it(self, cli: Cli, filled: Filled) -> None:
        filled.die(1)
        _, out, _ = cli("dead", "list")
        head, row = out.splitlines()
        assert head.split() == ["ID", "JOB", "QUEUE", "ATTEMPT", "CRASHES", "AGE", "ERROR"]
        assert row.endswith("error ValueError: no luck")
        control.delete_dead(filled.link, filled.keys, ["j1"])

    def test_show_is_for_dead_ones(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        code, _, err = cli("dead", "show", "j1")
        assert code == 1
        assert "job j1 is not dead but queued" in err
        filled.drain()

    def test_retry_by_id_and_all(self, cli: Cli, filled: Filled) -> None:
        filled.die(4)
        assert cli("dead", "retry", "j1") == (0, "", "retried 1 job\n")
        assert cli("dead", "retry", "--all", "--dry-run")[2] == "would retry 3 jobs\n"
        assert cli("dead", "retry", "--all")[0] == 2
        assert cli("dead", "retry", "--all", "--name", "another", "--yes")[2] == "retried 0 jobs\n"
        assert json.loads(cli("dead", "retry", "--all", "--yes", "--json")[1]) == {"retried": 3, "failed": {}}
        assert sorted(filled.drain()) == ["j1", "j2", "j3", "j4"]

    def test_retry_of_a_malformed_one_fails(self, cli: Cli, filled: Filled, redis: redis_py.Redis) -> None:
        filled.die(2)
        redis.hdel(filled.keys.job("j2"), "env")
        code, _, err = cli("dead", "retry", "j1", "j2")
        assert (code, err) == (1, "job j2 was not retried: it is malformed\nretried 1 job\n")
        filled.drain()
        assert cli("dead", "delete", "j2", "--yes") == (0, "", "deleted 1 job\n")

    def test_delete_needs_a_yes(self, cli: Cli, filled: Filled) -> None:
        filled.die(2)
        assert cli("dead", "delete", "j1")[0] == 2
        assert cli("dead", "delete", "--all", "--dry-run")[2] == "would delete 2 jobs\n"
        assert cli("dead", "delete", "--all", "--yes", "--json")[1].strip() == '{\n  "deleted": 2\n}'

    @pytest.mark.parametrize("arguments", [(), ("j1", "--all"), ("j1", "--name", "x")])
    def test_ids_or_all(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        assert cli("dead", "retry", *arguments)[0] == 2


class TestHosts:
    def test_ps_and_workers(self, cli: Cli, filled: Filled, redis: redis_py.Redis) -> None:
        seconds, micros = redis.time()
        now = seconds * 1000 + micros // 1000
        worker = {"group": "default", "slot": 0, "pid": 7, "state": "busy", "job": "j1", "name": "add"}
        beat = {
            "instance": "shop-1a2b3c",
            "name": "shop",
            "host": "box",
            "pid": 5,
            "started": now - 60_000,
            "at": now,
            "lease": 30,
            "version": "0.1.0",
            "state": "running",
            "groups": {"default": {"queues": ["q"], "target": 1}},
            "workers": [worker | {"since": 2.5, "jobs": 9, "rss": 1 << 20}],
        }
        redis.hset(filled.all_keys.hosts, "shop", json.dumps(beat))
        redis.hset(filled.all_keys.hosts, "lost", json.dumps(beat | {"at": now - 60_000}))
        _, out, _ = cli("ps")
        assert "shop  box     5  running   1/1  default=1  0.1.0" in out
        assert "lost  box     5  lost" in out
        row = cli("workers", "list", "--group", "default")[1].splitlines()[2].split()
        assert row == ["shop", "default/0", "7", "busy", "2.5", "s", "9", "1.0", "MiB", "add", "j1"]
        assert {host["name"]: host["alive"] for host in json.loads(cli("ps", "--json")[1])} == {
            "lost": False,
            "shop": True,
        }

    def test_without_hosts(self, cli: Cli) -> None:
        code, out, err = cli("ps")
        assert (code, out) == (0, "")
        assert "start one with `millstream up`" in err

    def test_stats(self, cli: Cli, filled: Filled) -> None:
        filled.add(3)
        filled.drain()
        filled.die(1)
        filled.add(1)
        filled.end(filled.take(1), Kind.CRASH)
        filled.drain()
        (row,) = json.loads(cli("stats", "--json")[1])
        assert (row["queue"], row["completed"], row["dead"], row["crashed"], row["total"]) == ("q", 4, 1, 1, 5)
        control.delete_dead(filled.link, filled.keys, ["j4"])


class TestConfiguration:
    def test_check(self, cli: Cli, project: Path) -> None:
        code, out, err = cli("check")
        assert code == 0
        assert "add (q)" in out
        assert "job 'endless' has no timeout" in err
        assert err.endswith("the configuration is good\n")

    def test_check_warns_of_a_queue_that_nobody_serves(self, cli: Cli, project: Path) -> None:
        with (project / "millstream.toml").open("a") as file:
            file.write('[workers.other]\nqueues = ["another"]\nprocesses = 1\ntimeout = 0\n')
        _, out, err = cli("check", "--json")
        assert "no group serves queue 'q'" in err
        assert "group 'other' has timeout = 0" in err
        assert json.loads(out)["groups"] == [{"name": "other", "processes": 1, "queues": ["another"], "timeout": 0}]

    def test_all_problems_at_once(self, cli: Cli, project: Path) -> None:
        (project / "millstream.toml").write_text('appp = "x"\n[workers.a]\nprocesses = "many"\n')
        code, _, err = cli("check")
        assert code == 78
        assert "appp" in err
        assert "workers.a.processes" in err

    @pytest.mark.parametrize("app", ["nowhere:app", "project_jobs:nothing", "broken", "json:dumps"])
    def test_an_app_that_cannot_be_imported(self, cli: Cli, project: Path, app: str) -> None:
        (project / "broken.py").write_text("1 / 0\n")
        code, _, err = cli("check", "--app", app)
        assert code == 78
        assert err.startswith("millstream: app")
        assert "Traceback" not in err

    def test_config_show_masks_secrets(self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLSTREAM_REDIS_URL", "redis://me:s3cret@localhost:1/0")
        code, out, _ = cli("config", "show")
        assert code == 0
        assert "s3cret" not in out
        assert "MILLSTREAM_REDIS_URL" in out
        rows = {row["key"]: row for row in json.loads(cli("config", "show", "--json")[1])}
        assert rows["app"]["value"] == "project_jobs:app"


class TestFailures:
    def test_redis_cannot_be_reached(self, cli: Cli) -> None:
        code, out, err = cli("queues", "list", "--redis-url", "redis://:secret@127.0.0.1:1/0")
        assert (code, out) == (69, "")
        assert err.startswith("millstream: Redis at redis://:***@127.0.0.1:1/0 cannot be reached")
        assert "Traceback" not in err

    def test_no_embedded_server_runs(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("MILLSTREAM_REDIS_URL")
        code, _, err = cli("queues", "list")
        assert code == 69
        assert f"no server runs for {tmp_path / 'cwd' / '.millstream'}: start one with `millstream up`" in err

    def test_a_wrong_password(self, cli: Cli, start_server: StartServer) -> None:
        server = start_server(requirepass="right")
        code, _, err = cli("queues", "list", "--redis-url", f"unix://:wrong@{server.socket}")
        assert code == 78
        assert "refused the user name or password" in err
        assert "wrong@" not in err

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ((), 2),
            (("nothing",), 2),
            (("queues", "list", "-o", "xml"), 2),
            (("queues", "list", "--redis-url", "http://x"), 78),
            (("queues", "list", "--config", "nowhere.toml"), 78),
            (("config", "show", "--config", "nowhere.toml"), 78),
        ],
    )
    def test_exit_codes(self, cli: Cli, arguments: tuple[str, ...], code: int) -> None:
        found, out, err = cli(*arguments)
        assert (found, out) == (code, "")
        assert err

    def test_a_closed_pipe_is_no_traceback(self, filled: Filled) -> None:
        filled.add(400)
        with start("jobs", "list", "--limit", "400", "-o", "ndjson") as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            err = process.stderr.read()
            process.wait(20)
        assert "Traceback" not in err
        assert "BrokenPipe" not in err
        filled.drain()

    def test_ctrl_c(self, filled: Filled) -> None:
        filled.add(1)
        with start("jobs", "watch", "j1") as process:
            wait_until(lambda: filled.link.execute("HKEYS", filled.keys.waiting), 20.0)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert filled.link.execute("HKEYS", filled.keys.waiting) == []
        filled.drain()


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from millstream.supervisor.cli import run; run(['--help']);"
        "print([name for name in sys.modules if name.startswith('millstream.supervisor.cli.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=30
    )
    loaded = done.stdout.splitlines()[-1]
    for family in ("jobs", "queues", "dead", "hosts", "running", "configuration"):
        assert f"cli.{family}'" not in loaded


CTRL_C = "\x03"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        ours, theirs = os.openpty()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "60", **variables}
        command = [sys.executable, "-m", "millstream", *arguments]
        self.process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.descriptor = ours
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.descriptor)

    def read_until(self, text: str) -> None:
        while text not in self.text:
            self.text += os.read(self.descriptor, 4096).decode()

    def answer(self, text: str) -> None:
        """Type *text*; Ctrl-C by its signal, since this is not the command's controlling terminal."""
        if text == CTRL_C:
            self.process.send_signal(signal.SIGINT)
        else:
            os.write(self.descriptor, text.encode())

    def end(self) -> tuple[int, str]:
        """Everything up to the end, and the exit code."""
        while True:
            try:
                part = os.read(self.descriptor, 4096)
            except OSError:  # Linux says EIO when nobody has the other end open any more
                part = b""
            if not part:
                return self.process.wait(20), self.text
            self.text += part.decode()


class TestTerminal:
    def test_a_table_keeps_ids_in_one_piece(self, filled: Filled) -> None:
        filled.add(1, name="a-very-long-name-of-a-job-that-does-not-fit")
        with Terminal("jobs", "list") as terminal:
            code, text = terminal.end()
        assert code == 0
        assert "a-very-long-name-of-a-job-that-does-not-fit" in text
        assert "\x1b[1m" in text
        filled.drain()

    def test_no_color(self, filled: Filled) -> None:
        filled.add(1)
        with Terminal("queues", "list", NO_COLOR="1") as terminal:
            assert "\x1b[3" not in terminal.end()[1]
        filled.drain()

    @pytest.mark.parametrize(("answer", "code", "left"), [("y\r", 0, 0), ("n\r", 1, 2), ("\r", 1, 2), (CTRL_C, 130, 2)])
    def test_a_question(self, filled: Filled, answer: str, code: int, left: int) -> None:
        filled.add(2)
        with Terminal("queues", "purge", "q") as terminal:
            terminal.read_until("Remove 2 jobs of queue q? [y/N]: ")
            terminal.answer(answer)
            found, text = terminal.end()
        assert (found, filled.survey().waiting) == (code, left)
        assert ("removed 2 jobs" in text) is (left == 0)
        filled.drain()
