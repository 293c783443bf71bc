"""What is printed where: tables, JSON, help."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from millstream.protocol import control
from tests.support.commands import Cli
from tests.support.filled import Filled
from tests.support.supervised import ROOT


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
