"""The command `ops/fuzz`: every pair of the table once, then random sequences until the time is over."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.coverage import Coverage
from tests.fuzz.search import HEADER, Found, play_every_scene, search, try_every_pair
from tests.support.servers import Kind, Server


@click.command()
@click.option("--seed", default=None, type=int, help="Default: a new one, printed.")
@click.option("--minutes", default=5.0, show_default=True, help="For all servers together.")
@click.option("--server", type=click.Choice([str(kind) for kind in Kind] + ["both"]), default="both")
@click.option("--json", "as_json", is_flag=True)
def main(seed: int | None, minutes: float, server: str, as_json: bool) -> None:
    """Drive random sequences of calls against a real server, and compare every step with a model in Python.

    Exits 1 where they differ, and prints the shortest such sequence as Python.
    """
    console = Console(stderr=True)
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    console.print(f"seed {seed}")
    kinds = list(Kind) if server == "both" else [Kind(server)]
    coverage, found = Coverage(), None
    for kind in kinds:
        found = found or _search_on(kind, coverage, seed, minutes * 60 / len(kinds), console)
    _report(coverage, found, seed, as_json)
    if found:
        console.print(f"\nseed {found.seed}: {found.reason}", markup=False, highlight=False)
    sys.exit(1 if found else 0)


def _search_on(kind: Kind, coverage: Coverage, seed: int, seconds: float, console: Console) -> Found | None:
    """The same pairs and seeds on one kind of server."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[steps]:,} steps"))
    with Server(kind) as own, Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(str(kind), total=seconds, steps=0)

        def tick(elapsed: float) -> None:
            progress.update(task, completed=elapsed, steps=coverage.steps)

        try_every_pair(own.url, coverage)
        play_every_scene(own.url, coverage)
        found = search(own.url, coverage, seed, seconds, tick)
    if found:
        console.print(HEADER.format(name=kind.name) + found.program, markup=False, highlight=False)
    return found


def _report(coverage: Coverage, found: Found | None, seed: int, as_json: bool) -> None:
    if as_json:
        facts = coverage.to_dict() | {"seed": seed, "found": asdict(found) if found else None}
        click.echo(json.dumps(facts, indent=2))
        return
    output = Console()
    output.print(coverage.table())
    output.print("; ".join(f"{name} {count:,}" for name, count in sorted(coverage.seen.items())))
    missing = coverage.missing()
    output.print(f"{coverage.steps:,} steps; pairs that were not tried: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
