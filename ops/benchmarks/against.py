"""`ops/bench --against`: what is here and another revision, round by round in turn, on the same server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ops.benchmarks.bench import prefix_of_its_own
from ops.benchmarks.evidence import Failed
from ops.benchmarks.figures import Figures

ROOT = Path(__file__).resolve().parents[2]
HERE = "here"
MEASURING = ("tests", "ops/benchmarks", "ops/acl")  # the same for both sides
COMPARED = ("no-op jobs, 2 workers", "enqueue one by one", "enqueue_many", "idle latency p50")


@contextmanager
def sides(revision: str) -> Iterator[dict[str, Path]]:
    """Two folders with the same measuring scripts: one with the package as it is here, one with that of *revision*."""
    package = _archived(revision)
    with tempfile.TemporaryDirectory(prefix="ms-against-") as name:
        folders = {HERE: Path(name) / "here", revision: Path(name) / "there"}
        for folder in folders.values():
            for part in MEASURING:
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "millstream", folders[HERE] / "millstream", ignore=shutil.ignore_patterns("__pycache__"))
        with tarfile.open(fileobj=BytesIO(package)) as tar:
            tar.extractall(folders[revision], filter="data")
        yield folders


def _archived(revision: str) -> bytes:
    """The package as it was then. Raises a usage error for what is no revision."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, "--", "millstream"]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        reason = done.stderr.decode().strip().splitlines()[-1:]
        raise click.BadParameter(f"{revision!r} cannot be read: {' '.join(reason)}", param_hint="--against")
    return done.stdout


def run_in_turn(url: str, revision: str, jobs: int, rounds: int, console: Console) -> tuple[Figures, Figures]:
    """So many rounds of both; the figures of what is here, and those of the revision."""
    figures = {HERE: Figures(), revision: Figures()}
    with sides(revision) as folders:
        for number in range(1, rounds + 1):
            for name, folder in folders.items():
                console.print(f"round {number} of {rounds}: {name}", style="dim")
                with prefix_of_its_own(url) as prefix:
                    figures[name].extend(_one_round(folder, url, prefix, jobs))
    return figures[HERE], figures[revision]


def _one_round(folder: Path, url: str, prefix: str, jobs: int) -> dict[str, tuple[str, float]]:
    """One round in a process that imports everything from this folder: name -> unit and value."""
    command = [sys.executable, "-m", "ops.benchmarks.one_round", url, prefix, str(jobs)]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"the round in {folder.name} ended with {done.returncode}, see above")
    found = json.loads(done.stdout)
    return {name: (unit, value) for name, (unit, value) in found.items()}


def show(console: Console, ours: Figures, theirs: Figures, title: str) -> None:
    """A line a figure: both medians, the median of the rounds' ratios, and the least and the greatest of them."""
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "here", "there", "here : there", "least", "greatest"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name in COMPARED:
        median, ratios = ours.ratios_to(theirs, name)
        ratio = (f"{value:.3f}" for value in (median, min(ratios), max(ratios)))
        table.add_row(name, f"{ours.median(name):,.0f}", f"{theirs.median(name):,.0f}", *ratio)
    console.print(table)


def report(ours: Figures, theirs: Figures, jobs: int, revision: str) -> dict[str, object]:
    """For JSON: the ratios here : revision with their spread, and the figures of both."""
    ratios = {name: ours.ratios_to(theirs, name) for name in COMPARED}
    return {
        "jobs": jobs,
        "against": revision,
        "ratios": {
            name: {"median": median, "least": min(values), "greatest": max(values)}
            for name, (median, values) in ratios.items()
        },
        "figures": {HERE: ours.to_dict(), revision: theirs.to_dict()},
    }
