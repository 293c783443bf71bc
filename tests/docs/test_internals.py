"""The files and numbers that internals.md names are those of the code."""

from __future__ import annotations

from importlib import import_module

import pytest

from millstream.protocol import scoreboard
from tests.docs.documents import DOCS, code, rows, sections
from tests.support.supervised import ROOT

TEXT = (DOCS / "internals.md").read_text()
NUMBERS = rows(sections(TEXT)["Numbers"])


def test_every_file_exists() -> None:
    named = {name for name in code(TEXT) if name.startswith("millstream/")}
    assert len(named) > 20
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


@pytest.mark.parametrize("row", NUMBERS, ids=[code(row[0])[0] for row in NUMBERS])
def test_numbers_are_those_of_the_code(row: list[str]) -> None:
    module, _, name = code(row[0])[0].rpartition(".")
    assert getattr(import_module(module), name) == float(row[1].removesuffix(" s"))


def test_sizes_of_the_scoreboard() -> None:
    text = sections(TEXT)["Scoreboard and outbox"]
    assert f"record of {scoreboard.RECORD_BYTES // 1024} KiB" in text
    assert f"outbox is {scoreboard.OUTBOX_BYTES // 1024} KiB" in text
