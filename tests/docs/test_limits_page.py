"""The page about limits: its commands print what it shows, its example runs, its options are all there are."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from millstream.supervisor.cli.queues import limit
from tests.docs.documents import DOCS, blocks, code, commands, rows, sections
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

TEXT = (DOCS / "limits.md").read_text()


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
def test_the_commands_print_what_is_shown(supervise: Callable[..., Supervised]) -> None:
    app = blocks(TEXT, "python")[0].text
    up = supervise(app, '[workers.default]\nqueues = ["default"]\nprocesses = 1\n')
    wait_until(lambda: "default" in up.command("queues", "list").stdout, 10.0)
    for command in commands(TEXT):
        words = shlex.split(command.text)
        assert words[0] == "millstream"
        done = up.command(*words[1:])
        assert (done.returncode, done.stdout + done.stderr) == (0, command.output), command.text
    up.stop()


def test_the_example_makes_the_keys_that_it_says() -> None:
    scope: dict[str, Any] = {}
    exec(blocks(TEXT, "python")[0].text, scope)
    assert scope["convert"].job(7, "a.wav").seat == ("user-7", 2)
    assert scope["convert"].using(concurrency_key="nightly").job(7, "a.wav").seat == ("nightly", 1)


def test_options_are_all_there_are() -> None:
    named = {name.split()[0] for row in rows(sections(TEXT)["A limit for a queue"]) for name in code(row[0])}
    assert named == {option for param in limit.params for option in param.opts if param.name in limit_options()}


def limit_options() -> set[str]:
    return {"concurrency", "rate", "burst", "nothing"}
