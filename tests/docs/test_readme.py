"""The README's commands, run: the scripts, the installation, the quickstart with its output, the configuration."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from millstream.supervisor import config
from tests.docs.documents import DOCS, README, Command, blocks, code, commands, sections
from tests.support import processes
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

TEXT = README.read_text()
BIN = Path(sys.executable).parent

# Every command of the README, and who runs it here.
RUN_BY = {
    "ops/demo": "test_the_demo_runs",
    "ops/test": "test_the_tests_are_found",
    "pip install '.[embedded]'": "test_the_checkout_can_be_installed",
    "millstream up --app shop:app": "test_the_quickstart",
    "python shop.py": "test_the_quickstart",
    "millstream queues list": "test_the_quickstart",
    "millstream check": "test_the_configuration_is_valid",
    "millstream config show": "test_the_configuration_is_valid",
    "ops/bench": "test_the_measuring_scripts_start",
    "ops/recovery": "test_the_measuring_scripts_start",
    "ops/chaos": "test_the_measuring_scripts_start",
}


def test_every_command_is_run() -> None:
    assert {command.text for command in commands(TEXT)} == RUN_BY.keys()
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


def test_the_checkout_can_be_installed() -> None:
    command = (sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation")
    installed = run(*command, "--disable-pip-version-check", ".[embedded]", cwd=ROOT)
    assert "does not provide the extra" not in installed.stderr
    assert re.search(r"Would install millstream|already satisfied", installed.stdout), installed.stdout


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the README's files: each is a block whose first line is its name."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for block in blocks(TEXT, "python"):
        name = block.text.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(block.text)
    (folder / "toml").write_text(blocks(TEXT, "toml")[0].text)
    return folder


def shown(text: str) -> Command:
    """The README's command of this text, with the output that it shows."""
    return next(command for command in commands(TEXT) if command.text == text)


@pytest.fixture
def up(shop: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The README's supervisor, ready; whatever is left of it is killed at the end."""
    with (shop / "log").open("wb") as log:
        process = subprocess.Popen(
            shown("millstream up --app shop:app").text.split(),
            cwd=shop,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=log,
            preexec_fn=processes.die_with_parent,
            start_new_session=True,
        )
    descendants: list[psutil.Process] = []
    try:
        wait_until(lambda: "is ready" in (shop / "log").read_text(), 20, lambda: (shop / "log").read_text())
        descendants = processes.tree(process.pid)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            processes.kill([child for child in descendants if processes.alive(child)])


def general(text: str) -> str:
    """What differs from machine to machine and from run to run, made the same."""
    text = re.sub(r"server in \S+", "server in FOLDER", text)
    text = re.sub(r"supervisor \S+ \(pid \d+\), \d+ workers?", "supervisor NAME (pid N), N workers", text)
    return text.strip()


def test_the_quickstart(shop: Path, up: subprocess.Popen[bytes]) -> None:
    for text in ("python shop.py", "millstream queues list"):
        assert run(*text.split(), cwd=shop).stdout == shown(text).output
    run("python", "more.py", cwd=shop)
    descendants = processes.tree(up.pid)
    up.send_signal(signal.SIGINT)  # Ctrl-C
    assert up.wait(40) == 0, (shop / "log").read_text()
    processes.assert_gone(descendants)
    said = [line for line in (shop / "log").read_text().splitlines() if not line.startswith("{")]
    assert general("\n".join(said)) == general(shown("millstream up --app shop:app").output)


def test_the_configuration_is_valid(shop: Path) -> None:
    (shop / "toml").rename(shop / "millstream.toml")
    variable = next(part for part in code(sections(TEXT)["Configuration"]) if part.startswith("MILLSTREAM_WORKERS"))
    name, _, value = variable.partition("=")
    settings = config.load(folder=shop, environ={name: value})
    assert settings.workers["reports"].queues == ("urgent", "reports")
    assert settings.workers["reports"].processes == int(value)
    for command in ("millstream check", "millstream config show"):
        assert "redis://localhost:6379/0" in run(*command.split(), cwd=shop).stdout
