"""``millstream ps`` and ``workers``: who works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from millstream.protocol.inspect import Host, hosts
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import Column, Row, print_rows
from millstream.supervisor.cli.session import Session
from millstream.supervisor.cli.wording import NOTHING, duration, size

NO_HOSTS = "no supervisor has left a heartbeat: start one with `millstream up`"


def _state(host: Row) -> str:
    return str(host.get("state", NOTHING)) if host["alive"] else "lost"


def _busy(host: Row) -> str:
    workers = host.get("workers", ())
    return f"{sum(worker.get('state') == 'busy' for worker in workers)}/{len(workers)}"


def _groups(host: Row) -> str:
    return " ".join(f"{name}={group.get('target', '?')}" for name, group in host.get("groups", {}).items())


def _running(worker: Row) -> str:
    return f"{worker['name']} {worker['job']}" if worker.get("job") else NOTHING


HOST_COLUMNS = (
    Column("name"),
    Column("host"),
    Column("pid", right=True),
    Column("state", _state),
    Column("busy", _busy, right=True),
    Column("groups", _groups),
    Column("version"),
    Column("up", lambda row: duration((row["at"] - row["started"]) / 1000), right=True),
    Column("seen", lambda row: duration(row["age"]) + " ago", right=True),
)

WORKER_COLUMNS = (
    Column("supervisor"),
    Column("worker", lambda row: f"{row['group']}/{row['slot']}"),
    Column("pid", right=True),
    Column("state", lambda row: row["state"] if row["alive"] else "lost"),
    Column("since", lambda row: duration(row.get("since")) if row.get("job") else NOTHING, right=True),
    Column("jobs", right=True),
    Column("rss", lambda row: size(row.get("rss")), right=True),
    Column("running", _running),
    Column("seen", lambda row: duration(row["age"]) + " ago", right=True),
)


@click.command()
@global_options
@click.pass_obj
def ps(options: Globals) -> None:
    """List supervisors and their workers, as their heartbeats tell."""
    session = Session(options)
    found = hosts(session.client, session.client.keys)
    print_rows([host.to_dict() for host in found], HOST_COLUMNS, session.output, nothing=NO_HOSTS)
    if session.output == "table" and found:
        click.echo()
        print_rows(_workers(found), WORKER_COLUMNS, session.output, nothing="no workers")


@click.group()
def workers() -> None:
    """List the workers of all hosts."""


@workers.command("list")
@click.option("--group", help="Only this group.")
@global_options
@click.pass_obj
def list_(options: Globals, group: str | None) -> None:
    """List the workers of all hosts: what each is doing, how long, how much it did before."""
    session = Session(options)
    rows = _workers(hosts(session.client, session.client.keys))
    shown = [row for row in rows if group in (None, row["group"])]
    print_rows(shown, WORKER_COLUMNS, session.output, nothing="no workers")


def _workers(found: Sequence[Host]) -> Iterator[dict[str, Any]]:
    for host in found:
        for worker in host.heartbeat.get("workers", ()):
            yield {"supervisor": host.name, "alive": host.alive, "age": host.age, **worker}
