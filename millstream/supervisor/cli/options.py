"""Options that many commands share. They are accepted before the command and after it; the later one wins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from millstream.supervisor.cli.output import FORMATS

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Globals:
    """What the shared options said; None where nothing was said."""

    config: str | None = None
    redis_url: str | None = None
    app: str | None = None
    output: str = "table"


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Globals), name, "json" if value is True else value)

    return store


def _shared(*names: str, field: str, **settings: Any) -> Callable[[Function], Function]:
    return click.option(*names, expose_value=False, callback=_store(field), **settings)


redis_url_option = _shared("--redis-url", field="redis_url", metavar="URL", help="Where Redis is.")


def connection_options(command: Function) -> Function:
    """``--config``, ``--redis-url`` and ``--app``."""
    for option in (
        _shared("--app", field="app", metavar="MODULE:OBJECT", help="The application."),
        redis_url_option,
        _shared("--config", field="config", metavar="FILE", help="The configuration file."),
    ):
        command = option(command)
    return command


def output_options(command: Function) -> Function:
    """``-o table|json|ndjson`` and ``--json``."""
    json = _shared("--json", field="output", is_flag=True, help="The same as -o json.")
    form = _shared("-o", "--output", field="output", type=click.Choice(FORMATS), help="How to print data.")
    return form(json(command))


def global_options(command: Function) -> Function:
    """All of them."""
    return connection_options(output_options(command))


def destructive(command: Function) -> Function:
    """``--yes`` and ``--dry-run``, for what cannot be undone; see :func:`confirmed`."""
    dry = click.option("--dry-run", is_flag=True, help="Only count what would be affected.")
    yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
    return yes(dry(command))


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask on the terminal; without one, ``--yes`` is needed (exit code 2)."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nothing was done: there is no terminal to ask on, pass --yes.")
    return click.confirm(question, default=False, err=True)
