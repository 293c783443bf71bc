"""Both type checkers refuse exactly the lines of calls.py that are wrong, and give the results that are expected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.supervised import ROOT

CALLS = Path(__file__).with_name("calls.py")
IGNORED = re.compile(r"  # type: ignore\[([a-z-]+)\]$")


def expected() -> dict[int, str]:
    """Line numbers of what must be refused, and mypy's word for it."""
    lines = CALLS.read_text().splitlines()
    return {number: found[1] for number, line in enumerate(lines, 1) if (found := IGNORED.search(line))}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The same file without the comments that ignore errors, in a folder of its own."""
    folder = tmp_path / "typing"
    folder.mkdir()
    lines = [IGNORED.sub("", line) for line in CALLS.read_text().splitlines()]
    (folder / "calls.py").write_text("\n".join(lines) + "\n")
    return folder


def check(folder: Path, *command: str) -> str:
    """Run a checker on the file and return what it prints."""
    environ = {**os.environ, "MYPYPATH": str(ROOT), "NO_COLOR": "1"}
    command = (sys.executable, "-m", *command)
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy(bare: Path) -> None:
    printed = check(bare, "mypy", "--strict", "--no-error-summary", "--hide-error-context", "calls.py")
    found = re.findall(r"^calls\.py:(\d+): error: .*\[([a-z-]+)\]$", printed, re.MULTILINE)
    assert {int(line): word for line, word in found} == expected(), printed


def test_pyright(bare: Path) -> None:
    settings = {"include": ["calls.py"], "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (bare / "pyrightconfig.json").write_text(json.dumps(settings))
    printed = check(bare, "pyright", "--outputjson", "--pythonpath", sys.executable)
    errors = [item for item in json.loads(printed)["generalDiagnostics"] if item["severity"] == "error"]
    found = {item["range"]["start"]["line"] + 1: item["message"] for item in errors}
    assert set(found) == set(expected()), found


def test_there_is_much_to_refuse() -> None:
    assert len(expected()) >= 20
