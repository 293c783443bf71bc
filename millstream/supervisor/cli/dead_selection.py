"""Which dead jobs a command is about: by their ids, or all that fit; counted, asked about, then taken step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from millstream.protocol.dead import Which, walk
from millstream.protocol.errors import JobNotFound
from millstream.protocol.info import JobInfo, State
from millstream.protocol.keys import QueueKeys
from millstream.supervisor.cli.job_view import queue_option
from millstream.supervisor.cli.options import Globals, confirmed, destructive, global_options
from millstream.supervisor.cli.output import print_done
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural

Function = TypeVar("Function", bound=Callable[..., Any])

_FILTERS = ("name", "error", "cause", "group", "older_than")


def which_options(command: Function) -> Function:
    """``--name``, ``--error``, ``--cause``, ``--group`` and ``--older-than``; see :func:`which_of`."""
    for option in (
        click.option("--older-than", type=click.FloatRange(min=0), metavar="SECONDS", help="Dead for so long."),
        click.option("--group", metavar="KEY", help="Only of this group, as `dead groups` prints it."),
        click.option("--cause", help="Only with this cause: error, timeout, crash ..."),
        click.option("--error", metavar="TEXT", help="Only where the error's type and message contain this."),
        click.option("--name", "--job", "name", help="Only jobs of this name."),
    ):
        command = option(command)
    return command


def which_of(chosen: dict[str, Any]) -> Which:
    """Take the values of :func:`which_options` out of a command's arguments."""
    return Which(**{name: chosen.pop(name) for name in _FILTERS})


@dataclass(frozen=True)
class Selection:
    """Which dead jobs a command is about, and how sure the user is of it."""

    job_ids: tuple[str, ...]
    everything: bool
    which: Which
    queue: str | None
    yes: bool
    dry_run: bool

    def check(self) -> None:
        """Raise a usage error where it is not clear which are meant."""
        matching = self.everything or not self.which.anything
        if matching == bool(self.job_ids):
            raise click.UsageError(
                "name the jobs by their ids, or say which by --name, --error, --cause, --group or --older-than, "
                f"or pass --all{', not both' if matching else ''}"
            )


def selecting(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command ids, or filters and ``--all``; it is called with a session and a :class:`Selection`."""

    @wraps(command)
    def call(options: Globals, **chosen: Any) -> int:
        which = which_of(chosen)
        own = ("job_ids", "everything", "queue", "yes", "dry_run")
        selection = Selection(which=which, **{name: chosen.pop(name) for name in own})
        selection.check()
        return command(Session(options), selection, **chosen)

    decorated: Callable[..., int] = click.pass_obj(call)
    for option in (
        global_options,
        destructive,
        which_options,
        queue_option,
        click.option("--all", "everything", is_flag=True, help="All dead jobs (of --queue)."),
        click.argument("job_ids", metavar="[ID...]", nargs=-1),
    ):
        decorated = option(decorated)
    return decorated


@dataclass(frozen=True)
class Chosen:
    """The dead jobs that are meant: how many they are, and each step of them by queue."""

    count: int
    steps: Callable[[], Iterator[tuple[QueueKeys, Sequence[str]]]]


def choose(session: Session, selection: Selection) -> Chosen:
    """Count the jobs that are meant. Raises :class:`JobNotFound` for an id that is not dead.

    Where they are not named, those are meant that were dead by now: none that dies, or dies again, in the meantime.
    """
    if selection.job_ids:
        ids: dict[QueueKeys, list[str]] = {}
        for job_id in dict.fromkeys(selection.job_ids):
            ids.setdefault(dead_job(session, job_id, selection.queue)[0], []).append(job_id)
        return Chosen(sum(map(len, ids.values())), lambda: iter(ids.items()))
    queues, until = session.queues(selection.queue), session.server_time()

    def steps() -> Iterator[tuple[QueueKeys, Sequence[str]]]:
        for found in walk(session.client, queues, selection.which, until=until):
            if found.jobs:
                yield found.keys, [one.id for one in found.jobs]

    return Chosen(sum(len(ids) for _, ids in steps()), steps)


def agreed(session: Session, selection: Selection, verb: str, count: int, *, ask: bool) -> bool:
    """Whether to go on: not where only a count is wanted (it is printed), nor where the user says no."""
    if selection.dry_run:
        print_done({f"would_{verb}": count}, f"would {verb} {plural(count, 'job')}", session.output)
        return False
    if not ask or not count or confirmed(f"{verb.capitalize()} {plural(count, 'dead job')}?", yes=selection.yes):
        return True
    click.echo("nothing was done", err=True)
    return False


def dead_job(session: Session, job_id: str, queue: str | None) -> tuple[QueueKeys, JobInfo]:
    """The dead job of this id. Raises :class:`JobNotFound`."""
    keys, info = session.find_job(job_id, queue)
    if info.state is not State.DEAD:
        raise JobNotFound(f"job {job_id} is not dead but {info.state}; see `millstream jobs show {job_id}`")
    return keys, info
