"""``millstream dead``."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import redis as redis_py

from millstream.protocol import control
from tests.support.commands import Cli
from tests.support.filled import Filled


class TestDead:
    def test_list_shows_what_killed_it(self, cli: Cli, filled: Filled) -> None:
        filled.die(1)
        _, out, _ = cli("dead", "list")
        head, row = out.splitlines()
        assert head.split() == ["ID", "JOB", "QUEUE", "ATTEMPT", "CRASHES", "AGE", "ERROR"]
        assert row.endswith("error ValueError: no luck")
        control.delete_dead(filled.link, filled.keys, ["j1"])

    def test_show_has_the_raw_fields_of_what_was_no_job(self, cli: Cli, filled: Filled) -> None:
        filled.die(1, c="malformed", e={"type": "Malformed", "message": "m", "cause": "malformed"}, raw=["a", "b c"])
        assert "b c" not in cli("dead", "show", "j1")[1]
        lines = cli("dead", "show", "j1", "--args")[1].splitlines()
        assert ["raw", "a", "b", "c"] in [line.split() for line in lines]
        assert json.loads(cli("dead", "show", "j1", "--args", "--json")[1])["raw"] == ["a", "b c"]
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

    @pytest.mark.parametrize("arguments", [(), ("j1", "--all"), ("j1", "--name", "x"), ("--queue", "q")])
    def test_ids_or_all(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        code, _, err = cli("dead", "retry", *arguments)
        assert code == 2
        assert err.splitlines()[-1].endswith("or pass --all, not both" if "j1" in arguments else "or pass --all")

    def test_list_by_pages_and_filters(self, cli: Cli, filled: Filled) -> None:
        filled.die(7)
        filled.die(1, c="timeout", e={"type": "JobTimeout", "message": "over", "cause": "timeout"})
        err, shown, arguments = "", [], ["dead", "list", "--json", "--limit", "3"]
        for _ in range(3):
            _, out, err = cli(*arguments)
            shown += [row["id"] for row in json.loads(out)]
            arguments = [*arguments[:5], "--cursor", err.split("--cursor ")[-1].strip()]
        assert sorted(shown) == sorted({*shown}) == [f"j{number}" for number in range(1, 9)]
        assert "--cursor" not in err
        (row,) = json.loads(cli("dead", "list", "--json", "--cause", "timeout")[1])
        assert row["id"] == "j8"
        assert [row["id"] for row in json.loads(cli("dead", "list", "--json", "--error", "OVER")[1])] == ["j8"]
        assert json.loads(cli("dead", "list", "--json", "--older-than", "3600")[1]) == []
        assert cli("dead", "list", "--cursor", "nonsense")[0] == 2
        assert cli("dead", "delete", "--all", "--yes")[0] == 0

    def test_groups(self, cli: Cli, filled: Filled) -> None:
        for number in range(3):
            message = f"no user {number} in 'x{number}'"
            filled.die(1, e={"type": "LookupError", "message": message, "cause": "error"})
        filled.die(1)
        big, small = json.loads(cli("dead", "groups", "--json")[1])
        assert big["count"] == 3
        assert (big["job"], big["type"], big["message"]) == ("count", "LookupError", "no user <number> in <text>")
        assert (big["queues"], big["causes"], big["example"]) == (["q"], ["error"], "j3")
        assert big["first_seen"] <= big["last_seen"]
        head, row, _ = cli("dead", "groups")[1].splitlines()
        assert head.split()[:3] == ["GROUP", "JOB", "COUNT"]
        assert row.split()[:3] == [big["group"], "count", "3"]
        assert "these are the 1 largest of 2 groups" in cli("dead", "groups", "--limit", "1")[2]
        assert cli("dead", "retry", "--group", big["group"], "--dry-run")[2] == "would retry 3 jobs\n"
        assert cli("dead", "retry", "--group", big["group"], "--yes")[2] == "retried 3 jobs\n"
        assert sorted(filled.drain()) == ["j1", "j2", "j3"]
        assert cli("dead", "delete", "--group", small["group"], "--yes")[2] == "deleted 1 job\n"
        assert cli("dead", "groups")[2] == "no dead jobs\n"

    def test_groups_say_how_many_they_looked_at(self, cli: Cli, filled: Filled) -> None:
        filled.die(120)
        _, _, err = cli("dead", "groups", "--scan", "100")
        assert err == "only the newest 100 of 120 dead jobs were looked at: see --scan\n"
        assert cli("dead", "delete", "--name", "count", "--error", "no luck", "--yes")[2] == "deleted 120 jobs\n"

    def test_what_is_deleted_is_written_down_first(self, cli: Cli, filled: Filled, tmp_path: Path) -> None:
        filled.die(130)
        path = tmp_path / "dead.ndjson"
        arguments = ("dead", "delete", "--all", "--export", str(path))
        assert cli(*arguments, "--dry-run")[0] == 0
        assert not path.exists()
        assert cli(*arguments, "--yes")[2] == "deleted 130 jobs\n"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {row["id"] for row in rows} == {f"j{number}" for number in range(1, 131)}
        assert rows[0]["args"] == [rows[0]["id"]]
        assert rows[0]["error"]["message"] == "no luck"
        assert path.stat().st_mode & 0o777 == 0o600

    def test_without_a_file_nothing_is_deleted(
        self, cli: Cli, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled.die(1)
        taken = tmp_path / "taken"
        taken.touch()
        for path in (taken, tmp_path / "no" / "folder"):
            code, _, err = cli("dead", "delete", "--all", "--yes", "--export", str(path))
            assert code == 2
            assert "nothing was deleted" in err

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        code, _, err = cli("dead", "delete", "--all", "--yes", "--export", str(tmp_path / "new"))
        assert (code, "No space left on device; nothing more was deleted" in err) == (1, True)
        assert filled.survey().dead == 1
        cli("dead", "delete", "--all", "--yes")

    def test_a_job_is_named_twice(self, cli: Cli, filled: Filled) -> None:
        filled.die(1)
        assert cli("dead", "delete", "j1", "j1", "--yes")[2] == "deleted 1 job\n"
