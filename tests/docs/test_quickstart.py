"""The README's quickstart, replayed from its first command to its last: installed, run, seen, drained."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.docs.documents import README, Command, blocks, commands, sections
from tests.support import processes
from tests.support.servers import free_port
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TEXT = sections(README.read_text())["Quickstart"]
INSTALL, [UP], *USE = [commands(f"```console\n{block.text}```\n") for block in blocks(TEXT, "console")]

ADDRESS = "127.0.0.1:7070"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "millstream")


def general(text: str) -> str:
    """What differs from machine to machine and from run to run, made the same."""
    text = re.sub(r"server in \S+", "server in FOLDER", text)
    text = re.sub(r"supervisor \S+ \(pid \d+\), \d+ workers?", "supervisor NAME (pid N), N workers", text)
    text = re.sub(r" AGE |[\d.]+ m?s\b", "", text)
    return re.sub(r" +", " ", text).strip()


class User:
    """Somebody at a terminal: an environment of his own, nothing of this one but where packages come from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "log"
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MILLSTREAM"))}
        path = f"{folder / 'checkout' / 'venv' / 'bin'}:{os.environ['PATH']}"
        self.environ = {**outside, "PATH": path, "COLUMNS": "120", "MILLSTREAM_WEB__BIND": f"127.0.0.1:{self.port}"}

    def type(self, command: str, cwd: str) -> str:
        """Run a command to its end and return what the terminal shows; its exit code must be 0."""
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{command.replace(ADDRESS, f'127.0.0.1:{self.port}')}"],
            cwd=self.folder / cwd,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )
        return done.stdout if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}"

    def sees(self, command: Command) -> bool:
        """Whether a command shows what the README shows."""
        shown = self.type(command.text, "shop")
        return not shown.startswith("exit code") and (not command.output or general(shown) == general(command.output))

    def text(self) -> str:
        """What the supervisor said."""
        return self.log.read_text()


@pytest.fixture
def user(tmp_path: Path) -> User:
    """He has a checkout, and has written the README's files."""
    (tmp_path / "checkout").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / "checkout" / name)
    (tmp_path / "shop").mkdir()
    for block in blocks(TEXT, "python"):
        (tmp_path / "shop" / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
    return User(tmp_path)


@pytest.fixture
def up(user: User) -> Iterator[subprocess.Popen[bytes]]:
    """His supervisor, in an environment that he has made; whatever is left of it is killed at the end."""
    for command in INSTALL:
        assert not (shown := user.type(command.text, "checkout")).startswith("exit code"), shown
    with user.log.open("wb") as log:
        process = subprocess.Popen(
            UP.text.split(),
            cwd=user.folder / "shop",
            env=user.environ,
            executable=shutil.which(UP.text.split()[0], path=user.environ["PATH"]),
            stdin=subprocess.DEVNULL,
            stderr=log,
            preexec_fn=processes.die_with_parent,
            start_new_session=True,
        )
    descendants: list[psutil.Process] = []
    try:
        wait_until(lambda: "is ready" in user.text(), 20, user.text)
        descendants = processes.tree(process.pid)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            processes.kill([child for child in descendants if processes.alive(child)])


def test_the_quickstart(user: User, up: subprocess.Popen[bytes]) -> None:
    installed = user.type("python -c 'import millstream; print(millstream.__file__)'", "shop")
    assert Path(installed).is_relative_to(user.folder / "checkout" / "venv")
    for command in (command for block in USE for command in block):
        wait_until(partial(user.sees, command), 20, partial(user.type, command.text, "shop"))
    assert not user.type("python more.py", "shop"), "it enqueues in silence"
    descendants = processes.tree(up.pid)
    up.send_signal(signal.SIGINT)  # Ctrl-C
    assert up.wait(40) == 0, user.text()
    processes.assert_gone(descendants)
    said = [line for line in user.text().splitlines() if not line.startswith("{")]
    assert general("\n".join(said)) == general(UP.output)
