"""The command `ops/bench`: rounds of bare loops and of Millstream on one server."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Iterator

import click
from rich.console import Console

from ops.benchmarks import bare
from ops.benchmarks.evidence import Failed
from ops.benchmarks.figures import RATE, TIME, Figures, percentile
from tests.support.servers import Kind, Options, Server

RATIOS = {
    "no-op jobs : bare XREADGROUP COUNT 100": (
        "no-op jobs, 2 workers",
        "bare XREADGROUP COUNT 100, 2 processes",
    ),
    "enqueue : bare XADD": ("enqueue one by one", "bare XADD one by one"),
    "enqueue_many : bare XADD pipelined": ("enqueue_many", "bare XADD pipelined"),
    "idle latency p50 : bare": ("idle latency p50", "bare idle latency p50"),
}

BARE_TIMES = 4  # so many more entries for the bare bulk loops: both sides are to be measured over similar times


@contextlib.contextmanager
def server_url(server: str) -> Iterator[str]:
    """A URL for `embedded` (Valkey), `redis` (Debian's) or a given URL; ours append every second."""
    if server not in ("embedded", "redis"):
        yield server
        return
    kind = Kind.VALKEY if server == "embedded" else Kind.REDIS
    with Server(kind, Options(appendonly=True, acl=None)) as own:
        yield own.url


def bare_round(url: str, prefix: str, jobs: int, figures: Figures) -> None:
    """One round of the reference loops."""
    single = max(1, jobs // 10)
    figures.add("bare XADD one by one", RATE, bare.add_single(url, prefix + "bare1", single))
    _consume(url, prefix + "bare1", 1, single, figures)
    many = BARE_TIMES * jobs
    figures.add("bare XADD pipelined", RATE, bare.add_pipelined(url, prefix + "bare2", many))
    _consume(url, prefix + "bare2", 100, many, figures)
    latencies = bare.idle_latency(url, prefix + "bare3", samples=200)
    figures.add("bare idle latency p50", TIME, percentile(latencies, 0.5))
    figures.add("bare idle latency p99", TIME, percentile(latencies, 0.99))


def _consume(url: str, key: str, count: int, jobs: int, figures: Figures) -> None:
    rate, read, distinct = bare.consume(url, key, count)
    if (read, distinct) != (jobs, jobs):
        raise Failed(f"bare loop COUNT {count}: {jobs} added, {read} read, {distinct} distinct")
    figures.add(f"bare XREADGROUP COUNT {count}, 2 processes", RATE, rate)


def remove_keys(url: str, prefix: str) -> None:
    """Delete every key below the prefix."""
    with bare.connect(url) as client:
        for key in client.scan_iter(match=prefix + "*", count=1000):
            client.unlink(key)


@contextlib.contextmanager
def prefix_of_its_own(url: str) -> Iterator[str]:
    """A prefix that nobody else has; its keys are deleted afterwards."""
    prefix = f"bench{secrets.token_hex(4)}:"
    try:
        yield prefix
    finally:
        remove_keys(url, prefix)


def run_rounds(url: str, jobs: int, rounds: int, only_bare: bool, console: Console) -> Figures:
    """Interleaved rounds, so that drifts of the machine meet both sides."""
    figures = Figures()
    for number in range(1, rounds + 1):
        console.print(f"round {number} of {rounds}", style="dim")
        with prefix_of_its_own(url) as prefix:
            bare_round(url, prefix, jobs, figures)
            if not only_bare:
                from ops.benchmarks.ours import our_round

                our_round(url, prefix, jobs, figures)
    return figures


@click.command()
@click.option("--jobs", default=20_000, show_default=True, help="Jobs of a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--server", default="embedded", show_default=True, help="embedded, redis, or a Redis URL.")
@click.option("--bare", "only_bare", is_flag=True, help="Only the reference loops.")
@click.option("--against", "revision", default="", metavar="REV", help="Against this revision instead of bare loops.")
@click.option("--json", "as_json", is_flag=True)
def main(jobs: int, rounds: int, server: str, only_bare: bool, revision: str, as_json: bool) -> None:
    """Throughput, enqueue and idle latency against bare redis-py loops, or against another revision.

    Exits 1 when a job was lost or run twice.
    """
    messages = Console(stderr=True)
    try:
        with server_url(server) as url:
            if revision:
                return _compare(url, revision, jobs, rounds, as_json, messages)
            figures = run_rounds(url, jobs, rounds, only_bare, messages)
    except Failed as problem:
        messages.print(f"FAILED: {problem}", style="bold red")
        sys.exit(1)
    if as_json:
        ratios = figures.ratios(RATIOS)
        click.echo(json.dumps({"jobs": jobs, "figures": figures.to_dict(), "ratios": ratios}, indent=2))
    else:
        figures.show(Console(), f"{jobs:,} jobs a round, {server}", RATIOS)


def _compare(url: str, revision: str, jobs: int, rounds: int, as_json: bool, messages: Console) -> None:
    from ops.benchmarks import against

    ours, theirs = against.run_in_turn(url, revision, jobs, rounds, messages)
    facts = against.report(ours, theirs, jobs, revision)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        against.show(Console(), ours, theirs, f"{jobs:,} jobs a round, here and {revision} in turn")


if __name__ == "__main__":
    main()
