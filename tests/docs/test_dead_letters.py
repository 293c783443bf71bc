"""The page about dead letters: its example runs in a worker, its commands work on what dies of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from millstream.protocol.dead import normalised
from millstream.supervisor.cli.dead_selection import which_options
from millstream.supervisor.cli.job_view import queue_option
from tests.docs.documents import DOCS, blocks, code, commands, rows, sections
from tests.support.acl import as_role
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

TEXT = (DOCS / "dead-letters.md").read_text()
SECTIONS = sections(TEXT)


def type_all(title: str, up: Supervised, **variables: str) -> str:
    """Type the commands of a section into one shell; what they print, also on stderr."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    text = "\n".join(["set -e", *(command.text for command in commands(SECTIONS[title]))])
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=up.folder,
        env={
            **up.environment,
            "MILLSTREAM_REDIS_URL": as_role(up.redis_url or "", "operator"),
            **variables,
            "PATH": path,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
@pytest.mark.leaves_jobs
def test_the_example_and_the_commands(supervise: Callable[..., Supervised]) -> None:
    toml = '[workers.orders]\nqueues = ["orders"]\nprocesses = 1\n'
    up = supervise(blocks(SECTIONS["Be told"], "python")[0].text, toml)
    for order in (1, 2):
        assert up.command("enqueue", "ship", str(order)).returncode == 0
    told = {name: up.folder / name for name in ("refunds", "alerts")}
    wait_until(lambda: all(path.exists() and path.read_text().count("\n") >= 2 for path in told.values()), 30, up.log)
    assert sorted(told["refunds"].read_text().split()) == ["1", "2"]
    assert told["alerts"].read_text().splitlines() == ["ship error LookupError"] * 2

    (group,) = json.loads(up.command("dead", "groups", "--json").stdout)
    shown = type_all("Look", up, DEAD=group["example"])
    assert "no stock for order <number> in <text>" in shown
    assert "args " in shown
    up.stop()
    shown = type_all("Run again, or delete", up, GROUP=group["group"])
    assert "would retry 2 jobs" in shown
    assert "retried 2 jobs" in shown
    assert "deleted 0 jobs" in shown, "they wait to run again"


def test_what_becomes_of_messages() -> None:
    for row in rows(SECTIONS["Look"])[:4]:
        (expected,) = code(row[1])
        assert [normalised(f"for {text} again") for text in code(row[0])] == [f"for {expected} again"] * len(
            code(row[0])
        )


def test_every_filter_is_documented() -> None:
    command = click.command("any")(which_options(queue_option(lambda: None)))
    known = {option for one in command.params for option in one.opts}
    shown = {text.split()[0] for row in rows(SECTIONS["Look"])[4:] for text in code(row[0])}
    assert shown == known
