"""``millstream stats --since``, ``jobs list --state finished``, the line of ``queues show``."""

from __future__ import annotations

import json

import pytest

from millstream.protocol import statistics
from millstream.protocol.statistics import Counts
from tests.support.commands import Cli
from tests.support.filled import Filled


@pytest.fixture
def counted(filled: Filled) -> Filled:
    """A queue in which two jobs were counted."""
    filled.link.execute("SADD", filled.all_keys.queues, filled.keys.queue)
    jobs: dict[str, Counts] = {
        "render": {"completed": 9, "retried": 2, "dead": 1, "t": 3_600_000, "t0.5": 12, "w": 60_000, "w0.005": 12},
        "scan": {"completed": 100, "released": 3, "t": 100_000, "t0.01": 100, "w": 100_000, "w0.005": 100},
    }
    filled.link.run(statistics.add(filled.keys, "shop-1a2b3c", 1, jobs))
    return filled


def test_of_late(cli: Cli, counted: Filled) -> None:
    code, out, _ = cli("stats", "--since", "15m")
    titles, all_of_them, render, scan = (line.split() for line in out.splitlines())
    assert code == 0
    assert titles[:7] == ["QUEUE", "JOB", "PROCESSED", "SUCCEEDED", "FAILED", "RETRIED", "DEAD"]
    assert all_of_them[:7] == ["q", "(all)", "112", "109", "3", "2", "1"]
    assert render[:9] == ["q", "render", "12", "9", "3", "2", "1", "300", "ms"]
    assert scan[:9] == ["q", "scan", "100", "100", "0", "0", "0", "1.0", "ms"]
    assert scan[9:15] == ["<", "10", "ms", "<", "10", "ms"], "within the first bucket nothing more is known"
    assert all_of_them[-1] == render[-1] == "█", "all of it ended just now"


def test_of_one_job(cli: Cli, counted: Filled) -> None:
    (row,) = json.loads(cli("stats", "--job", "render", "--json")[1])
    assert (row["queue"], row["job"], row["processed"], row["failed"], row["step"]) == ("q", "render", 12, 3, 60)
    assert row["duration"]["mean"] == 0.3 and 0.25 <= row["duration"]["p95"] <= 0.5
    assert [point["processed"] for point in row["points"]] == [12]
    (row,) = json.loads(cli("stats", "--job", "render", "--since", "30d", "--queue", "q", "--json")[1])
    assert (row["processed"], row["step"]) == (12, 3600)


def test_where_nothing_ended(cli: Cli, counted: Filled) -> None:
    code, out, err = cli("stats", "--since", "90s", "--job", "nobody")
    assert (code, out) == (0, "") and "no run ended in the last 1m 30s" in err


@pytest.mark.parametrize("since", ["", "1", "0s", "1w", "31d", "-5m", "1.5h", "999999999999d"])
def test_a_time_that_cannot_be_read(cli: Cli, counted: Filled, since: str) -> None:
    code, _, err = cli("stats", "--since", since)
    assert code == 2 and "give a number and s, m, h or d" in err


def test_totals_of_one_queue(cli: Cli, counted: Filled) -> None:
    counted.add(2)
    counted.drain()
    (row,) = json.loads(cli("stats", "--queue", "q", "--json")[1])
    assert (row["queue"], row["completed"]) == ("q", 2)
    code, _, err = cli("stats", "--queue", "nowhere")
    assert code == 1 and "there is no queue 'nowhere'" in err


def test_show_of_a_queue(cli: Cli, counted: Filled) -> None:
    out = cli("queues", "show", "q")[1]
    assert "last 24 hours  112 runs, 3 failed; 95 % took" in out
    row = json.loads(cli("queues", "show", "q", "--json")[1])
    assert [(one["job"], one["processed"]) for one in row["statistics"]] == [(None, 112), ("render", 12), ("scan", 100)]


def test_show_of_a_queue_in_which_nothing_was_counted(cli: Cli, filled: Filled) -> None:
    filled.add(1)
    filled.drain()
    assert "last 24 hours" not in cli("queues", "show", "q")[1]
    assert json.loads(cli("queues", "show", "q", "--json")[1])["statistics"] == []


def test_finished_jobs_of_a_name(cli: Cli, filled: Filled) -> None:
    filled.add(2, name="rare")
    filled.add(3, name="common")
    filled.drain()
    rows = json.loads(cli("jobs", "list", "--state", "finished", "--name", "rare", "--json")[1])
    assert [row["id"] for row in rows] == ["j2", "j1"]
    rows = json.loads(cli("jobs", "list", "--state", "finished", "--json")[1])
    assert [row["id"] for row in rows] == ["j5", "j4", "j3", "j2", "j1"]
    code, _, err = cli("jobs", "list", "--state", "finished", "--state", "dead")
    assert code == 2 and "every state" in err
