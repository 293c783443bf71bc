"""``millstream jobs pause`` and ``jobs resume``: hold back one job name, on all hosts."""

from __future__ import annotations

import click

from millstream.protocol import limits
from millstream.supervisor.cli.job_view import queue_option
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import print_done
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural


@click.command()
@click.argument("name")
@queue_option
@global_options
@click.pass_obj
def pause(options: Globals, name: str, queue: str | None) -> None:
    """Pause a job name, in one queue or in all that were ever used: running jobs finish, the others wait."""
    session = Session(options)
    for keys in session.queues(queue):
        changed = session.client.run(limits.pause_job(keys, name))
        message = f"job {name} {'is paused' if changed else 'was paused already'} in queue {keys.queue}"
        print_done({"job": name, "queue": keys.queue, "paused": True, "changed": changed}, message, session.output)


@click.command()
@click.argument("name")
@queue_option
@global_options
@click.pass_obj
def resume(options: Globals, name: str, queue: str | None) -> None:
    """Resume a paused job name; what has waited goes first, in order."""
    session = Session(options)
    for keys in session.queues(queue):
        done = limits.resume_whole_job(session.client, keys, name)
        changed = done.state == "done"
        moved = plural(done.moved, "waiting job")
        message = f"job {name} is paused no more in queue {keys.queue}, {moved} moved"
        if not changed:
            message = f"job {name} was not paused in queue {keys.queue}"
        row = {"job": name, "queue": keys.queue, "paused": False, "changed": changed, "moved": done.moved}
        print_done(row, message, session.output)
