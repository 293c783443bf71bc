"""statistics.md: its commands run, its table has what is printed, its numbers are those of the code."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources

import pytest

from millstream.protocol import statistics
from millstream.protocol.spread import DURATIONS, WAITS
from millstream.protocol.statistics import Resolution
from millstream.supervisor.cli import run
from millstream.supervisor.cli.statistics import COLUMNS
from millstream.supervisor.maintenance.statistics import EVERY
from tests.docs.documents import DOCS, code, commands, rows, sections
from tests.support.acl import as_role
from tests.support.filled import Filled

TEXT = (DOCS / "statistics.md").read_text()
TABLE = rows(sections(TEXT)["What is printed"])


@pytest.fixture
def filled(url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """A queue as the examples name it, in which a job was counted."""
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", as_role(url, "operator"))
    monkeypatch.setenv("MILLSTREAM_PREFIX", prefix)
    filled = Filled(url, prefix, "reports")
    filled.add(2, name="render")
    filled.drain()
    counts = {"render": {"completed": 2, "retried": 1, "t": 900_000, "t0.5": 3, "w": 3_000, "w0.005": 3}}
    filled.link.run(statistics.add(filled.keys, "shop-1a2b3c", 1, counts))
    return filled


def test_the_commands_run(filled: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(TEXT)
    assert len(found) == 5
    for command in found:
        assert run(shlex.split(command.text)[1:]) == 0, command.text
        out = capsys.readouterr().out
        assert "render" in out or "3 runs, 1 failed" in out, command.text
    filled.link.close()


def test_the_table_has_what_is_printed(filled: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stats", "--since", "1h", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[1]
    members = [name for cells in TABLE for name in code(cells[0])]
    assert sorted(members) == sorted(row)
    meanings = {name: cells[2] for cells in TABLE for name in code(cells[0])}
    assert set(row["duration"]) == set(code(meanings["duration"]))
    assert set(row["points"][0]) - {"at"} <= set(members)
    titles = {name for cells in TABLE for name in (code(cells[0]) if cells[1] == "the same" else code(cells[1]))}
    assert titles == {column.title for column in COLUMNS}
    filled.link.close()


def test_its_numbers() -> None:
    assert f"every {EVERY:g} s" in TEXT
    assert f"({DURATIONS[0] * 1000:g} ms, for waits {WAITS[0] * 1000:g} ms)" in TEXT
    assert [one.longest for one in Resolution] == [24 * 3600, 30 * 86400]
    scripts = resources.files("millstream.protocol.scripts")
    names = re.search(r"local NAMES = (\d+)", (scripts / "statistics_add.lua").read_text())
    cap = re.search(r"local FINISHED_CAP = (\d+)", (scripts / "_finished.lua").read_text())
    assert names and f"tells {names[1]} names" in TEXT
    assert cap and f"the last {cap[1]} whose" in TEXT
