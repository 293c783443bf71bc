"""The command `ops/chaos`: scenarios in random order until the time is over."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from tests.chaos.run import Verdict, run_scenario
from tests.chaos.scenarios import SCENARIOS
from tests.support import processes
from tests.support.servers import Kind


@dataclass(frozen=True)
class Draw:
    """One run to be made: what decides over its faults."""

    scenario: str
    seed: str
    kind: Kind


@click.command()
@click.option("--seed", default=None, type=int, help="Default: a new one, printed.")
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="Length of one scenario, without its drain.")
@click.option("--scenario", "only", multiple=True, type=click.Choice(sorted(SCENARIOS)))
@click.option("--again", default="", help="Only one run: with the seed that a failed one printed.")
@click.option("--server", type=click.Choice([str(kind) for kind in Kind] + ["both"]), default="both")
@click.option("--list", "listing", is_flag=True, help="Show the scenarios, and run nothing.")
@click.option("--json", "as_json", is_flag=True)
def main(
    seed: int | None,
    minutes: float,
    seconds: float,
    only: tuple[str, ...],
    again: str,
    server: str,
    listing: bool,
    as_json: bool,
) -> None:
    """Break a running system in many ways and check that every promise holds; exits 1 where one does not."""
    if listing:
        return _list()
    processes.adopt_orphans()
    console = Console(stderr=True)
    names, kinds = _possible(only or tuple(SCENARIOS), console), list(Kind) if server == "both" else [Kind(server)]
    if again:
        draws: Iterator[Draw] = iter([Draw(names[0], again, kinds[0])])
    else:
        seed = random.SystemRandom().randrange(10**6) if seed is None else seed
        console.print(f"seed {seed}")
        draws = _draws(seed, names, kinds)
    verdicts: list[Verdict] = []
    deadline = time.monotonic() + minutes * 60
    for draw in draws:
        verdicts.append(run_scenario(draw.scenario, draw.seed, seconds, draw.kind))
        _show(console, verdicts[-1], draw, seconds)
        if time.monotonic() >= deadline:
            break
    _report(verdicts, seed, as_json)
    sys.exit(1 if any(verdict.problems for verdict in verdicts) else 0)


def _possible(names: tuple[str, ...], console: Console) -> list[str]:
    """The scenarios that this machine allows."""
    for name in names:
        if not SCENARIOS[name].possible:
            console.print(f"{name}: not possible on this machine")
    found = [name for name in names if SCENARIOS[name].possible]
    if not found:
        raise click.ClickException("no scenario is left to run")
    return found


def _draws(seed: int, names: list[str], kinds: list[Kind]) -> Iterator[Draw]:
    """Each scenario once in random order, then all of them anew."""
    rng, number = random.Random(seed), 0
    while True:
        for name in rng.sample(sorted(names), len(names)):
            yield Draw(name, f"{seed}.{number}", rng.choice(kinds))
            number += 1


def _list() -> None:
    table = Table("scenario", "what is broken, and what must hold")
    for name, scenario in SCENARIOS.items():
        table.add_row(name, scenario.promise)
    Console().print(table)


def _show(console: Console, verdict: Verdict, draw: Draw, seconds: float) -> None:
    state = f"[red]{len(verdict.problems)} problems[/]" if verdict.problems else "[green]ok[/]"
    console.print(f"{verdict.scenario} ({draw.kind}, {verdict.seed}): {state} in {verdict.seconds:.1f} s")
    for problem in verdict.problems[:20]:
        console.print("  " + problem, markup=False, highlight=False)
    if verdict.problems:
        options = f"--scenario {draw.scenario} --again {draw.seed} --server {draw.kind} --seconds {seconds:g}"
        console.print(f"  the same again: ops/chaos {options}", markup=False, highlight=False)


def _report(verdicts: list[Verdict], seed: int | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"seed": seed, "runs": [vars(verdict) for verdict in verdicts]}, indent=2))
        return
    table = Table("scenario", "seed", "seconds", "verdict", "facts")
    for verdict in verdicts:
        facts = ", ".join(f"{number:,} {name}" for name, number in verdict.facts.items() if number)
        state = "[red]broken[/]" if verdict.problems else "ok"
        table.add_row(verdict.scenario, verdict.seed, f"{verdict.seconds:.1f}", state, facts)
    Console().print(table)


if __name__ == "__main__":
    main()
