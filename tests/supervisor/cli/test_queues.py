"""``millstream queues``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.commands import Cli
from tests.support.filled import Filled


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


class TestLimits:
    def test_set_change_show_and_remove(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        assert cli("queues", "limit", "q") == (0, "", "the limit of queue q is: none\n")
        assert cli("queues", "limit", "q", "--concurrency", "3")[2] == "the limit of queue q is now: 3 at once\n"
        _, out, _ = cli("queues", "limit", "q", "--rate", "100/m", "--json")
        assert json.loads(out) == {"queue": "q", "concurrency": 3, "rate": "100/m", "burst": 1, "changed": True}
        assert cli("queues", "limit", "q", "--rate", "100/m")[2].startswith(
            "the limit of queue q was already: 3 at once"
        )
        assert cli("queues", "limit", "q", "--concurrency", "0")[2].endswith("is now: 100/m, bursts of 1\n")
        filled.add(2)
        lines = cli("queues", "show", "q")[1].splitlines()
        assert [line.split() for line in lines if "limit" in line] == [
            ["limit", "100/m,", "bursts", "of", "1"],
            ["waiting", "for", "the", "limit", "2"],
        ]
        row = json.loads(cli("queues", "show", "q", "--json")[1])
        assert (row["waiting"], row["parked"], row["gated"], row["paused_jobs"]) == (3, 2, 2, [])
        assert row["limit"] == {"concurrency": None, "rate": "100/m", "burst": 1}
        assert cli("queues", "limit", "q", "--none")[2] == "the limit of queue q is now: none\n"
        assert cli("queues", "purge", "q", "--yes")[2] == "removed 3 jobs\n"

    def test_what_is_no_limit(self, cli: Cli, filled: Filled) -> None:
        filled.add(1)
        for arguments, message in (
            (("--rate", "fast"), "rate 'fast' is not valid: use jobs per time, for example 10/s, 100/m or 1000/h"),
            (("--burst", "3"), "burst is about a rate"),
            (("--concurrency", "-1"), "-1 is not in the range"),
            (("--none", "--concurrency", "1"), "--none is for all limits"),
        ):
            code, out, err = cli("queues", "limit", "q", *arguments)
            assert (code, out) == (2, "")
            assert message in err
        filled.drain()


class TestExport:
    def test_what_is_removed_is_kept_in_a_new_file(self, cli: Cli, filled: Filled, tmp_path: Path) -> None:
        ids = filled.add(3)
        file = tmp_path / "removed.ndjson"
        export = ("queues", "purge", "q", "--export", str(file))
        assert cli(*export, "--dry-run")[2] == "would remove 3 jobs of queue q\n"
        assert not file.exists()
        assert cli(*export, "--yes") == (0, "", "removed 3 jobs\n")
        kept = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(one["id"], one["args"], one["state"]) for one in kept] == [(one, [one], "queued") for one in ids]
        assert file.stat().st_mode & 0o777 == 0o600
        filled.add(1)
        code, _, err = cli(*export, "--yes")
        assert code == 2
        assert "File exists; nothing was done" in err
        assert filled.survey().waiting == 1
        filled.drain()
