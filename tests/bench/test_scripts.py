"""The measuring scripts run, check what they measured, and print what others can read. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "bench": "ops.benchmarks.bench",
    "recovery": "ops.benchmarks.recovery",
    "deadlines": "ops.benchmarks.deadlines",
    "chaos": "tests.chaos.command",
}


def run(script: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON output of a script."""
    command = [sys.executable, "-m", PROGRAMS[script], *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["embedded", "redis"])
def test_bench(server: str) -> None:
    code, report = run("bench", "--jobs", "1000", "--rounds", "1", "--server", server)
    assert code == 0
    assert report["ratios"].keys() >= {"no-op jobs : bare XREADGROUP COUNT 100", "enqueue : bare XADD"}
    assert all(figure["median"] > 0 for figure in report["figures"].values())


@pytest.mark.slow
def test_recovery() -> None:
    code, report = run("recovery", "--kills", "3", "--waiting", "1000")
    assert code in (0, 1)  # 1: slower than the limit, which a loaded machine may be
    assert len(report["ms"]) == 3


@pytest.mark.slow
def test_deadlines() -> None:
    code, report = run("deadlines", "--workers", "8")
    assert code in (0, 1)  # as above
    assert {title: len(times) for title, times in report["ms"].items()} == {"spread": 8, "together": 8}
    assert all(time > 0 for times in report["ms"].values() for time in times)


@pytest.mark.slow
@pytest.mark.chaos
def test_chaos() -> None:
    arguments = ["--seed", "7", "--minutes", "0", "--seconds", "2", "--scenario", "kill-workers"]
    code, report = run("chaos", *arguments)
    assert [verdict["problems"] for verdict in report["runs"]] == [[]]
    assert code == 0
