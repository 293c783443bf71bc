"""``millstream up`` and ``millstream demo``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millstream.supervisor import signals
from millstream.supervisor.cli.options import Globals, connection_options, output_options, redis_url_option
from millstream.supervisor.cli.session import Session
from millstream.supervisor.reload import relaunch

if TYPE_CHECKING:
    from millstream.supervisor.config import Settings


@click.command()
@click.option("--burst", is_flag=True, help="Exit when no job is left to run.")
@click.option("--processes", type=click.IntRange(1, 1000), metavar="N", help="Worker processes, of the only group.")
@connection_options
@click.pass_obj
def up(options: Globals, burst: bool, processes: int | None) -> int:
    """Run the supervisor and its workers until a signal ends them."""
    received = relaunch.received()
    if received is None:
        signals.end_while_starting()
    launch = relaunch.Launch.of_this_process()
    session = Session(options)
    settings = partial(_settings, session, processes)
    if received is None:
        loaded = settings()
        from millstream.supervisor.boot import run

        return run(loaded, burst=burst, launch=launch)
    role, descriptor = received
    if role is relaunch.Role.SUCCESSOR:
        from millstream.supervisor.reload.succession import take_over

        return take_over(descriptor, launch)
    from millstream.supervisor.reload.rehearsal import rehearse

    return rehearse(descriptor, settings, burst=burst)


def _settings(session: Session, processes: int | None) -> Settings:
    """The configuration; *processes* is the flag, for a single group."""
    if processes is not None:
        groups = list(session.settings.workers)
        if len(groups) != 1 or "." in groups[0]:
            names = ", ".join(groups)
            raise click.UsageError(f"--processes is for a single group, and there are {names}: set `processes` of each")
        session.override({f"workers.{groups[0]}.processes": processes})
    return session.settings


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--keep", is_flag=True, help="Stay up at the end, and say what to look at.")
@click.option("--processes", type=click.IntRange(1, 1000), metavar="N", help="Worker processes.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Not more than so many files.")
@redis_url_option
@output_options
@click.pass_obj
def demo(options: Globals, folder: Path | None, keep: bool, processes: int | None, limit: int | None) -> int:
    """Analyse every file of FOLDER with several worker processes, and sum it up.

    Each file is one job: its hash, its lines, its tokens, how well it compresses. By default the files are
    the sources of Python's own standard library. A private server and a supervisor are started for it, and
    stopped at the end.
    """
    from millstream.supervisor.demo.command import Plan, run

    return run(Plan(folder, keep, processes, limit, options.redis_url, options.output))
