"""``millstream queues``."""

from __future__ import annotations

import json

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
