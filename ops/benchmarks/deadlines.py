"""The command `ops/deadlines`: how long after their hard deadlines jobs are dead that nothing else ends."""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from millstream.protocol.scoreboard import Record, Scoreboard, Word
from ops.benchmarks.bench import remove_keys, server_url
from ops.benchmarks.evidence import Failed
from ops.benchmarks.figures import percentile
from ops.benchmarks.hanging import CHILDREN, MIX, SPREAD
from ops.benchmarks.ours import in_child
from tests.support import processes
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

PREFIX = "deadlines:"
LIMIT = 250.0  # ms, for each of them
APP = "from ops.benchmarks.hanging import app\n"
TOML = """
[workers.hanging]
queues = ["hanging"]
processes = {workers}
kill_after = 1

[supervisor]
restart_intensity = 10000
drain_timeout = 2
"""


@dataclass(frozen=True)
class Death:
    """One killed worker; times in monotonic nanoseconds."""

    kind: str
    deadline: int
    died: int
    stack: bool

    @property
    def late(self) -> float:
        """Milliseconds from the deadline to the death."""
        return (self.died - self.deadline) / 1e6


def enqueue(workers: int, spread: bool) -> list[str]:
    """A job for each worker; their ids."""
    from ops.benchmarks.hanging import JOBS, app

    steps = [number // len(MIX) % SPREAD if spread else 0 for number in range(workers)]
    drafts = [JOBS[step][MIX[number % len(MIX)]].job() for number, step in enumerate(steps)]
    return [handle.id for handle in app.enqueue_many(drafts)]


def stacks(ids: list[str]) -> dict[str, bool]:
    """For each job that has ended: whether its error shows where it hung."""
    from ops.benchmarks.hanging import app

    infos = [info for job_id in ids if (info := app.handle(job_id, "hanging").info()).error is not None]
    return {info.id: f"in {info.job.rpartition('-')[0]}" in info.error.stack for info in infos if info.error}


def open_board(supervisor: int) -> Scoreboard:
    """The scoreboard of a running supervisor."""
    for link in Path(f"/proc/{supervisor}/fd").iterdir():
        if "millstream-scoreboard" in str(link.readlink()):
            descriptor = os.open(link, os.O_RDWR)
            return Scoreboard(descriptor, os.fstat(descriptor).st_size // 65536 - 1)
    raise Failed("the supervisor has no scoreboard")


def watch(board: Scoreboard, ids: set[str]) -> dict[str, tuple[str, int, int]]:
    """Wait until all these jobs run, then until their workers are dead: job -> its name, deadline and death."""
    running: dict[str, tuple[Record, int, str, int]] = {}
    poll, by_descriptor, died = select.poll(), {}, {}

    def all_run() -> bool:
        for record in board.records:
            if record.running and (job := record.job_id) in ids and job not in running:
                pid = record.words[Word.PID]
                running[job] = (record, pid, record.job_name, record.words[Word.HARD])
                by_descriptor[descriptor := os.pidfd_open(pid)] = job
                poll.register(descriptor, select.POLLIN)
        return len(running) == len(ids)

    wait_until(all_run, 30.0, lambda: f"{len(ids)} running jobs; there are {len(running)}", 0.02)
    end = time.monotonic() + 30
    while by_descriptor and time.monotonic() < end:
        ready, now = poll.poll(1000), time.monotonic_ns()
        for descriptor, _ in ready:
            died[by_descriptor.pop(descriptor)] = now
            poll.unregister(descriptor)
            os.close(descriptor)
    if by_descriptor:
        raise Failed(f"{len(by_descriptor)} workers were not killed")
    return {job: (running[job][2], running[job][3], died[job]) for job in running}


def one_round(url: str, workers: int, spread: bool) -> list[Death]:
    """Start so many workers, let all hang, and see when they die."""
    with tempfile.TemporaryDirectory(prefix="ms-deadlines-") as name:
        children = Path(name) / "children"
        children.touch()
        env, client = {CHILDREN: str(children)}, {"MILLSTREAM_REDIS_URL": url, "MILLSTREAM_PREFIX": PREFIX}
        toml = TOML.format(workers=workers)
        with Supervised(Path(name) / "up", APP, toml, redis_url=url, prefix=PREFIX, env=env) as supervised:
            board = open_board(supervised.pid)
            wait_until(lambda: _idle(board) == workers, 60.0, lambda: f"{workers} idle workers: {_idle(board)}")
            ids = in_child(client, enqueue, workers, spread)
            seen = watch(board, set(ids))
            processes.assert_gone([int(line) for line in children.read_text().split()])
            wait_until(lambda: len(in_child(client, stacks, ids)) == workers, 20.0, "all jobs are settled", 0.5)
            shown = in_child(client, stacks, ids)
            supervised.stop()
    return [Death(kind.rpartition("-")[0], hard, died, shown[job]) for job, (kind, hard, died) in seen.items()]


def _idle(board: Scoreboard) -> int:
    return sum(record.words[Word.IDLE] for record in board.records)


def show(rounds: dict[str, list[Death]]) -> None:
    """A line for each round and kind."""
    table = Table(title="ms from the hard deadline to the death", title_justify="left")
    for heading in ("round", "jobs", "within", "p50", "p99", "longest", "stack"):
        table.add_column(heading, justify="left" if heading == "round" else "right")
    for title, deaths in rounds.items():
        for kind in ("", *sorted({death.kind for death in deaths})):
            some = [death for death in deaths if kind in ("", death.kind)]
            table.add_row(f"  {kind}" if kind else title, *_row(some))
    Console().print(table)


def _row(deaths: list[Death]) -> list[str]:
    late, hard = [death.late for death in deaths], [death.deadline for death in deaths]
    times = (percentile(late, 0.5), percentile(late, 0.99), max(late))
    within = (max(hard) - min(hard)) / 1e9
    return [str(len(deaths)), f"{within:.2f} s", *(f"{ms:.0f}" for ms in times), str(sum(one.stack for one in deaths))]


@click.command()
@click.option("--workers", default=64, show_default=True)
@click.option("--server", default="embedded", show_default=True, help="embedded, redis, or a Redis URL.")
@click.option("--json", "as_json", is_flag=True)
def main(workers: int, server: str, as_json: bool) -> None:
    """Let every worker hang beyond its limits, half of them in C code that holds the GIL.

    In the first round the deadlines are spread over a second, in the second they are as near to each other as the
    workers start. Exits 1 where one is dead more than 250 ms after its hard deadline, or before it, or where a
    subprocess lives on.
    """
    processes.adopt_orphans()
    rounds: dict[str, list[Death]] = {}
    with server_url(server) as url:
        for title, spread in (("spread", True), ("together", False)):
            try:
                rounds[title] = one_round(url, workers, spread)
            finally:
                remove_keys(url, PREFIX)
    if as_json:
        figures = {title: sorted(death.late for death in deaths) for title, deaths in rounds.items()}
        missing = sum(not death.stack for deaths in rounds.values() for death in deaths)
        click.echo(json.dumps({"workers": workers, "ms": figures, "without_stack": missing}))
    else:
        show(rounds)
    sys.exit(0 if all(0 <= death.late <= LIMIT for deaths in rounds.values() for death in deaths) else 1)


if __name__ == "__main__":
    main()
