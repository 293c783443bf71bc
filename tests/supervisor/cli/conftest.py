"""A server, a project and a way to run commands, for the tests of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.supervisor.cli import run
from tests.support.acl import as_role
from tests.support.commands import Cli
from tests.support.filled import Filled

APP = """
from millstream import Millstream

app = Millstream()

@app.job(queue="q")
def add(a: int, b: int = 1) -> int:
    return a + b

@app.job(queue="q", timeout=0)
def endless() -> None:
    pass
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, url: str, prefix: str) -> None:
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", as_role(url, "operator"))
    monkeypatch.setenv("MILLSTREAM_PREFIX", prefix)


@pytest.fixture
def filled(url: str, prefix: str) -> Iterator[Filled]:
    queue = Filled(url, prefix)
    yield queue
    queue.link.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application, the current one for the test."""
    folder, before = tmp_path / "project", Path.cwd()
    folder.mkdir()
    (folder / "project_jobs.py").write_text(APP)
    (folder / "millstream.toml").write_text('app = "project_jobs:app"\n')
    monkeypatch.setattr(sys, "path", [*sys.path])
    os.chdir(folder)
    yield folder
    os.chdir(before)
    sys.modules.pop("project_jobs", None)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
