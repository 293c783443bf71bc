"""The chaos suite must be able to fail: each mutant breaks one promise, and one named scenario must notice it.

`ops/mutants` copies the package for each mutant, changes the copy, and runs the scenario against it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.chaos.run import ITSELF, KEPT
from tests.support import processes
from tests.support.supervised import ROOT

TIMEOUT = 180.0
COPIED = ("millstream", "tests", "ops/acl")


@dataclass(frozen=True)
class Mutant:
    """One change of the code: `old` must occur exactly once in `file`, below the package's folder."""

    name: str
    file: str
    old: str
    new: str
    scenario: str
    seconds: float = 5.0
    seed: int = 1

    def apply(self, root: Path) -> None:
        """Change the copy below *root*. Raises ValueError where the text does not match."""
        path = root / "millstream" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text occurs {text.count(self.old)} times in {self.file}, not once")
        path.write_text(text.replace(self.old, self.new))


@dataclass
class Verdict:
    """What became of a mutant: the first problem that its scenario saw, or none: it survived."""

    mutant: str
    scenario: str
    problems: list[str]
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether the scenario noticed it."""
        return bool(self.problems)


def judge(mutant: Mutant, *, control: bool = False) -> Verdict:
    """Run a mutant's scenario against a changed copy of the package; as a *control*, against an unchanged one."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ms-mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        if not control:
            mutant.apply(root)
        problems = _run_scenario(mutant, root)
    return Verdict(mutant.name, mutant.scenario, problems, time.monotonic() - begin)


def _run_scenario(mutant: Mutant, root: Path) -> list[str]:
    arguments = ["--scenario", mutant.scenario, "--seed", str(mutant.seed), "--seconds", str(mutant.seconds)]
    command = [sys.executable, "-m", "tests.chaos.command", *arguments, "--minutes", "0", "--server", "valkey"]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(root)}
    done = subprocess.run(
        [*command, "--json"],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        preexec_fn=processes.die_with_parent,
    )
    if not done.stdout:
        raise RuntimeError(f"{mutant.name}: the scenario did not run:\n{done.stderr}")
    problems = [problem for run in json.loads(done.stdout)["runs"] for problem in run["problems"]]
    return [problem for problem in problems if not problem.startswith((ITSELF, KEPT))]


@click.command()
@click.option("--only", multiple=True, help="Names of mutants; default: all.")
@click.option("--list", "listing", is_flag=True, help="Show them, and run nothing.")
@click.option("--control", is_flag=True, help="Change nothing: then no scenario may notice anything.")
@click.option("--json", "as_json", is_flag=True)
def main(only: tuple[str, ...], listing: bool, control: bool, as_json: bool) -> None:
    """Break the code in many ways, one at a time: each must be noticed by its chaos scenario.

    Exits 1 where one survives, 2 where the text that it replaces is not in the code any more.
    """
    from tests.chaos.mutations import MUTANTS

    unknown = set(only) - {mutant.name for mutant in MUTANTS}
    if unknown:
        raise click.UsageError(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not only or mutant.name in only]
    if listing:
        return _show(Table("mutant", "file", "scenario"), [(one.name, one.file, one.scenario) for one in chosen])
    processes.adopt_orphans()
    verdicts = [_judge_aloud(mutant, control=control) for mutant in chosen]
    if as_json:
        click.echo(json.dumps([vars(verdict) for verdict in verdicts], indent=2))
    else:
        _show(
            Table("mutant", "scenario", "what was noticed", "seconds", show_lines=True),
            [_row(verdict) for verdict in verdicts],
        )
    sys.exit(0 if all(verdict.caught != control for verdict in verdicts) else 1)


def _judge_aloud(mutant: Mutant, *, control: bool) -> Verdict:
    try:
        verdict = judge(mutant, control=control)
    except (ValueError, RuntimeError, subprocess.TimeoutExpired) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    processes.kill(processes.tree(os.getpid()))  # a mutant may leave processes behind
    state = "noticed" if verdict.caught else "not noticed"
    click.echo(f"{mutant.name}: {state} by {mutant.scenario} in {verdict.seconds:.0f} s", err=True)
    return verdict


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    problem = verdict.problems[0].splitlines()[0][:120] if verdict.caught else "[red]nothing[/]"
    return verdict.mutant, verdict.scenario, problem, f"{verdict.seconds:.0f}"


def _show(table: Table, rows: list[tuple[str, ...]]) -> None:
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
