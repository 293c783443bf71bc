"""The page about recovery names the promises that are measured, and its commands are understood."""

from __future__ import annotations

import shlex

import click
import pytest

from ops.benchmarks import deadlines, recovery
from ops.benchmarks.scene import LEASE
from tests.docs.documents import DOCS, commands, rows, sections

TEXT = (DOCS / "recovery.md").read_text()
SCRIPTS: dict[str, click.Command] = {"ops/recovery": recovery.main, "ops/deadlines": deadlines.main}


def test_promises_are_those_that_are_measured() -> None:
    promised = {row[0]: row[1] for row in rows(sections(TEXT)["Promises"])}
    assert promised == {
        "worker death": f"{recovery.PROMISES['worker death']:g} ms",
        "host death": f"the lease + {recovery.PROMISES['host death'] / 1000 - LEASE:g} s",
        "server restart": f"{recovery.PROMISES['server restart'] / 1000:g} s",
        "hard limit": f"{deadlines.LIMIT:g} ms",
    }


def test_figures_are_of_each_promise() -> None:
    shown = {row[0]: float(row[-1].replace(",", "")) for row in rows(sections(TEXT)["Measured"])}
    assert shown == recovery.PROMISES


@pytest.mark.parametrize("command", [command.text for command in commands(TEXT)])
def test_commands_are_understood(command: str) -> None:
    """What they measure takes minutes; tests of the scripts run small rounds of it."""
    script, *arguments = shlex.split(command)
    assert SCRIPTS[script].make_context(script, arguments).params
