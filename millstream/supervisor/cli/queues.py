"""``millstream queues``: how full the queues are; pause, resume, limit, purge."""

from __future__ import annotations

import click

from millstream.protocol import control, limits
from millstream.protocol.export import purge_into
from millstream.protocol.inspect import survey, surveys
from millstream.protocol.statistics import Resolution, read_statistics
from millstream.supervisor.cli.exporting import new_file
from millstream.supervisor.cli.options import Globals, confirmed, destructive, global_options
from millstream.supervisor.cli.output import Column, Row, print_done, print_fields, print_rows
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.statistics import quantile
from millstream.supervisor.cli.wording import duration, plural


@click.group()
def queues() -> None:
    """List, show, pause, resume, limit and purge queues."""


def _state(row: Row) -> str:
    if row["resuming"]:
        return "resuming"
    return "paused" if row["paused"] else "open"


COLUMNS = (
    Column("queue"),
    Column("state", _state),
    Column("waiting", right=True),
    Column("running", right=True),
    Column("due", right=True),
    Column("dead", right=True),
    Column("oldest", lambda row: duration(row["oldest"]), right=True),
)


@queues.command("list")
@global_options
@click.pass_obj
def list_queues(options: Globals) -> None:
    """List all queues: jobs that wait, run, are due later or are dead, and the age of the oldest that waits."""
    session = Session(options)
    found = surveys(session.client, session.queues())
    print_rows((one.to_dict() for one in found), COLUMNS, session.output, nothing="no queue was used yet")


@queues.command()
@click.argument("queue")
@global_options
@click.pass_obj
def show(options: Globals, queue: str) -> None:
    """Show one queue with its streams and counters, and what ended in the last hours."""
    session = Session(options)
    keys = session.queue(queue)
    day = read_statistics(session.client, keys, 86400, resolution=Resolution.HOURS)
    found = session.client.run(survey(keys))
    row = {**found.to_dict(), "statistics": [one.to_dict() for one in day]}
    counters = row["counters"]
    shown = {
        "queue": row["queue"],
        "state": _state(row),
        "limit": None if found.limit == limits.NO_LIMIT else str(found.limit),
        "paused jobs": ", ".join(found.paused_jobs) or None,
        "waiting": row["waiting"],
        **{f"  {name}": count for name, count in row["streams"].items() if count},
        "  held": row["held"] or None,
        "  waiting for the limit": row["gated"] or None,
        "  waiting for a key or a paused name": (row["parked"] - row["gated"]) or None,
        "running": row["running"],
        "due": row["due"],
        "next due in": duration(row["next_due"]) if row["next_due"] is not None else None,
        "dead": row["dead"],
        "oldest waits": duration(row["oldest"]) if row["oldest"] is not None else None,
        **{f"{name} so far": f"{count:,}" for name, count in sorted(counters.items())},
        **({"last 24 hours": _of_late(row["statistics"][0])} if day else {}),
    }
    print_fields(row, session.output, shown=shown)


def _of_late(row: Row) -> str:
    """One line of what was counted of all jobs of a queue."""
    took, waited = quantile(row, "duration", "p95"), quantile(row, "wait", "p95")
    return f"{plural(row['processed'], 'run')}, {row['failed']:,} failed; 95 % took {took}, after a wait of {waited}"


@queues.command()
@click.argument("queue")
@global_options
@click.pass_obj
def pause(options: Globals, queue: str) -> None:
    """Pause a queue: its jobs wait, running ones finish, new ones are accepted and held."""
    session = Session(options)
    keys = session.queue(queue)
    changed = session.client.run(control.pause(keys))
    waiting = session.client.run(survey(keys)).waiting
    message = f"queue {queue} {'is paused' if changed else 'was paused already'}; {plural(waiting, 'job')} waiting"
    print_done({"queue": queue, "paused": True, "changed": changed, "waiting": waiting}, message, session.output)


@queues.command()
@click.argument("queue")
@global_options
@click.pass_obj
def resume(options: Globals, queue: str) -> None:
    """Resume a paused queue; what was held is served first, in order."""
    session = Session(options)
    done = control.resume_all(session.client, session.queue(queue))
    changed = done.state is control.Resuming.DONE
    was_held = plural(done.moved, "held job")
    message = f"queue {queue} is open again, {was_held} moved" if changed else f"queue {queue} was not paused"
    print_done({"queue": queue, "paused": False, "changed": changed, "moved": done.moved}, message, session.output)


@queues.command()
@click.argument("queue")
@click.option(
    "--concurrency", type=click.IntRange(0, limits.MOST), help="Jobs that run at once, on all hosts; 0: any number."
)
@click.option("--rate", metavar="N/TIME", help="Jobs that start per s, m, h or d, as in 10/s; 0: any number.")
@click.option("--burst", type=click.IntRange(1, limits.MOST), help="Jobs that may start at once after a quiet time.")
@click.option("--none", "nothing", is_flag=True, help="No limit at all.")
@global_options
@click.pass_obj
def limit(
    options: Globals, queue: str, concurrency: int | None, rate: str | None, burst: int | None, nothing: bool
) -> None:
    """Limit how many jobs of a queue run at once, and how many start in a time; without an option: show it.

    What is not named stays as it is.
    """
    session = Session(options)
    asked = not (concurrency is None and rate is None and burst is None)
    if nothing and asked:
        raise click.UsageError("--none is for all limits: it goes with no other option")
    keys = session.queue(queue)
    before = session.client.run(survey(keys)).limit
    after = limits.NO_LIMIT if nothing else limits.changed(before, concurrency, rate, burst) if asked else before
    changed = after != before and session.client.run(limits.set_limit(keys, after))
    word = "is now" if changed else "was already" if asked or nothing else "is"
    row = {"queue": queue, **after.to_dict(), "changed": changed}
    print_done(row, f"the limit of queue {queue} {word}: {after}", session.output)


@queues.command()
@click.argument("queue")
@click.option("--due", is_flag=True, help="Remove scheduled and retrying jobs too.")
@click.option(
    "--export", metavar="FILE", type=click.Path(), help="Write what is removed into a new file, a job per line."
)
@destructive
@global_options
@click.pass_obj
def purge(options: Globals, queue: str, due: bool, export: str | None, yes: bool, dry_run: bool) -> int:
    """Remove the waiting jobs of a queue and their records; running ones are not touched."""
    session = Session(options)
    keys = session.queue(queue)
    counted = session.client.run(survey(keys))
    count = counted.waiting + (counted.due if due else 0)
    what = f"{plural(count, 'job')} of queue {queue}"
    if dry_run:
        print_done({"queue": queue, "would_remove": count}, f"would remove {what}", session.output)
        return 0
    if count and not confirmed(f"Remove {what}?", yes=yes):
        click.echo("nothing was removed", err=True)
        return 1
    if export is not None:
        with new_file(export) as file:
            removed = purge_into(file, session.client, keys, due=due)
    else:
        removed = control.purge_all(session.client, keys, due=due) if count else 0
    print_done({"queue": queue, "removed": removed}, f"removed {plural(removed, 'job')}", session.output)
    return 0
