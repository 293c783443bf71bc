"""``millstream stats``: what became of jobs, in all or in the last minutes, hours or days."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from math import ceil
from typing import Any

import click

from millstream.protocol.inspect import surveys
from millstream.protocol.spread import DURATIONS, WAITS
from millstream.protocol.statistics import LONGEST, read_statistics
from millstream.supervisor.cli.job_view import queue_option
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import Column, Row, print_rows
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import duration

COUNTERS = ("completed", "retried", "dead", "cancelled", "crashed", "released", "recovered", "stale")

TOTALS_COLUMNS = (Column("queue"), *(Column(name, right=True) for name in COUNTERS), Column("total", right=True))

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

ALL = "(all)"

DAY = SECONDS["d"]

FIRST = {"duration": DURATIONS[0], "wait": WAITS[0]}
"""The upper bounds of the first buckets, in seconds."""

BARS = " ▁▂▃▄▅▆▇█"

WIDTH = 24
"""Characters of a line of bars."""


def _period(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number with its unit, as seconds: ``90s``, ``15m``, ``24h``, ``30d``."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhd])", value.strip())
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST:
        raise click.BadParameter(f"{value!r} is not a time up to 30d: give a number and s, m, h or d, as in 90m or 24h")
    return seconds


@click.command()
@click.option("--since", callback=_period, metavar="TIME", help="Only the last so much, as in 15m, 24h or 30d.")
@click.option("--job", "--name", "job", help="Only jobs of this name.")
@queue_option
@global_options
@click.pass_obj
def stats(options: Globals, since: int | None, job: str | None, queue: str | None) -> None:
    """Count what became of all jobs since each queue was first used; or of late, by queue and job.

    With --since or --job (by default of the last 24h): how many runs ended, how long they took and waited, and when.
    Quantiles are estimates. Up to 24h are counted by minutes, up to 30d by hours.
    """
    session = Session(options)
    if since is None and job is None:
        rows, columns = _totals(session, queue), TOTALS_COLUMNS
        nothing = "no queue was used yet"
    else:
        seconds = since or DAY
        found = [
            one for keys in session.queues(queue) for one in read_statistics(session.client, keys, seconds, job=job)
        ]
        rows, columns = [one.to_dict() for one in found], COLUMNS
        nothing = f"no run ended in the last {duration(seconds)}, as far as it was counted"
    print_rows(rows, columns, session.output, nothing=nothing)


def _totals(session: Session, queue: str | None) -> list[dict[str, Any]]:
    rows = [_counted(one.queue, one.counters) for one in surveys(session.client, session.queues(queue))]
    if session.output == "table" and len(rows) > 1:
        total: Counter[str] = Counter()
        for row in rows:
            total.update({name: count for name, count in row.items() if isinstance(count, int)})
        rows.append({"queue": "all", **total})
    return rows


def _counted(queue: str, counters: dict[str, int]) -> dict[str, Any]:
    row = {name: counters.get(name, 0) for name in COUNTERS} | counters
    ended = ("completed", "dead", "cancelled", "discarded", "expired")
    return {"queue": queue, **row, "total": sum(counters.get(name, 0) for name in ended)}


def _mean(row: Row) -> str:
    return duration(row["duration"]["mean"])


def quantile(row: Row, of: str, name: str) -> str:
    """A quantile of a row's durations or waits; in the first bucket only its upper bound is known."""
    seconds, first = row[of][name], FIRST[of]
    return f"< {duration(first)}" if seconds is not None and seconds < first else duration(seconds)


def bars(row: Row) -> str:
    """How many runs ended over the time of a row, from left to right, the most of them as the highest bar."""
    since, until = (datetime.fromisoformat(row[name]).timestamp() for name in ("since", "until"))
    heights = [0] * WIDTH
    for point in row["points"]:
        share = (datetime.fromisoformat(point["at"]).timestamp() - since) / max(row["step"], until - since)
        heights[min(WIDTH - 1, int(share * WIDTH))] += point["processed"]
    most = max(heights) or 1
    return "".join(BARS[ceil(height * (len(BARS) - 1) / most)] for height in heights)


COLUMNS = (
    Column("queue"),
    Column("job", lambda row: row["job"] or ALL),
    *(Column(name, right=True) for name in ("processed", "succeeded", "failed", "retried", "dead")),
    Column("mean", _mean, right=True),
    Column("p50", lambda row: quantile(row, "duration", "p50"), right=True),
    Column("p95", lambda row: quantile(row, "duration", "p95"), right=True),
    Column("wait p95", lambda row: quantile(row, "wait", "p95"), right=True),
    Column("ended", bars),
)
