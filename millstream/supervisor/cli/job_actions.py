"""``millstream jobs cancel``, ``retry`` and ``delete``: of jobs that are named, or of all that match a search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import click

from millstream.protocol import control, ended, transitions
from millstream.protocol.errors import JobNotFound
from millstream.protocol.info import FINAL, State
from millstream.protocol.keys import QueueKeys
from millstream.protocol.listing import Page, list_jobs
from millstream.protocol.searching import Query
from millstream.supervisor.cli.job_search import query_options, say_how_much, scan_option
from millstream.supervisor.cli.options import Globals, confirmed, destructive, global_options
from millstream.supervisor.cli.output import print_done
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import plural

Outcomes = dict[str, str]
"""What became of each job, by id: a word of a script."""

WAITING = (State.SCHEDULED, State.QUEUED, State.RETRYING)
ENDED = tuple(state for state in State if state in FINAL)


@dataclass
class Chosen:
    """The jobs that a command is about, by queue, and ids of which there is no job."""

    session: Session
    jobs: dict[QueueKeys, list[str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    everything: bool = False

    @property
    def count(self) -> int:
        return sum(map(len, self.jobs.values()))


@dataclass(frozen=True)
class Verb:
    """What is done: to jobs in *states*, with --state also to those *on_demand*; it asks for --all, or always."""

    word: str
    states: tuple[State, ...]
    on_demand: tuple[State, ...] = ()
    always_asks: bool = False

    def __call__(self, action: Callable[[Chosen], int]) -> click.Command:
        """Make a command of the action."""

        @wraps(action)
        def acting(options: Globals, query: Query, everything: bool, yes: bool, dry_run: bool, **named: Any) -> int:
            session = Session(options)
            chosen = _matching(session, query, self, **named) if everything else _named(session, query, **named)
            what = plural(chosen.count, "job")
            if dry_run:
                print_done({f"would_{self.word}": chosen.count}, f"would {self.word} {what}", session.output)
                return 0
            asks = chosen.count and (self.always_asks or everything)
            if asks and not confirmed(f"{self.word.capitalize()} {what}?", yes=yes):
                click.echo("nothing was done", err=True)
                return 1
            return action(chosen)

        decorated: Callable[..., Any] = click.pass_obj(acting)
        for option in (global_options, destructive, scan_option(100_000), query_options):
            decorated = option(decorated)
        decorated = click.option("--all", "everything", is_flag=True, help="All jobs that match.")(decorated)
        return click.command(self.word)(click.argument("job_ids", metavar="[ID...]", nargs=-1)(decorated))


def _named(session: Session, query: Query, queue: str | None, job_ids: tuple[str, ...], scan: int) -> Chosen:
    """The jobs of these ids."""
    if not job_ids:
        raise click.UsageError("name the jobs by their ids, or pass --all")
    if query != Query():
        raise click.UsageError("--name, --state, --tag, --metadata, --since, --until and --error go with --all")
    chosen = Chosen(session)
    for job_id in dict.fromkeys(job_ids):
        try:
            keys, info = session.find_job(job_id, queue)
        except JobNotFound:
            chosen.absent.append(job_id)
        else:
            chosen.jobs.setdefault(keys, []).append(job_id)
            if info.state is State.RUNNING:
                chosen.running.add(job_id)
    return chosen


def _matching(
    session: Session, query: Query, verb: Verb, queue: str | None, job_ids: tuple[str, ...], scan: int
) -> Chosen:
    """All jobs that match a query, as far as the scan goes; it is said how far."""
    if job_ids:
        raise click.UsageError("name the jobs by their ids, or pass --all, not both")
    if wrong := set(query.states or ()) - {*verb.states, *verb.on_demand}:
        able = ", ".join((*verb.states, *verb.on_demand))
        raise click.UsageError(f"{verb.word} is not for jobs that are {', '.join(sorted(wrong))}: only for {able}")
    wanted = replace(query, states=query.states or verb.states)
    keys_of = {keys.queue: keys for keys in session.queues(queue)}
    chosen, looked_at, cursor = Chosen(session, everything=True), 0, None
    while True:
        left = scan - looked_at
        page = list_jobs(session.client, [*keys_of.values()], wanted, limit=1000, cursor=cursor, scan=left)
        for info in page.jobs:
            chosen.jobs.setdefault(keys_of[info.queue], []).append(info.id)
        looked_at, cursor = looked_at + page.looked_at, page.cursor
        if cursor is None or looked_at >= scan:
            say_how_much(session, queue, Page([], cursor, looked_at), "raise --scan")
            return chosen


_CANCELLED = {
    "ok": "job {id} is cancelled",
    "running": "job {id} is running; it was asked to stop",
    "ended": "job {id} had ended already ({state})",
    "absent": "there is no job {id}",
}


@Verb("cancel", (*WAITING, State.RUNNING))
def cancel(chosen: Chosen) -> int:
    """Cancel jobs: waiting ones never start, running ones are asked to stop.

    Name them, or pass --all and what they have in common. The exit code is 1 if one of those named had ended before,
    or is unknown.
    """
    output, counts = chosen.session.output, Counter[str]()
    for job_id, (code, state) in _cancel(chosen).items():
        counts[code] += 1
        if not chosen.everything:
            message = _CANCELLED[code].format(id=job_id, state=state)
            print_done({"id": job_id, "outcome": code, "state": state or None}, message, output)
    if not chosen.everything:
        return 1 if counts["ended"] or counts["absent"] else 0
    row = {"cancelled": counts["ok"], "asked_to_stop": counts["running"], "ended": counts["ended"] + counts["absent"]}
    message = f"cancelled {plural(row['cancelled'], 'job')}, asked {row['asked_to_stop']:,} to stop"
    ended_before = f"; {row['ended']:,} had ended meanwhile" if row["ended"] else ""
    print_done(row, message + ended_before, output)
    return 0


def _cancel(chosen: Chosen) -> dict[str, tuple[str, str]]:
    done: dict[str, tuple[str, str]] = {}
    for keys, ids in chosen.jobs.items():
        for step in control.steps(ids):
            replies = chosen.session.client.run_many([transitions.cancel(keys, job_id) for job_id in step])
            done |= zip(step, replies, strict=True)
    return done | dict.fromkeys(chosen.absent, ("absent", ""))


@Verb("retry", (State.DEAD, State.CANCELLED, State.EXPIRED))
def retry(chosen: Chosen) -> int:
    """Enqueue dead, cancelled and expired jobs again, with fresh attempts.

    Name them, or pass --all and what they have in common. The exit code is 1 if one of them could not be: of jobs
    that ended well the arguments are not kept.
    """
    done: Outcomes = {}
    for keys, ids in chosen.jobs.items():
        done |= ended.retry_all(chosen.session.client, keys, ids)
    return _report(chosen, done, "retried", {"queued"})


@Verb("delete", ENDED, on_demand=WAITING, always_asks=True)
def delete(chosen: Chosen) -> int:
    """Delete jobs with all that is known of them; waiting ones are cancelled first.

    Name them, or pass --all and what they have in common: then only ended ones, unless --state asks for others. The
    exit code is 1 if one of them could not be: running ones have to be cancelled before.
    """
    done: Outcomes = {}
    client = chosen.session.client
    for keys, ids in chosen.jobs.items():
        done |= ended.delete_all(client, keys, ids)
        waiting = [job_id for job_id in ids if done[job_id] in WAITING and job_id not in chosen.running]
        for step in control.steps(waiting):
            codes = client.run_many([transitions.cancel(keys, job_id) for job_id in step])
            gone = [job_id for job_id, (code, _) in zip(step, codes, strict=True) if code != "running"]
            done |= dict.fromkeys(step, "stopping") | ended.delete_all(client, keys, gone)
    done |= dict.fromkeys(chosen.running & {job_id for job_id, word in done.items() if word != "deleted"}, "running")
    return _report(chosen, done, "deleted", {"deleted"})


_REASONS = {
    "absent": "there is no such job",
    "no payload": "its arguments were not kept",
    "completed": "it completed, and its arguments are not kept",
    "discarded": "it was discarded, and its arguments are not kept",
    "malformed": "it is no job that could run",
    "waiting": "it waits or runs already",
    "running": "it is running: cancel it first",
    "stopping": "it has just begun to run, and was asked to stop: delete it when it has",
}


def _report(chosen: Chosen, done: Outcomes, what: str, good: Collection[str]) -> int:
    done |= dict.fromkeys(chosen.absent, "absent")
    failed = {job_id: word for job_id, word in done.items() if word not in good}
    for job_id, word in failed.items():
        click.echo(f"job {job_id} was not {what}: {_REASONS.get(word, f'it is {word}')}", err=True)
    count = len(done) - len(failed)
    print_done({what: count, "failed": failed}, f"{what} {plural(count, 'job')}", chosen.session.output)
    return 1 if failed else 0
