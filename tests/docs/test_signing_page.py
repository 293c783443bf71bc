"""The page about signed jobs: its commands, and what it says of sizes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.protocol import signing
from tests.docs.documents import DOCS, commands, sections
from tests.support.acl import as_role
from tests.support.servers import StartServer
from tests.support.supervised import ROOT, Supervised
from tests.support.waiting import wait_until

TEXT = (DOCS / "signing.md").read_text()
SECTIONS = sections(TEXT)

APP = """
from millstream import Millstream

app = Millstream()

@app.job
def work() -> int:
    return 1
"""


def type_all(title: str, own: Supervised) -> str:
    """Type the commands of a section into one shell; what they print."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    text = "\n".join(["set -e", *(command.text for command in commands(SECTIONS[title])), "env >variables"])
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=own.folder,
        env={**own.environment, "PATH": path, "MILLSTREAM_REDIS_URL": as_role(own.redis_url or "", "operator")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.leaves_jobs
def test_the_commands(start_server: StartServer, tmp_path: Path) -> None:
    """Set up as written; a job from before is refused, and runs when it may be retried."""
    server = start_server()
    with Supervised(tmp_path / "app", APP, redis_url=server.url) as own:
        shown = type_all("Set up", own)
        assert re.search(r"^signing +2026-11$", shown, re.MULTILINE), shown
        assert (own.folder / "signing-keys").stat().st_mode & 0o777 == 0o600
        own.stop()
        unsigned = own.command("enqueue", "work").stdout.strip()
        own.extra["MILLSTREAM_SIGNING_KEYS_FILE"] = str(own.folder / "signing-keys")
        own.start()
        own.wait_log("entry.malformed")
        wait_until(lambda: unsigned in own.command("dead", "list").stdout, 10)
        assert own.command("enqueue", "work").returncode == 0
        own.stop()
        own.extra["MILLSTREAM_ACCEPT_UNSIGNED"] = "true"
        own.start()
        assert unsigned in type_all("What is refused", own)
        wait_until(lambda: "completed" in own.command("jobs", "show", unsigned).stdout, 10, own.log)
        own.stop()


def test_numbers() -> None:
    assert f"a secret of at least {signing.SHORTEST} characters" in SECTIONS["Set up"]
    ring = signing.Keyring.parse("id:" + "s" * 32)
    assert f"{len(signing.sign(b'{}', 'q', 'j', ring)) - 2 - len('id')} bytes and the key's id" in " ".join(
        SECTIONS["Cost"].split()
    )


def test_it_can_be_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ops.benchmarks.signing as it; print(it.measured(10))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stdout.count(",") == 3, done.stderr
