"""The tree of commands. It knows their names and first lines, so that help imports none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from millstream import __version__
from millstream.supervisor.cli.options import Globals, global_options

_HERE = "millstream.supervisor.cli."

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("running:up", "Run the supervisor and its workers."),
    "demo": ("running:demo", "Analyse a folder of files with several worker processes, and sum it up."),
    "check": ("configuration:check", "Check the configuration and the application; start nothing."),
    "healthcheck": ("healthcheck:healthcheck", "Ask the supervisor on this host how it is."),
    "config": ("configuration:config", "Show the configuration."),
    "enqueue": ("enqueueing:enqueue", "Enqueue one job and print its id."),
    "queues": ("queues:queues", "List, show, pause, resume, limit and purge queues."),
    "jobs": ("jobs:jobs", "List, show, watch, find, cancel, retry and delete jobs; pause and resume a name."),
    "dead": ("dead:dead", "List, show, retry and delete dead jobs."),
    "workers": ("hosts:workers", "List the workers of all hosts."),
    "ps": ("hosts:ps", "List supervisors and their workers, as their heartbeats tell."),
    "stats": ("statistics:stats", "Count what became of all jobs: in all, or of late by queue and job."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when one of them is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(_HERE + module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_line) for name, (_, first_line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@global_options
@click.pass_context
def root(ctx: click.Context, /, **_: Any) -> None:
    """Run CPU-heavy background jobs in supervised worker processes, driven by Redis Streams."""
    ctx.ensure_object(Globals)
