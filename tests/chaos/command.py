"""The command `ops/chaos`: scenarios in random order until the time is over."""

from __future__ import annotations

import json
import random
import sys
import time

import click
from rich.console import Console
from rich.table import Table

from tests.chaos.run import Verdict, run_scenario
from tests.chaos.scenarios import SCENARIOS
from tests.support import processes
from tests.support.servers import Kind


@click.command()
@click.option("--seed", default=None, type=int, help="Default: a new one, printed.")
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="Length of one scenario, without its drain.")
@click.option("--scenario", "only", multiple=True, type=click.Choice(sorted(SCENARIOS)))
@click.option("--server", type=click.Choice([str(kind) for kind in Kind] + ["both"]), default="both")
@click.option("--json", "as_json", is_flag=True)
def main(seed: int | None, minutes: float, seconds: float, only: tuple[str, ...], server: str, as_json: bool) -> None:
    """Break a running system in many ways and check that every promise holds; exits 1 where one does not."""
    processes.adopt_orphans()
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    console, rng = Console(stderr=True), random.Random(seed)
    kinds = list(Kind) if server == "both" else [Kind(server)]
    console.print(f"seed {seed}")
    verdicts: list[Verdict] = []
    deadline = time.monotonic() + minutes * 60
    while not verdicts or time.monotonic() < deadline:
        for name in rng.sample(sorted(only or SCENARIOS), len(only or SCENARIOS)):
            kind = rng.choice(kinds)
            verdict = run_scenario(name, f"{seed}.{len(verdicts)}", seconds, kind)
            verdicts.append(verdict)
            _show(console, verdict, kind)
            if time.monotonic() >= deadline:
                break
    _report(verdicts, seed, as_json)
    sys.exit(1 if any(verdict.problems for verdict in verdicts) else 0)


def _show(console: Console, verdict: Verdict, kind: Kind) -> None:
    state = f"[red]{len(verdict.problems)} problems[/]" if verdict.problems else "[green]ok[/]"
    console.print(f"{verdict.scenario} ({kind}, {verdict.seed}): {state} in {verdict.seconds:.1f} s")
    for problem in verdict.problems[:20]:
        console.print("  " + problem, markup=False, highlight=False)


def _report(verdicts: list[Verdict], seed: int, as_json: bool) -> None:
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
