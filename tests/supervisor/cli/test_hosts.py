"""``millstream ps``, ``workers`` and ``stats``."""

from __future__ import annotations

import json

import redis as redis_py

from millstream.protocol import control
from millstream.protocol.transitions import Kind
from tests.support.commands import Cli
from tests.support.filled import Filled


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
        assert row[:11] == ["shop", "default/0", "7", "busy", "2.5", "s", "9", "1.0", "MiB", "add", "j1"]
        assert row[-1] == "ago"
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
