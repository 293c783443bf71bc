"""``millstream dead``: the dead letters; list, groups, show, retry, delete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import orjson

from millstream.protocol import control, transitions
from millstream.protocol.dead import group_dead, walk
from millstream.protocol.info import JobInfo, State, job_info
from millstream.protocol.keys import QueueKeys
from millstream.protocol.listing import MAX_LOOKED_AT, Page, infos_of
from millstream.supervisor.cli.dead_selection import (
    Selection,
    agreed,
    choose,
    dead_job,
    selecting,
    which_of,
    which_options,
)
from millstream.supervisor.cli.export import exporting
from millstream.supervisor.cli.job_view import (
    DEAD_COLUMNS,
    args_option,
    fields_of,
    print_page,
    queue_option,
    row_of,
)
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import Column, print_done, print_fields, print_rows
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural, shortened

SHOWN_FAILURES = 1000
"""Jobs that could not be retried of which a command says why, at most."""


@click.group()
def dead() -> None:
    """List, group, show, retry and delete dead jobs."""


@dead.command("list")
@queue_option
@which_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where an earlier list ended.")
@args_option
@global_options
@click.pass_obj
def list_(
    options: Globals, /, queue: str | None, limit: int, cursor: str | None, with_args: bool, **filters: Any
) -> None:
    """List dead jobs, newest first in each queue, with what killed them."""
    session = Session(options)
    queues, which = session.queues(queue), which_of(filters)
    jobs: list[JobInfo] = []
    looked_at, at = 0, cursor
    for found in walk(session.client, queues, which, cursor=cursor):
        wanted = found.jobs[: limit - len(jobs)]
        infos = infos_of(session.client, found.keys, [one.id for one in wanted])
        jobs += [info for info in infos if info.state is State.DEAD]
        if len(wanted) < len(found.jobs) or len(jobs) == limit:
            last = wanted[-1]
            at = f"{found.keys.queue}/{last.died_at}/{last.id}"
            if last == found.page.jobs[-1] and not found.page.position:
                at = _next_queue(queues, found.keys)
            break
        at = f"{found.keys.queue}/{found.page.position}" if found.page.position else _next_queue(queues, found.keys)
        looked_at += len(found.page.jobs)
        if looked_at >= MAX_LOOKED_AT:
            break
    print_page(Page(jobs, at), DEAD_COLUMNS, session.output, with_args=with_args, nothing="no dead jobs")


def _next_queue(queues: Sequence[QueueKeys], keys: QueueKeys) -> str | None:
    """The cursor at the beginning of the queue behind this one."""
    after = queues.index(keys) + 1
    return f"{queues[after].queue}/" if after < len(queues) else None


GROUP_COLUMNS = (
    Column("group"),
    Column("job"),
    Column("count", right=True),
    Column("first seen", lambda row: row["first_seen"]),
    Column("last seen", lambda row: row["last_seen"]),
    Column("causes", lambda row: ", ".join(row["causes"])),
    Column("error", lambda row: shortened(": ".join(filter(None, (row["type"], row["message"]))), 60)),
)


@dead.command()
@queue_option
@which_options
@click.option("--scan", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="Look at so many.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many groups at most.")
@global_options
@click.pass_obj
def groups(options: Globals, /, queue: str | None, scan: int, limit: int, **filters: Any) -> None:
    """Count dead jobs that are alike: the same job, the same error, but for numbers and quoted texts in it.

    The newest ones of each queue are looked at, as many as --scan says. The key of a group is for --group.
    """
    session = Session(options)
    found = group_dead(session.client, session.queues(queue), which_of(filters), scan=scan)
    rows = (group.to_dict() for group in found.groups[:limit])
    print_rows(rows, GROUP_COLUMNS, session.output, nothing="no dead jobs")
    if len(found.groups) > limit:
        click.echo(f"these are the {limit} largest of {plural(len(found.groups), 'group')}: see --limit", err=True)
    if found.looked_at < found.total:
        shown = f"{found.looked_at:,} of {found.total:,}"
        click.echo(f"only the newest {shown} dead jobs were looked at: see --scan", err=True)


@dead.command()
@click.argument("job_id", metavar="ID")
@queue_option
@args_option
@global_options
@click.pass_obj
def show(options: Globals, job_id: str, queue: str | None, with_args: bool) -> None:
    """Show one dead job with its error and all its runs."""
    session = Session(options)
    keys, info = dead_job(session, job_id, queue)
    row, shown = row_of(info, with_args), fields_of(info, with_args)
    if with_args and info.error and info.error.cause == "malformed":
        raw = _raw_fields(session.client.run(transitions.inspect(keys, job_id)))
        if raw:  # not of one that was refused for its signature: its envelope is kept as it is
            row["raw"] = raw
            shown = {**shown, "raw": " ".join(map(str, raw))}
    print_fields(row, session.output, shown=shown)


def _raw_fields(facts: transitions.Inspected) -> list[object]:
    """What stood in the stream where a job should have been: names and values in turn."""
    raw = orjson.loads(facts.record.get("out", b"{}")).get("raw", [])
    return list(raw)


@dead.command()
@selecting
def retry(session: Session, selection: Selection) -> int:
    """Enqueue dead jobs again, with fresh counters. Exit code 1 if one of them could not be."""
    chosen = choose(session, selection)
    if not agreed(session, selection, "retry", chosen.count, ask=not selection.job_ids):
        return 0 if selection.dry_run else 1
    retried, failures, failed = 0, 0, dict[str, str]()
    for keys, ids in chosen.steps():
        done = control.retry_dead(session.client, keys, ids)
        wrong = {job_id: str(code) for job_id, code in done.items() if code is not control.Retried.QUEUED}
        retried, failures = retried + len(done) - len(wrong), failures + len(wrong)
        failed |= dict(list(wrong.items())[: SHOWN_FAILURES - len(failed)])
    for job_id, code in failed.items():
        click.echo(f"job {job_id} was not retried: it is {code}", err=True)
    if failures > len(failed):
        click.echo(f"and {plural(failures - len(failed), 'other job')} not", err=True)
    print_done({"retried": retried, "failed": failed}, f"retried {plural(retried, 'job')}", session.output)
    return 1 if failures else 0


@dead.command()
@selecting
@click.option("--export", metavar="FILE", help="First write them to a new file: NDJSON, with arguments.")
def delete(session: Session, selection: Selection, export: str | None) -> int:
    """Delete dead jobs and their records for good."""
    chosen = choose(session, selection)
    if not agreed(session, selection, "delete", chosen.count, ask=True):
        return 0 if selection.dry_run else 1
    deleted = 0
    with exporting(export) as file:
        for keys, ids in chosen.steps():
            if file:
                file.write(_rows_of(session, keys, ids))
            deleted += control.delete_dead(session.client, keys, ids)
    print_done({"deleted": deleted}, f"deleted {plural(deleted, 'job')}", session.output)
    return 0


def _rows_of(session: Session, keys: QueueKeys, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All that is known of dead jobs, their arguments too."""
    facts = session.client.run_many([transitions.inspect(keys, job_id) for job_id in ids])
    for job_id, fact in zip(ids, facts, strict=True):
        if fact.record:
            row = row_of(job_info(keys.queue, job_id, fact), with_args=True)
            yield {**row, "raw": raw} if (raw := _raw_fields(fact)) else row
