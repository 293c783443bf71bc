"""``millstream jobs search``, ``cancel``, ``retry`` and ``delete``."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from millstream.protocol.transitions import Kind
from tests.support.commands import Cli
from tests.support.filled import Filled


def enqueue(cli: Cli, job_id: str, *options: str, name: str = "work") -> None:
    code, out, err = cli("enqueue", name, "--queue", "q", "--id", job_id, *options)
    assert (code, out) == (0, f"{job_id}\n"), err


def found(cli: Cli, *options: str) -> list[str]:
    code, out, err = cli("jobs", "search", *options, "-o", "ndjson")
    assert code == 0, err
    return [json.loads(line)["id"] for line in out.splitlines()]


def state(cli: Cli, job_id: str) -> str:
    code, out, _ = cli("jobs", "show", job_id, "--json")
    return str(json.loads(out)["state"]) if code == 0 else "absent"


class TestSearch:
    def test_by_all_that_is_known(self, cli: Cli, filled: Filled) -> None:
        enqueue(cli, "a", "--tag", "red", "--tag", "big", "--metadata", "n=1", "--metadata", "who=acme")
        enqueue(cli, "b", "--tag", "red", "--metadata", 'n="1"', "--delay", "60")
        enqueue(cli, "c", name="other")
        error = {"type": "ValueError", "message": "No Paper", "cause": "error"}
        filled.end(filled.take(1), Kind.DEAD, c="error", e=error)
        everything = {"a", "b", "c"}
        assert set(found(cli)) == everything
        assert set(found(cli, "--tag", "red")) == {"a", "b"}
        assert found(cli, "--tag", "red", "--tag", "big") == ["a"]
        assert found(cli, "--name", "other") == found(cli, "--job", "other") == ["c"]
        assert set(found(cli, "--metadata", "n=1")) == {"a", "b"}, "1 as a number and as a text"
        assert found(cli, "--metadata", "who=acme", "--metadata", "n=1") == ["a"]
        assert found(cli, "--metadata", "who=Acme") == found(cli, "--metadata", "whom=acme") == []
        assert found(cli, "--state", "dead", "--state", "queued") == ["c", "a"]
        assert found(cli, "--error", "no paper") == found(cli, "--error", "valueerror: no") == ["a"]
        assert set(found(cli, "--since", "1h")) == everything
        assert found(cli, "--until", "1h") == []
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert found(cli, "--since", later) == []
        assert set(found(cli, "--until", later)) == everything
        cli("jobs", "delete", "a", "b", "c", "--yes")

    def test_it_says_at_how_many_jobs_it_looked(self, cli: Cli, filled: Filled) -> None:
        filled.add(250)
        enqueue(cli, "last", "--tag", "rare")
        code, out, err = cli("jobs", "search", "--tag", "rare", "--scan", "100")
        assert (code, out) == (0, "")
        assert err.splitlines()[1].startswith("looked at 100 jobs of about 251; there may be more: --cursor queued/q/")
        cursor = err.rpartition("--cursor ")[2].strip()
        code, out, err = cli("jobs", "search", "--tag", "rare", "--cursor", cursor)
        assert out.splitlines()[1].split()[0] == "last"
        assert err == "looked at 151 jobs: all that are known\n"
        row = json.loads(cli("jobs", "search", "--tag", "rare", "--json")[1])[0]
        assert (row["tags"], row["metadata"]) == (["rare"], {})
        filled.drain()

    def test_labels_outlive_every_end(self, cli: Cli, filled: Filled) -> None:
        for job_id in ("dead", "waiting", "running"):
            enqueue(cli, job_id, "--tag", "kept", "--metadata", "n=[1]")
        filled.end(filled.take(1), Kind.DEAD, c="error")
        cli("jobs", "cancel", "waiting")
        filled.end(filled.take(1), Kind.CANCELLED, c="cancelled")
        assert set(found(cli, "--tag", "kept", "--metadata", "n=[1]")) == {"dead", "waiting", "running"}
        cli("dead", "delete", "dead", "--yes")

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--since", "yesterday", "'yesterday' is no time: use 90s, 30m, 2h or 7d (ago)"),
            ("--until", "2026-01-01T00:00:00", "'2026-01-01T00:00:00' names no time zone"),
            ("--since", "999999999d", "is no time"),
            ("--metadata", "customer", "'customer' is not of the form NAME=VALUE"),
            ("--state", "lost", "'lost' is not one of"),
        ],
    )
    def test_wrong_options(self, cli: Cli, filled: Filled, option: str, value: str, message: str) -> None:
        code, _, err = cli("jobs", "search", option, value)
        assert code == 2
        assert message in err


class TestActions:
    def test_cancel_all_that_match(self, cli: Cli, filled: Filled) -> None:
        filled.add(2)
        for job_id in ("a", "b"):
            enqueue(cli, job_id, "--tag", "x")
        enqueue(cli, "later", "--tag", "x", "--delay", "60")
        running = filled.take(3)
        code, out, err = cli("jobs", "cancel", "--all", "--tag", "x", "--dry-run")
        assert (code, out, err.splitlines()[-1]) == (0, "", "would cancel 3 jobs")
        assert cli("jobs", "cancel", "--all", "--tag", "x")[0] == 2, "there is no terminal to ask on"
        assert state(cli, "b") == "queued"
        code, out, err = cli("jobs", "cancel", "--all", "--tag", "x", "--yes", "--json")
        assert (code, json.loads(out)) == (0, {"cancelled": 2, "asked_to_stop": 1, "ended": 0})
        assert err == "looked at 5 jobs: all that are known\n"
        assert [state(cli, one) for one in ("a", "b", "later")] == ["running", "cancelled", "cancelled"]
        filled.end(running)

    def test_retry(self, cli: Cli, filled: Filled) -> None:
        enqueue(cli, "waits")
        cli("jobs", "cancel", "waits")
        (dead,) = filled.die()
        filled.add(1)
        filled.end(filled.take(1))
        code, out, err = cli("jobs", "retry", "waits", dead, "j2", "nope", "--json")
        assert code == 1
        assert json.loads(out) == {"retried": 2, "failed": {"j2": "completed", "nope": "absent"}}
        assert "job j2 was not retried: it completed, and its arguments are not kept\n" in err
        assert "job nope was not retried: there is no such job\n" in err
        assert [state(cli, one) for one in ("waits", dead)] == ["queued", "queued"]
        for one in ("waits", dead):
            cli("jobs", "cancel", one)
        code, _, err = cli("jobs", "retry", "--all", "--state", "cancelled", "--yes")
        assert (code, err.splitlines()[-1]) == (0, "retried 2 jobs")
        assert len(filled.drain()) == 2

    def test_delete(self, cli: Cli, filled: Filled) -> None:
        enqueue(cli, "ended")
        filled.end(filled.take(1))
        filled.add(2)
        (running,) = filled.take(1)
        assert cli("jobs", "delete", "ended")[0] == 2, "it always asks"
        code, _, err = cli("jobs", "delete", "ended", "j1", "j2", "nope", "--yes")
        assert code == 1
        assert "job j1 was not deleted: it is running: cancel it first\n" in err
        assert err.endswith("deleted 2 jobs\n")
        assert [state(cli, one) for one in ("ended", "j1", "j2")] == ["absent", "running", "absent"]
        asked = filled.link.execute("HGET", filled.keys.job("j1"), "cancel")
        assert asked is None, "it was not asked to stop"
        filled.end([running])

    def test_delete_all_spares_what_waits_unless_asked(self, cli: Cli, filled: Filled) -> None:
        filled.add(2)
        filled.end(filled.take(1))
        code, _, err = cli("jobs", "delete", "--all", "--yes")
        assert (code, err.splitlines()[-1]) == (0, "deleted 1 job")
        code, _, err = cli("jobs", "delete", "--all", "--state", "queued", "--yes")
        assert (code, err.splitlines()[-1]) == (0, "deleted 1 job")
        assert found(cli) == []

    def test_a_scan_that_ends_early_is_told(self, cli: Cli, filled: Filled) -> None:
        filled.add(300)
        code, _, err = cli("jobs", "cancel", "--all", "--name", "count", "--scan", "100", "--yes")
        assert code == 0
        assert err.splitlines() == [
            "looked at 100 jobs of about 300; there may be more: raise --scan",
            "cancelled 100 jobs, asked 0 to stop",
        ]
        filled.drain()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("cancel",), "name the jobs by their ids, or pass --all"),
            (("retry", "a", "--all"), "name the jobs by their ids, or pass --all, not both"),
            (("delete", "a", "--tag", "x"), "go with --all"),
            (("cancel", "--all", "--state", "dead"), "cancel is not for jobs that are dead: only for scheduled"),
            (("retry", "--all", "--state", "completed"), "only for dead, cancelled, expired"),
        ],
    )
    def test_wrong_usage(self, cli: Cli, filled: Filled, arguments: tuple[str, ...], message: str) -> None:
        filled.link.execute("SADD", filled.all_keys.queues, "q")
        code, _, err = cli("jobs", *arguments)
        assert code == 2
        assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tag", ""), "tag '' is not valid: use 1 to 100 printable characters"),
        (("--tag", "a\nb"), "tag 'a\\nb' is not valid"),
        (tuple(word for n in range(21) for word in ("--tag", str(n))), "21 tags are too many: use 20 at most"),
        (("--metadata", "x=" + "y" * 4100), "metadata is 4,108 bytes, the limit is 4,096"),
        (("--metadata", "=1"), "'=1' is not of the form NAME=VALUE"),
    ],
)
def test_labels_that_are_refused(cli: Cli, options: tuple[str, ...], message: str) -> None:
    code, _, err = cli("enqueue", "work", "--queue", "q", *options)
    assert code == 2
    assert message in err
