"""The command `ops/scale`: what millions of stored jobs cost those who enqueue, fetch, settle, list and purge."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from millstream.protocol import control, transitions
from millstream.protocol.call import Argument, Call
from millstream.protocol.inspect import browse, survey
from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.link import Link
from millstream.protocol.listing import Wanted, list_jobs
from millstream.protocol.states import State
from millstream.protocol.transitions import Fetched, Kind, Outcome
from ops.benchmarks import evidence, filling
from ops.benchmarks.bench import prefix_of_its_own, server_url
from ops.benchmarks.figures import Figures, percentile
from ops.benchmarks.ours import APP, TOML, in_child
from tests.protocol.rig import refs_of
from tests.support.acl import as_role
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

CONSUMER = "scale-000001:g/0:1"
CALLS = 1000  # of a round
SAMPLES = 20
MOST, LATEST = 1.10, 200.0
"""The promises: the ratio of a full queue to an empty one; milliseconds from a job's time to its begin."""


@dataclass
class Sizes:
    """How many jobs are stored."""

    delayed: int
    dead: int
    backlog: int


class TimedLink(Link):
    """A connection that notes the server's own time of each round trip: that of its one thread, in milliseconds.

    Other processes of the machine make no difference to it.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=60.0)
        self.spent = 0.0
        self.longest: dict[str, float] = {}
        self.label = ""

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        asked = ("INFO", "cpu")
        before, *replies, after = super().execute_many([asked, *commands, asked])
        spent = _cpu_ms(after) - _cpu_ms(before)
        self.spent += spent
        if self.label:
            self.longest[self.label] = max(spent, self.longest.get(self.label, 0.0))
        return replies


def _cpu_ms(info: bytes) -> float:
    """What the thread that runs scripts has used so far."""
    fields = dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
    return 1000 * sum(float(fields[f"used_cpu_{part}_main_thread"]) for part in ("user", "sys"))


def measure_promotion(url: str, prefix: str) -> list[float]:
    """Milliseconds from a job's time to its begin, where nothing else is to be done."""
    with tempfile.TemporaryDirectory(prefix="ms-scale-") as name:
        env = {evidence.FOLDER: name, evidence.JOBS: "1"}
        client = {**env, "MILLSTREAM_REDIS_URL": url, "MILLSTREAM_PREFIX": prefix}
        supervised = Supervised(Path(name) / "up", APP, TOML, redis_url=url, prefix=prefix, env=env)
        with supervised.start(timeout=60.0):
            late: list[float] = in_child(client, _delayed_stamps, Path(name))
            supervised.stop()
    return late


def _delayed_stamps(folder: Path) -> list[float]:
    from ops.benchmarks import jobs

    stamps = evidence.open_stamps(jobs.SAMPLES, folder)
    for number in range(SAMPLES):
        delay = 0.5 + number * 0.1
        jobs.stamp.using(delay=delay).enqueue(number, time.monotonic_ns() + int(delay * 1e9))
    wait_until(lambda: all(stamps.values[:SAMPLES]), 30.0, "every delayed job has run")
    return [value / 1e6 for value in stamps.values[:SAMPLES]]


def measure_moves(
    link: TimedLink, full: QueueKeys, empty: QueueKeys, rounds: int
) -> dict[str, tuple[float, list[float]]]:
    """Enqueue, fetch and settle on both queues in turn; the ratio full : empty of each, and those of the rounds."""
    figures = {full.queue: Figures(), empty.queue: Figures()}
    for keys in (full, empty):
        link.run(transitions.join(keys, CONSUMER.split(":")[0], 3600.0))
    for number in range(-1, rounds):
        for keys in (full, empty) if number % 2 else (empty, full):
            times = _one_round(link, keys, number)
            if number >= 0:  # the first one warms up
                figures[keys.queue].extend({name: ("µs", value) for name, value in times.items()})
    return {name: figures[full.queue].ratios_to(figures[empty.queue], name) for name in ("enqueue", "fetch", "settle")}


def _one_round(link: TimedLink, keys: QueueKeys, number: int) -> dict[str, float]:
    """The server's microseconds for each job; many calls travel together."""
    jobs = filling.new_jobs(keys, f"round{number}.", 0, CALLS)
    enqueue, _ = _timed(link, [transitions.enqueue(keys, [job]) for job in jobs])
    fetch, fetched = _timed(link, [transitions.fetch(keys, CONSUMER, 10)] * (CALLS // 10))
    outcomes = [outcome for reply in fetched for outcome in _outcomes(reply)]
    assert len(outcomes) == CALLS, f"{len(outcomes)} of {CALLS} were fetched"
    batches = [transitions.settle(keys, CONSUMER, outcomes[first : first + 10]) for first in range(0, CALLS, 10)]
    settle, _ = _timed(link, batches)
    return {"enqueue": enqueue, "fetch": fetch, "settle": settle}


def _outcomes(fetched: Fetched) -> list[Outcome]:
    row = b'{"n":"noop","a":1,"w":"w","s":1700000000000,"d":0.1}'
    ids = [fields[1].decode() for _, _, fields in fetched.entries]
    return [Outcome(ref, job_id, Kind.COMPLETED, 1000, row) for ref, job_id in zip(refs_of(fetched), ids, strict=True)]


def _timed(link: TimedLink, calls: Sequence[Call[Any]]) -> tuple[float, list[Any]]:
    begin = link.spent
    replies = link.run_many(calls)
    return (link.spent - begin) * 1000 / CALLS, replies


def measure_looking(link: TimedLink, keys: QueueKeys) -> None:
    """Every list, a search that finds nothing, and the counts; pages from the begin and from far behind."""
    for state in (State.QUEUED, State.SCHEDULED, State.DEAD, State.COMPLETED):
        link.label = f"list {state}"
        page = list_jobs(link, [keys], Wanted({state}), limit=100)
        if page.cursor:
            list_jobs(link, [keys], Wanted({state}), limit=100, cursor=page.cursor)
    link.label = "search a name"
    list_jobs(link, [keys], Wanted(name="nobody"), limit=100)
    link.label = "browse far behind"
    for place in ("due", "dead"):
        link.run(browse(keys, place, "50000", 100))
    link.label = "survey"
    link.run(survey(keys))
    link.label = ""


def measure_removing(link: TimedLink, keys: QueueKeys, steps: int) -> None:
    """So many steps of a purge, of what waits and of what is due, and of deleting dead letters."""
    link.label = "delete dead"
    for first in range(0, steps * control.STEP, control.STEP):
        link.run(control.dead_delete(keys, [f"dead{number}" for number in range(first, first + control.STEP)]))
    for label, due in (("purge", False), ("purge due", True)):
        link.label = label
        for _ in range(steps):
            link.run(control.purge(keys, due=due))
    link.label = ""


@click.command()
@click.option("--delayed", default=1_000_000, show_default=True, help="Delayed jobs.")
@click.option("--dead", default=100_000, show_default=True, help="Dead letters.")
@click.option("--backlog", default=1_000_000, show_default=True, help="Jobs that wait.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--server", default="embedded", show_default=True, help="embedded, redis, or a Redis URL.")
@click.option("--json", "as_json", is_flag=True)
def main(delayed: int, dead: int, backlog: int, rounds: int, server: str, as_json: bool) -> None:
    """Fill a queue, and compare it with an empty one on the same server; promote, list, search and purge it.

    Exits 1 where enqueue, fetch or settle are slower by more than 10 %, or a job is promoted more than 200 ms late.
    """
    messages = Console(stderr=True)
    sizes = Sizes(delayed, dead, backlog)
    with server_url(server) as url, prefix_of_its_own(url) as prefix:
        facts = measure(url, prefix, sizes, rounds, messages)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        show(Console(), facts)
    sys.exit(0 if facts["holds"] else 1)


def measure(url: str, prefix: str, sizes: Sizes, rounds: int, messages: Console) -> dict[str, Any]:
    """All of it on one server; what was measured, as JSON has it."""
    link = TimedLink(as_role(url, "admin"))
    full, empty = Keys(prefix).queue("bench"), Keys(prefix).queue("empty")

    def stage(text: str) -> None:
        messages.print(text, style="dim")

    stage(f"{sizes.delayed:,} delayed jobs and {sizes.dead:,} dead letters ...")
    filling.add(link, full, "delayed", sizes.delayed, filling.DAY)
    filling.bury(link, full, sizes.dead)
    stage("promotion ...")
    late = measure_promotion(url, prefix)
    stage(f"a backlog of {sizes.backlog:,} ...")
    filling.add(link, full, "waiting", sizes.backlog)
    stage("enqueue, fetch, settle ...")
    ratios = measure_moves(link, full, empty, rounds)
    stage("list, search, purge ...")
    measure_looking(link, full)
    measure_removing(link, full, steps=min(100, 1 + sizes.dead // control.STEP))
    link.close()
    holds = max(late) <= LATEST and all(median <= MOST for median, _ in ratios.values())
    return {
        "sizes": vars(sizes),
        "ratios": {
            name: {"median": median, "least": min(values), "greatest": max(values)}
            for name, (median, values) in ratios.items()
        },
        "late_ms": {"p50": percentile(late, 0.5), "longest": max(late)},
        "longest_call_ms": link.longest,
        "holds": holds,
    }


def show(console: Console, facts: dict[str, Any]) -> None:
    """The ratios with their spread, how late promotion was, and the longest calls."""
    sizes = facts["sizes"]
    title = f"{sizes['delayed']:,} delayed, {sizes['dead']:,} dead, {sizes['backlog']:,} waiting"
    table = Table("", "full : empty", "least", "greatest", title=title, title_justify="left")
    for name, ratio in facts["ratios"].items():
        table.add_row(name, *(f"{ratio[part]:.3f}" for part in ("median", "least", "greatest")))
    console.print(table)
    late = facts["late_ms"]
    console.print(f"promoted and begun after their time: median {late['p50']:.0f} ms, longest {late['longest']:.0f} ms")
    calls = Table("longest call", "ms of the server")
    for name, spent in facts["longest_call_ms"].items():
        calls.add_row(name, f"{spent:.1f}")
    console.print(calls)
    console.print("holds" if facts["holds"] else "[red]BROKEN[/]")


if __name__ == "__main__":
    main()
