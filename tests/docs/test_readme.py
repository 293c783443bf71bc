"""The README's commands, run: the scripts, the installation, the quickstart with its output, the configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.supervisor import config
from tests.docs.documents import DOCS, README, blocks, code, commands, sections
from tests.support.supervised import ROOT

TEXT = README.read_text()
BIN = Path(sys.executable).parent

# Every command of the README outside of its quickstart, and who runs it here.
RUN_BY = {
    "ops/demo": "test_the_demo_runs",
    "ops/test": "test_the_tests_are_found",
    "millstream check": "test_the_configuration_is_valid",
    "millstream config show": "test_the_configuration_is_valid",
    "ops/bench": "test_the_measuring_scripts_start",
    "ops/recovery": "test_the_measuring_scripts_start",
    "ops/deadlines": "test_the_measuring_scripts_start",
    "ops/chaos": "test_the_measuring_scripts_start",
    "ops/fuzz": "test_the_measuring_scripts_start",
    "ops/scale": "test_the_measuring_scripts_start",
}


def test_every_command_is_run() -> None:
    replayed = {command.text for command in commands(sections(TEXT)["Quickstart"])}
    assert {command.text for command in commands(TEXT)} == RUN_BY.keys() | replayed
    assert set(RUN_BY.values()) <= globals().keys()


def test_links_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).is_file(), f"{document.name}: {target}"


def test_every_document_is_linked() -> None:
    listed = set(re.findall(r"\]\(ops/docs/([^)]+)\)", sections(TEXT)["More"]))
    assert listed >= {path.name for path in DOCS.glob("*.md")}


def environment() -> dict[str, str]:
    """This process's variables, with the interpreter of the tests first on PATH and the checkout importable."""
    path = os.pathsep.join((str(BIN), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120"}


def run(*arguments: str | Path, cwd: Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its exit code must be 0."""
    done = subprocess.run(
        arguments, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def prepared(purpose: str) -> bool:
    """Whether the scripts find the environment as they left it; preparing it is not for a test to do."""
    script = f'. ops/environment.sh; [ "$(cat "$VENV/.millstream-{purpose}")" = "$(fingerprint)" ]'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True).returncode == 0


def test_the_demo_runs(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one.py").write_text("print(1)\n")
    command: tuple[str | Path, ...] = (ROOT / "ops" / "demo",)
    if not prepared("demo"):
        command = (sys.executable, "-m", "millstream", "demo")
    assert "1 file in" in run(*command, str(tmp_path / "files"), cwd=tmp_path).stdout


def test_the_tests_are_found() -> None:
    command: tuple[str | Path, ...] = (ROOT / "ops" / "test",)
    if not prepared("test"):
        command = (sys.executable, "-m", "pytest")
    listed = run(*command, "--collect-only", "-q", "-p", "no:cacheprovider", "tests/docs/test_readme.py", cwd=ROOT)
    assert "test_the_tests_are_found" in listed.stdout


@pytest.mark.parametrize("script", [text for text, by in RUN_BY.items() if by == "test_the_measuring_scripts_start"])
def test_the_measuring_scripts_start(script: str, tmp_path: Path) -> None:
    """What they measure takes minutes; their own tests run small rounds of it."""
    module = re.findall(r" -m ([\w.]+)", (ROOT / script).read_text())[0]
    command = (ROOT / script,) if prepared("test") else (sys.executable, "-m", module)
    assert "Usage:" in run(*command, "--help", cwd=tmp_path).stdout


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(blocks(TEXT, "python")[0].text)
    (tmp_path / "millstream.toml").write_text(blocks(TEXT, "toml")[0].text)
    variable = next(part for part in code(sections(TEXT)["Configuration"]) if part.startswith("MILLSTREAM_WORKERS"))
    name, _, value = variable.partition("=")
    settings = config.load(folder=tmp_path, environ={name: value})
    assert settings.workers["reports"].queues == ("urgent", "reports")
    assert settings.workers["reports"].processes == int(value)
    for command in ("millstream check", "millstream config show"):
        assert "redis://localhost:6379/0" in run(*command.split(), cwd=tmp_path).stdout
