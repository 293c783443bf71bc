"""``millstream check`` and ``millstream config show``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from millstream.protocol.app import Millstream
from millstream.protocol.contract import contract_of
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import Column, print_fields, print_rows
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural
from millstream.supervisor.config import Range, Settings, bounds, describe

ENDLESS = "one that hangs holds its worker for ever"


@click.command()
@global_options
@click.pass_obj
def check(options: Globals) -> None:
    """Check the configuration and the application; start nothing. Exit code 78 lists every problem."""
    session = Session(options)
    settings = session.settings
    app = session.app
    row = _findings(settings, app)
    shown = {
        "file": row["file"] or "none",
        "redis": row["redis"],
        "application": row["app"],
        "jobs": "\n".join(f"{job['name']} ({job['queue']})" for job in row["jobs"]) or "none",
        "groups": "\n".join(_worded(group) for group in row["groups"]),
        "signing": ", ".join(row["signing"]) or "off",
    }
    print_fields(row, session.output, shown=shown)
    for warning in row["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    click.echo("the configuration is good", err=True)


def _worded(group: dict[str, Any]) -> str:
    number = group["processes"]
    ranged = isinstance(number, dict)
    count = f"{number['min']} to {number['max']} processes" if ranged else plural(number, "process", "processes")
    return f"{group['name']}: {count}, queues {', '.join(group['queues']) or 'none'}"


def _number(processes: Range) -> int | dict[str, int]:
    """As it is configured: one number, or both bounds."""
    return processes.min if processes.min == processes.max else processes._asdict()


def _findings(settings: Settings, app: Millstream) -> dict[str, Any]:
    from millstream.protocol.connection import redacted
    from millstream.protocol.signing import Keyring

    jobs = [app.registry.get(name) for name in app.registry.names]
    groups = [
        {
            "name": group.name,
            "processes": _number(bounds(group)),
            "queues": list(group.queues) or app.registry.queues,
            "timeout": group.timeout,
        }
        for group in settings.workers.values()
    ]
    keys = settings.signing_keys
    keyring = Keyring.parse(keys.get_secret_value()) if keys else None
    return {
        "file": str(settings.file) if settings.file else None,
        "redis": redacted(settings.location.url),
        "app": settings.app,
        "jobs": [{"name": job.name, "queue": job.queue, "timeout": job.timeout} for job in jobs if job],
        "groups": groups,
        "signing": keyring.ids if keyring else [],
        "warnings": [*_warnings(app, groups), *_signing_warnings(settings)],
    }


def _signing_warnings(settings: Settings) -> Iterator[str]:
    if settings.accept_unsigned and settings.signing_keys:
        yield "accept_unsigned = true: signatures protect nothing until it is removed"
    elif settings.accept_unsigned:
        yield "accept_unsigned changes nothing without signing_keys"


def _warnings(app: Millstream, groups: list[dict[str, Any]]) -> list[str]:
    served = {queue for group in groups for queue in group["queues"]}
    unserved = [queue for queue in app.registry.queues if queue not in served]
    jobs = [job for name in app.registry.names if (job := app.registry.get(name))]
    warnings = [f"no group serves queue {queue!r}: its jobs will wait" for queue in unserved]
    warnings += [f"job {job.name!r} has no timeout: {ENDLESS}" for job in jobs if job.timeout == 0]
    warnings += [f"group {group['name']!r} has timeout = 0: {ENDLESS}" for group in groups if group["timeout"] == 0]
    warnings += [
        f"job {job.name!r}: the hint of {name!r} cannot be used, so it stays as JSON has it ({why})"
        for job in jobs
        for name, why in contract_of(job.fn).unusable.items()
    ]
    if not app.registry.names:
        warnings.append("the application has no jobs")
    return warnings


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@global_options
@click.pass_obj
def show(options: Globals) -> None:
    """Show every setting, its value and where it comes from; secrets are masked."""
    session = Session(options)
    columns = (Column("key"), Column("value"), Column("source"))
    rows = [row._asdict() for row in describe(session.settings)]
    print_rows(rows, columns, session.output, nothing="no settings")
