"""``millstream jobs``: list and show jobs; the other commands have files of their own."""

from __future__ import annotations

import click

from millstream.protocol.info import State
from millstream.protocol.listing import FINISHED, Wanted, list_jobs
from millstream.supervisor.cli.job_actions import cancel, delete, retry
from millstream.supervisor.cli.job_names import pause, resume
from millstream.supervisor.cli.job_search import search
from millstream.supervisor.cli.job_view import (
    JOB_COLUMNS,
    args_option,
    fields_of,
    list_options,
    print_page,
    queue_option,
    row_of,
)
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import print_fields
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.watching import watch

STATES = click.Choice([*(state.value for state in State), FINISHED])


@click.group()
def jobs() -> None:
    """List, show, watch, find, cancel, retry and delete jobs; pause and resume a name."""


for command in (search, watch, cancel, retry, delete, pause, resume):
    jobs.add_command(command)


@jobs.command("list")
@click.option("--state", "states", type=STATES, multiple=True, help="Only this state (repeatable); or finished.")
@list_options
@global_options
@click.pass_obj
def list_(
    options: Globals,
    states: tuple[str, ...],
    queue: str | None,
    name: str | None,
    limit: int,
    cursor: str | None,
    with_args: bool,
) -> None:
    """List jobs: running ones first, then waiting, due, dead and the last that ended.

    --state finished lists what ended, however, newest first: with --name the last 100 of that name, else the last
    1,000 of each queue.
    """
    session = Session(options)
    if FINISHED in states and len(states) > 1:
        raise click.UsageError("--state finished stands for every state of a job that ended: pass no other with it")
    finished = FINISHED in states
    wanted = Wanted([State(state) for state in states if not finished] or None, name, finished)
    page = list_jobs(session.client, session.queues(queue), wanted, limit=limit, cursor=cursor)
    print_page(page, JOB_COLUMNS, session.output, with_args=with_args, nothing="no such jobs")


@jobs.command()
@click.argument("job_id", metavar="ID")
@queue_option
@args_option
@click.option("--logs", "with_logs", is_flag=True, help="Show the lines that its handler logged too.")
@global_options
@click.pass_obj
def show(options: Globals, job_id: str, queue: str | None, with_args: bool, with_logs: bool) -> None:
    """Show all that is known of one job."""
    session = Session(options)
    _, info = session.find_job(job_id, queue)
    print_fields(row_of(info, with_args, with_logs), session.output, shown=fields_of(info, with_args, with_logs))
