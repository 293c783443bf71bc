"""``millstream dead``: the dead letters; list, show, retry, delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click
import orjson

from millstream.protocol import control, transitions
from millstream.protocol.errors import JobNotFound
from millstream.protocol.info import JobInfo, State
from millstream.protocol.keys import QueueKeys
from millstream.protocol.listing import Wanted, list_jobs
from millstream.supervisor.cli.job_view import (
    DEAD_COLUMNS,
    args_option,
    fields_of,
    list_options,
    print_page,
    queue_option,
    row_of,
)
from millstream.supervisor.cli.options import Globals, confirmed, destructive, global_options
from millstream.supervisor.cli.output import print_done, print_fields
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural

Chosen = dict[QueueKeys, list[str]]


@click.group()
def dead() -> None:
    """List, show, retry and delete dead jobs."""


@dead.command("list")
@list_options
@global_options
@click.pass_obj
def list_(
    options: Globals, queue: str | None, name: str | None, limit: int, cursor: str | None, with_args: bool
) -> None:
    """List dead jobs, newest first in each queue, with what killed them."""
    session = Session(options)
    wanted = Wanted({State.DEAD}, name)
    page = list_jobs(session.client, session.queues(queue), wanted, limit=limit, cursor=cursor)
    print_page(page, DEAD_COLUMNS, session.output, with_args=with_args, nothing="no dead jobs")


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
        raw = _raw_fields(session, keys, job_id)
        if raw:  # not of one that was refused for its signature: its envelope is kept as it is
            row["raw"] = raw
            shown = {**shown, "raw": " ".join(map(str, raw))}
    print_fields(row, session.output, shown=shown)


def _raw_fields(session: Session, keys: QueueKeys, job_id: str) -> list[object]:
    """What stood in the stream where a job should have been: names and values in turn."""
    record = session.client.run(transitions.inspect(keys, job_id)).record
    raw = orjson.loads(record.get("out", b"{}")).get("raw", [])
    return list(raw)


@dataclass(frozen=True)
class Selection:
    """Which dead jobs a command is about, and how sure the user is of it."""

    job_ids: tuple[str, ...]
    everything: bool
    queue: str | None
    name: str | None
    yes: bool
    dry_run: bool


def _selecting(command: Callable[[Session, Selection], int]) -> Callable[..., int]:
    """Give a command ids, or ``--all`` with filters; it is called with a :class:`Selection`."""

    @wraps(command)
    def selecting(options: Globals, **chosen: Any) -> int:
        return command(Session(options), Selection(**chosen))

    decorated: Callable[..., int] = click.pass_obj(selecting)
    for option in (
        global_options,
        destructive,
        click.option("--name", help="With --all: only jobs of this name."),
        queue_option,
        click.option("--all", "everything", is_flag=True, help="All dead jobs (of --queue, of --name)."),
        click.argument("job_ids", metavar="[ID...]", nargs=-1),
    ):
        decorated = option(decorated)
    return decorated


@dead.command()
@_selecting
def retry(session: Session, selection: Selection) -> int:
    """Enqueue dead jobs again, with fresh attempts. Exit code 1 if one of them could not be."""
    chosen = _chosen(session, selection)
    if not _agreed(session, selection, "retry", chosen, ask=selection.everything):
        return 0 if selection.dry_run else 1
    done: dict[str, control.Retried | control.Held] = {}
    for keys, ids in chosen.items():
        done |= control.retry_dead(session.client, keys, ids)
    failed = {job_id: str(code) for job_id, code in done.items() if code is not control.Retried.QUEUED}
    for job_id, code in failed.items():
        click.echo(f"job {job_id} was not retried: it is {code}", err=True)
    retried = len(done) - len(failed)
    print_done({"retried": retried, "failed": failed}, f"retried {plural(retried, 'job')}", session.output)
    return 1 if failed else 0


@dead.command()
@_selecting
def delete(session: Session, selection: Selection) -> int:
    """Delete dead jobs and their records for good."""
    chosen = _chosen(session, selection)
    if not _agreed(session, selection, "delete", chosen, ask=True):
        return 0 if selection.dry_run else 1
    deleted = sum(control.delete_dead(session.client, keys, ids) for keys, ids in chosen.items())
    print_done({"deleted": deleted}, f"deleted {plural(deleted, 'job')}", session.output)
    return 0


def _agreed(session: Session, selection: Selection, verb: str, chosen: Chosen, *, ask: bool) -> bool:
    """Whether to go on: not where only a count is wanted (it is printed), nor where the user says no."""
    count = sum(map(len, chosen.values()))
    if selection.dry_run:
        print_done({f"would_{verb}": count}, f"would {verb} {plural(count, 'job')}", session.output)
        return False
    if not ask or not count or confirmed(f"{verb.capitalize()} {plural(count, 'dead job')}?", yes=selection.yes):
        return True
    click.echo("nothing was done", err=True)
    return False


def _chosen(session: Session, selection: Selection) -> Chosen:
    """The dead jobs that are meant, by queue. Raises :class:`JobNotFound` for one that is not dead."""
    if selection.everything == bool(selection.job_ids):
        raise click.UsageError("name the jobs by their ids, or pass --all")
    if selection.name and not selection.everything:
        raise click.UsageError("--name goes with --all")
    chosen: Chosen = {}
    if selection.everything:
        for keys, info in _all_dead(session, selection.queue, selection.name):
            chosen.setdefault(keys, []).append(info.id)
    for job_id in selection.job_ids:
        keys, info = _dead_job(session, job_id, selection.queue)
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
