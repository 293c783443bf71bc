"""``millstream jobs``: list, show, watch and cancel jobs; pause and resume a name."""

from __future__ import annotations

import click

from millstream.protocol import transitions
from millstream.protocol.errors import JobNotFound
from millstream.protocol.info import State
from millstream.protocol.listing import FINISHED, Wanted, list_jobs
from millstream.supervisor.cli.job_names import pause, resume
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
from millstream.supervisor.cli.output import print_done, print_fields
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.watching import watch

STATES = click.Choice([*(state.value for state in State), FINISHED])


@click.group()
def jobs() -> None:
    """List, show, watch and cancel jobs; pause and resume a name."""


jobs.add_command(pause)
jobs.add_command(resume)
jobs.add_command(watch)


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


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@queue_option
@global_options
@click.pass_obj
def cancel(options: Globals, job_ids: tuple[str, ...], queue: str | None) -> int:
    """Cancel jobs: waiting ones never start, running ones are asked to stop.

    The exit code is 1 if one of them had ended before, or is unknown.
    """
    session = Session(options)
    outcomes = [_cancel(session, job_id, queue) for job_id in job_ids]
    return 0 if all(outcomes) else 1


_CANCELLED = {
    "ok": "job {id} is cancelled",
    "running": "job {id} is running; it was asked to stop",
    "ended": "job {id} had ended already ({state})",
    "absent": "there is no job {id}",
}


def _cancel(session: Session, job_id: str, queue: str | None) -> bool:
    try:
        keys, _ = session.find_job(job_id, queue)
    except JobNotFound as error:
        print_done({"id": job_id, "outcome": "absent", "state": None}, str(error), session.output)
        return False
    outcome, state = session.client.run(transitions.cancel(keys, job_id))
    message = _CANCELLED[outcome].format(id=job_id, state=state)
    print_done({"id": job_id, "outcome": outcome, "state": state or None}, message, session.output)
    return outcome in ("ok", "running")
