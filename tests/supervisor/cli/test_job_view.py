"""How a job's progress, labels and log lines look."""

from __future__ import annotations

import json

from millstream.protocol.reports import Line, report
from tests.support.commands import Cli, Terminal, start
from tests.support.filled import Filled
from tests.support.waiting import wait_until


def tell(filled: Filled, ref: str, percent: float, message: str | None, *lines: str) -> None:
    call = report(filled.keys, "j1", ref, 1, (percent, message), "".join(lines), [Line(0, line) for line in lines])
    assert filled.link.run(call)


def test_show(cli: Cli, filled: Filled) -> None:
    filled.add(1)
    taken = filled.take(1)
    tell(filled, taken[0].ref, 41.7, "page \x1b[31m3", "first", "sec\x1b[0mond")
    _, out, _ = cli("jobs", "show", "j1")
    assert "progress  42 %\n" in out
    assert "message   page \\x1b[31m3\n" in out, "what a handler says does not drive the terminal"
    assert "first" not in out
    _, out, _ = cli("jobs", "show", "j1", "--logs")
    shown = out.partition("log  ")[2].splitlines()
    assert [line.split()[-2:] for line in shown] == [["1:", "first"], ["1:", "sec\\x1b[0mond"]]
    row = json.loads(cli("jobs", "show", "j1", "--json")[1])
    assert (row["progress"], row["message"]) == (41.7, "page \x1b[31m3")
    assert "logs" not in row
    (first, _) = json.loads(cli("jobs", "show", "j1", "--json", "--logs")[1])["logs"]
    assert (first["run"], first["line"], first["at"][:2]) == (1, "first", "20")
    assert "logs" not in json.loads(cli("jobs", "list", "--json")[1])[0]
    filled.end(taken)


def test_labels(cli: Cli, filled: Filled) -> None:
    cli("enqueue", "work", "--queue", "q", "--id", "x", "--tag", "b", "--tag", "a", "--metadata", "n=[1]")
    out = cli("jobs", "show", "x")[1]
    assert "tags      b, a\n" in out
    assert 'metadata  {"n":[1]}\n' in out
    filled.drain()


def test_watch_follows_progress(filled: Filled) -> None:
    filled.add(1)
    (taken,) = filled.take(1)
    with start("jobs", "watch", "j1", "-o", "ndjson") as watching:
        assert watching.stdout
        seen = [json.loads(watching.stdout.readline())["progress"]]
        for percent in (10, 20):
            tell(filled, taken.ref, percent, None)
            seen.append(json.loads(watching.stdout.readline())["progress"])
        filled.end([taken])
        last = json.loads(watching.communicate(timeout=30)[0])
    assert seen == [None, 10.0, 20.0]
    assert (last["state"], last["progress"], watching.returncode) == ("completed", 20.0, 0)


def test_watch_draws_a_bar_on_a_terminal(filled: Filled) -> None:
    filled.add(1)
    (taken,) = filled.take(1)
    with Terminal("jobs", "watch", "j1", COLUMNS="100") as terminal:
        terminal.read_until("running, attempt 1")
        tell(filled, taken.ref, 40, "page [3]")
        terminal.read_until("40%")
        terminal.read_until("page [3]")
        wait_until(lambda: filled.link.execute("HEXISTS", filled.keys.waiting, "j1"))
        filled.end([taken])
        code, text = terminal.end()
    assert code == 0
    assert "completed" in text
