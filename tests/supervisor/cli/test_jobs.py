"""``millstream jobs``."""

from __future__ import annotations

import json

from millstream.protocol import control
from millstream.protocol.transitions import Kind
from tests.support.commands import Cli, start
from tests.support.filled import Filled
from tests.support.waiting import wait_until


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
        assert cli("jobs", "list", "--args")[1].splitlines()[1].endswith(' "j1"')
        filled.drain()

    def test_arguments_that_are_not_kept(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        filled.end(filled.take(1))
        assert cli("jobs", "list", "--args")[1].splitlines()[1].endswith("(not kept)")

    def test_the_promised_names(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        filled.end(filled.take(1), r={"x": 1}, m=2048)
        row = json.loads(cli("jobs", "show", "j1", "--json")[1])
        promised = (
            "id job queue state priority attempt max_attempts crashes run progress message result error attempts "
            "enqueued_at due_at started_at finished_at metadata tags expires_at"
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


class TestNames:
    def test_pause_and_resume_a_name(self, cli: Cli, filled: Filled) -> None:
        filled.add(2)
        assert cli("jobs", "pause", "count") == (0, "", "job count is paused in queue q\n")
        assert cli("jobs", "pause", "count", "--queue", "q")[2] == "job count was paused already in queue q\n"
        filled.add(2)
        assert json.loads(cli("queues", "show", "q", "--json")[1])["paused_jobs"] == ["count"]
        _, out, _ = cli("jobs", "resume", "count", "--json")
        assert json.loads(out) == {"job": "count", "queue": "q", "paused": False, "changed": True, "moved": 2}
        assert cli("jobs", "resume", "count")[2] == "job count was not paused in queue q\n"
        code, _, err = cli("jobs", "pause", "not a name")
        assert code == 2
        assert "job name 'not a name' is not valid" in err
        filled.drain()
