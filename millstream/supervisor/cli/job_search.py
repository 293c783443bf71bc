"""``millstream jobs search``, and the options by which commands choose jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import click

from millstream.protocol.info import State
from millstream.protocol.listing import Page, list_jobs
from millstream.protocol.searching import Query, extent
from millstream.supervisor.cli.job_view import JOB_COLUMNS, args_option, error_line, print_page, queue_option
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import Column
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural, shortened

STATES = click.Choice([state.value for state in State])

COLUMNS = (
    *JOB_COLUMNS,
    Column("tags", lambda row: shortened(", ".join(row["tags"]), 40)),
    Column("error", error_line),
)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,9})([smhd])")


def _instant(ctx: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """An aware datetime of how long ago (``90s``, ``30m``, ``2h``, ``7d``), or of ISO 8601 with a zone."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        instant = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        message = f"{text!r} is no time: use 90s, 30m, 2h or 7d (ago), or an instant as 2026-11-22T18:00:00Z"
        raise click.BadParameter(message, ctx, param) from None
    if instant.tzinfo is None:
        raise click.BadParameter(f"{text!r} names no time zone: add Z, or an offset such as +01:00", ctx, param)
    return instant


def pairs(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """What ``--metadata NAME=VALUE`` gave."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE", ctx, param)
        found[name] = value
    return found


_OPTIONS = (
    queue_option,
    click.option("--name", "--job", "name", help="Only jobs of this name."),
    click.option("--state", "states", type=STATES, multiple=True, help="Only this state (repeatable)."),
    click.option("--tag", "tags", multiple=True, help="Only with this tag (repeatable: with all of them)."),
    click.option(
        "--metadata", callback=pairs, multiple=True, metavar="NAME=VALUE", help="Only with this (repeatable)."
    ),
    click.option(
        "--since", callback=_instant, metavar="TIME", help="Only enqueued since: 30m, 2h, 7d ago, or ISO 8601."
    ),
    click.option("--until", callback=_instant, metavar="TIME", help="Only enqueued until then."),
    click.option("--error", metavar="TEXT", help="Only where cause, type or message of the last failure has this."),
)


def query_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a :class:`Query`; it gets that and ``queue``."""

    @wraps(command)
    def choosing(*given: Any, states: Sequence[str], metadata: dict[str, str], error: str | None, **chosen: Any) -> Any:
        query = Query(
            [State(state) for state in states] or None,
            chosen.pop("name"),
            tags=chosen.pop("tags"),
            metadata=metadata,
            since=chosen.pop("since"),
            until=chosen.pop("until"),
            error=error or None,
        )
        return command(*given, query=query, **chosen)

    decorated: Callable[..., Any] = choosing
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def scan_option(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--scan``: how many jobs are looked at, at most."""
    least = click.IntRange(min=1)
    return click.option("--scan", type=least, default=default, show_default=True, help="Look at so many jobs at most.")


def say_how_much(session: Session, queue: str | None, page: Page, how_on: str) -> None:
    """Say on stderr at how many jobs a scan looked, and of how many, where it did not look at all."""
    looked = f"looked at {plural(page.looked_at, 'job')}"
    if page.cursor is None:
        click.echo(f"{looked}: all that are known", err=True)
    else:
        of = extent(session.client, session.queues(queue))
        click.echo(f"{looked} of about {max(of, page.looked_at):,}; there may be more: {how_on}", err=True)


@click.command()
@query_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most.")
@scan_option(5000)
@click.option("--cursor", help="Go on where an earlier search ended.")
@args_option
@global_options
@click.pass_obj
def search(
    options: Globals, query: Query, queue: str | None, limit: int, scan: int, cursor: str | None, with_args: bool
) -> None:
    """Find jobs: those that have all that is asked for.

    It looks at running jobs first, then at waiting, due and dead ones and the last 1,000 of each queue that ended,
    and says on stderr at how many.
    """
    session = Session(options)
    page = list_jobs(session.client, session.queues(queue), query, limit=limit, cursor=cursor, scan=scan)
    shown = Page(page.jobs, None, page.looked_at)
    print_page(shown, COLUMNS, session.output, with_args=with_args, nothing="no such jobs")
    say_how_much(session, queue, page, f"--cursor {page.cursor}")
