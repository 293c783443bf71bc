"""The events of logs.md are those that the code logs, at their levels; its commands work."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.docs.documents import DOCS, README, blocks, code, commands, rows, sections
from tests.docs.test_readme import environment
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

TEXT = (DOCS / "logs.md").read_text()
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
TABLES = [row for text in sections(TEXT).values() for row in rows(text)]

EVENT = re.compile(r"[a-z]+(\.[a-z_]+)?")


def logged() -> Iterator[tuple[str, str]]:
    """Event and level of every call of a logger in the package; a level that is worked out counts as info."""
    for file in (ROOT / "millstream").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=owner, attr=method), args=arguments) if _is_logger(owner):
                    found = [one.value for one in arguments if isinstance(one, ast.Constant)]
                    yield from ((str(text), LEVELS.get(method, "info")) for text in found if EVENT.fullmatch(str(text)))


def _is_logger(owner: ast.expr) -> bool:
    """Whether this is a module's ``log``, or a logger that is made on the spot."""
    return ast.unparse(owner) == "log" or ast.unparse(owner).startswith("structlog.get_logger(")


def test_every_event_is_documented() -> None:
    documented = [(code(event)[0], level) for event, level, _ in TABLES]
    assert len(documented) == len(set(documented))
    assert sorted(documented) == sorted(set(logged()))


def test_commands(tmp_path: Path) -> None:
    """With the README's application, and a job of it that fails."""
    (tmp_path / "shop.py").write_text(blocks(README.read_text(), "python")[0].text)
    environ = {**environment(), "MILLSTREAM_WEB__BIND": "off"}
    up, shown = (command.text for command in commands(TEXT))

    def done(command: str) -> bool:
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True).returncode == 0

    supervisor = subprocess.Popen(["bash", "-c", f"exec env {up}"], cwd=tmp_path, env=environ)
    try:
        wait_until((tmp_path / ".millstream" / "valkey.sock").exists, 20)
        wait_until(lambda: done("millstream enqueue --queue reports count_primes x"), 20)
        wait_until(lambda: done(f"{shown} | grep job.failed"), 20)
    finally:
        supervisor.terminate()
        assert supervisor.wait(30) == 0
