"""``millstream dead``: the dead letters; list, show, retry, delete."""

from __future__ import annotations

import click
import orjson

from millstream.protocol import control, transitions
from millstream.protocol.errors import JobNotFound
from millstream.protocol.info import JobInfo, State
from millstream.protocol.keys import QueueKeys
from millstream.protocol.listing import Wanted, list_jobs
from millstream.supervisor.cli.job_view import DEAD_COLUMNS, fields_of, row_of
from millstream.supervisor.cli.jobs import args_option, queue_option
from millstream.supervisor.cli.options import Globals, confirmed, destructive, global_options
from millstream.supervisor.cli.output import print_done, print_fields, print_rows
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural

Chosen = dict[QueueKeys, list[str]]


@click.group()
def dead() -> None:
    """List, show, retry and delete dead jobs."""


@dead.command("list")
@queue_option
@click.option("--name", help="Only jobs of this name.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where an earlier list ended.")
@args_option
@global_options
@click.pass_obj
def list_(
    options: Globals, queue: str | None, name: str | None, limit: int, cursor: str | None, with_args: bool
) -> None:
    """List dead jobs, newest first in each queue, with what killed them."""
    session = Session(options)
    wanted = Wanted({State.DEAD}, name)
    page = list_jobs(session.client, session.queues(queue), wanted, limit=limit, cursor=cursor)
    print_rows((row_of(info, with_args) for info in page.jobs), DEAD_COLUMNS, session.output, nothing="no dead jobs")
    if page.cursor:
        click.echo(f"there may be more: --cursor {page.cursor}", err=True)


@dead.command()
@click.argument("job_id", metavar="ID")
@queue_option
@args_option
@global_options
@click.pass_obj
def show(options: Globals, job_id: str, queue: str | None, with_args: bool) -> None:
    """Show one dead job with its error."""
    session = Session(options)
    keys, info = _dead_job(session, job_id, queue)
    row, shown = row_of(info, with_args), fields_of(info, with_args)
    if with_args and info.error and info.error.cause == "malformed":
        row["raw"] = _raw_fields(session, keys, job_id)
        shown = {**shown, "raw": " ".join(map(str, row["raw"]))}
    print_fields(row, session.output, shown=shown)


def _raw_fields(session: Session, keys: QueueKeys, job_id: str) -> list[object]:
    """What stood in the stream where a job should have been: names and values in turn."""
    record = session.client.run(transitions.inspect(keys, job_id)).record
    raw = orjson.loads(record.get("out", b"{}")).get("raw", [])
    return list(raw)


def _selection(command: click.decorators.FC) -> click.decorators.FC:
    """Ids, or ``--all`` with filters."""
    for option in (
        click.option("--name", help="With --all: only jobs of this name."),
        queue_option,
        click.option("--all", "everything", is_flag=True, help="All dead jobs (of --queue, of --name)."),
        click.argument("job_ids", metavar="[ID...]", nargs=-1),
    ):
        command = option(command)
    return command


@dead.command()
@_selection
@destructive
@global_options
@click.pass_obj
def retry(
    options: Globals,
    job_ids: tuple[str, ...],
    everything: bool,
    queue: str | None,
    name: str | None,
    yes: bool,
    dry_run: bool,
) -> int:
    """Enqueue dead jobs again, with fresh attempts. Exit code 1 if one of them could not be."""
    session = Session(options)
    chosen = _chosen(session, job_ids, everything, queue, name)
    count = sum(map(len, chosen.values()))
    if dry_run:
        print_done({"would_retry": count}, f"would retry {plural(count, 'job')}", session.output)
        return 0
    if everything and count and not confirmed(f"Retry {plural(count, 'dead job')}?", yes=yes):
        return _nothing_done()
    done: dict[str, control.Retried] = {}
    for keys, ids in chosen.items():
        done |= control.retry_dead(session.client, keys, ids)
    failed = {job_id: code for job_id, code in done.items() if code is not control.Retried.QUEUED}
    for job_id, code in failed.items():
        click.echo(f"job {job_id} was not retried: it is {code}", err=True)
    retried = len(done) - len(failed)
    print_done({"retried": retried, "failed": failed}, f"retried {plural(retried, 'job')}", session.output)
    return 1 if failed else 0


@dead.command()
@_selection
@destructive
@global_options
@click.pass_obj
def delete(
    options: Globals,
    job_ids: tuple[str, ...],
    everything: bool,
    queue: str | None,
    name: str | None,
    yes: bool,
    dry_run: bool,
) -> int:
    """Delete dead jobs and their records for good."""
    session = Session(options)
    chosen = _chosen(session, job_ids, everything, queue, name)
    count = sum(map(len, chosen.values()))
    if dry_run:
        print_done({"would_delete": count}, f"would delete {plural(count, 'job')}", session.output)
        return 0
    if count and not confirmed(f"Delete {plural(count, 'dead job')}?", yes=yes):
        return _nothing_done()
    deleted = sum(control.delete_dead(session.client, keys, ids) for keys, ids in chosen.items())
    print_done({"deleted": deleted}, f"deleted {plural(deleted, 'job')}", session.output)
    return 0


def _nothing_done() -> int:
    click.echo("nothing was done", err=True)
    return 1


def _chosen(
    session: Session, job_ids: tuple[str, ...], everything: bool, queue: str | None, name: str | None
) -> Chosen:
    """The dead jobs that the arguments name, by queue. Raises :class:`JobNotFound` for one that is not dead."""
    if everything == bool(job_ids):
        raise click.UsageError("name the jobs by their ids, or pass --all")
    if name and not everything:
        raise click.UsageError("--name goes with --all")
    chosen: Chosen = {}
    if everything:
        for info_keys, info in _all_dead(session, queue, name):
            chosen.setdefault(info_keys, []).append(info.id)
    for job_id in job_ids:
        keys, info = _dead_job(session, job_id, queue)
        chosen.setdefault(keys, []).append(info.id)
    return chosen


def _all_dead(session: Session, queue: str | None, name: str | None) -> list[tuple[QueueKeys, JobInfo]]:
    found: list[tuple[QueueKeys, JobInfo]] = []
    for keys in session.queues(queue):
        cursor: str | None = None
        while True:
            page = list_jobs(session.client, [keys], Wanted({State.DEAD}, name), limit=1000, cursor=cursor)
            found += ((keys, info) for info in page.jobs)
            cursor = page.cursor
            if cursor is None:
                break
    return found


def _dead_job(session: Session, job_id: str, queue: str | None) -> tuple[QueueKeys, JobInfo]:
    keys, info = session.find_job(job_id, queue)
    if info.state is not State.DEAD:
        raise JobNotFound(f"job {job_id} is not dead but {info.state}; see `millstream jobs show {job_id}`")
    return keys, info
