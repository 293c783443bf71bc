"""The programs that check what is below ops/: found beside the interpreter or on the path, else the test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.supervised import ROOT

OPS = ROOT / "ops"
COMPOSE = OPS / "compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"
PROMETHEUS = OPS / "prometheus" / "prometheus.yml"
UNIT = OPS / "systemd" / "millstream.service"

COMES_WITH = {
    "docker-compose": "the extra `test`",
    "hadolint": "the extra `test`",
    "yamllint": "the extra `test`",
    "promtool": "Debian's package prometheus",
    "systemd-analyze": "Debian's package systemd",
    "unshare": "Debian's package util-linux",
}


def tool(name: str) -> str:
    """The path of a program; skips the test where there is none."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"no {name} on this machine; it comes with {COMES_WITH[name]}")
    return found


def check(name: str, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the caller looks at what it said."""
    command = [tool(name), *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)


def planted(file: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a file with an error in it."""
    text = file.read_text()
    assert old in text, f"{old!r} is not in {file.name}"
    copy = folder / file.name
    copy.write_text(text.replace(old, new, 1))
    return copy
