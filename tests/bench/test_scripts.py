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
    "scale": "ops.benchmarks.scale",
    "deadlines": "ops.benchmarks.deadlines",
    "chaos": "tests.chaos.command",
    "fuzz": "tests.fuzz.command",
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
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked sdist has no revisions")
def test_bench_against_a_revision() -> None:
    code, report = run("bench", "--against", "HEAD", "--jobs", "500", "--rounds", "2")
    assert code == 0
    assert report["figures"].keys() == {"here", "HEAD"}
    assert report["ratios"].keys() >= {"no-op jobs, 2 workers", "enqueue one by one", "enqueue_many"}
    assert all(0 < ratio["least"] <= ratio["median"] <= ratio["greatest"] for ratio in report["ratios"].values())


@pytest.mark.slow
def test_bench_against_what_is_no_revision() -> None:
    command = [sys.executable, "-m", PROGRAMS["bench"], "--against", "no-such-revision"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "'no-such-revision' cannot be read" in done.stderr


@pytest.mark.slow
def test_scale() -> None:
    code, report = run("scale", "--delayed", "1000", "--dead", "500", "--backlog", "1000", "--rounds", "2")
    assert code == (0 if report["holds"] else 1)  # slower, as a loaded machine may be
    assert report["ratios"].keys() == {"enqueue", "fetch", "settle"}
    assert 0 < report["late_ms"]["p50"] <= report["late_ms"]["longest"]
    assert report["longest_call_ms"].keys() >= {"list queued", "search a name", "delete dead", "purge", "purge due"}


@pytest.mark.slow
def test_fuzz() -> None:
    code, report = run("fuzz", "--minutes", "0", "--seed", "1", "--server", "valkey")
    assert (code, report["missing"], report["found"]) == (0, [], None)


@pytest.mark.slow
def test_recovery() -> None:
    trials = {"worker death": 3, "host death": 1, "server restart": 2}
    code, report = run("recovery", "--kills", "3", "--hosts", "1", "--restarts", "2", "--waiting", "1000")
    assert {name: len(report[name]["ms"]) for name in trials} == trials
    assert all(time > 0 for name in trials for time in report[name]["ms"])
    assert min(report["host death"]["ms"]) > report["host death"]["promise_ms"] / 4, "nobody's lease was cut short"
    assert code == 1 - all(report[name]["holds"] for name in trials)  # 1: slower, as a loaded machine may be


@pytest.mark.slow
def test_recovery_fails_above_a_promise() -> None:
    program = "from ops.benchmarks import recovery as r; r.PROMISES['server restart'] = 0.0; r.main()"
    command = [sys.executable, "-c", program, "--kills", "0", "--hosts", "0", "--restarts", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    assert "BROKEN" in done.stdout, done.stdout


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
