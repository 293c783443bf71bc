"""``millstream dead``."""

from __future__ import annotations

import json

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

    @pytest.mark.parametrize("arguments", [(), ("j1", "--all"), ("j1", "--name", "x")])
    def test_ids_or_all(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        assert cli("dead", "retry", *arguments)[0] == 2
