"""``millstream jobs watch``: follow one job to its end, with a live bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import click

from millstream.protocol.info import FINAL, JobInfo, State
from millstream.supervisor.cli.job_view import args_option, fields_of, queue_option, row_of
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import print_fields, print_line
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import printable

if TYPE_CHECKING:
    from millstream.protocol.keys import QueueKeys

REFRESH = 0.5
"""Seconds after which ``watch`` looks for progress; the end of the job it hears of at once."""


class Teller(Protocol):
    """Shows how the job looks now."""

    def __call__(self, info: JobInfo, /) -> None: ...


@click.command()
@click.argument("job_id", metavar="ID")
@queue_option
@click.option("--timeout", type=click.FloatRange(min=0), help="Give up after so many seconds (exit code 1).")
@args_option
@global_options
@click.pass_obj
def watch(options: Globals, job_id: str, queue: str | None, timeout: float | None, with_args: bool) -> int:
    """Follow one job to its end. The exit code is 0 where it completed, 1 where it ended otherwise."""
    session = Session(options)
    keys, info = session.find_job(job_id, queue)
    deadline = None if timeout is None else time.monotonic() + timeout
    with _teller(session.output, with_args) as tell:
        tell(info)
        while info.state not in FINAL:
            if deadline is not None and time.monotonic() >= deadline:
                break
            info = _look_again(session, keys, info, deadline)
            tell(info)
    if info.state not in FINAL:
        click.echo(f"job {job_id} has not ended within {timeout:g} s", err=True)
        return 1
    if session.output != "ndjson":
        print_fields(row_of(info, with_args), session.output, shown=fields_of(info, with_args))
    return 0 if info.state is State.COMPLETED else 1


def _look_again(session: Session, keys: QueueKeys, info: JobInfo, deadline: float | None) -> JobInfo:
    """Wait for the end of the job, but not longer than its progress may stay unseen."""
    wait = REFRESH if deadline is None else max(0.01, min(REFRESH, deadline - time.monotonic()))
    with contextlib.suppress(TimeoutError):
        session.client.wait_for_end(keys, info.id, wait)
    return session.find_job(info.id, keys.queue)[1]


@contextlib.contextmanager
def _teller(form: str, with_args: bool) -> Iterator[Teller]:
    """What shows the job: a bar on a terminal, lines elsewhere; JSON lines on stdout where asked for."""
    if form == "ndjson":
        yield _Lines(lambda info: print_line(row_of(info, with_args)))
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _Lines(lambda info: click.echo(_line(info), err=True))


class _Lines:
    """Prints the job whenever it looks different from the last time."""

    def __init__(self, show: Teller) -> None:
        self._show = show
        self._said: object = None

    def __call__(self, info: JobInfo, /) -> None:
        now = (info.state, info.attempt, info.run, info.progress, info.message)
        if now != self._said:
            self._show(info)
            self._said = now


def _line(info: JobInfo) -> str:
    progress = "" if info.progress is None else f" {info.progress:.0f} %"
    note = f" {printable(info.message)}" if info.message else ""
    return f"{info.state}, attempt {info.attempt}{progress}{note}"


@contextlib.contextmanager
def _bar() -> Iterator[Teller]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, state="")

        def tell(info: JobInfo, /) -> None:
            total = None if info.progress is None and info.state not in FINAL else 100
            state = f"{info.state}, attempt {info.attempt}"
            message = escape(printable(info.message or ""))
            bar.update(task, total=total, completed=info.progress or 0, description=message, state=state)

        yield tell
