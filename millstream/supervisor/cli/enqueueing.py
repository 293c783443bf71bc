"""``millstream enqueue``: one job from the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
import orjson

from millstream.protocol.app import Millstream
from millstream.protocol.contract import contract_of
from millstream.protocol.errors import InvalidJob
from millstream.protocol.keys import checked_name
from millstream.protocol.registry import Draft, checked_options
from millstream.supervisor.cli.job_search import pairs
from millstream.supervisor.cli.options import Globals, global_options
from millstream.supervisor.cli.output import print_fields
from millstream.supervisor.cli.session import Session


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("name")
@click.argument("args", metavar="[ARG]...", nargs=-1)
@click.option("--kwargs", metavar="JSON", help="Keyword arguments: a JSON object.")
@click.option("--queue", help="The queue; by default the job's own.")
@click.option("--delay", type=click.FloatRange(min=0), metavar="SECONDS", help="Not before so many seconds.")
@click.option("--priority", help="critical, high, normal, low or a number.")
@click.option("--id", "job_id", help="An id of your own: a second enqueue with it changes nothing.")
@click.option("--tag", "tags", multiple=True, help="What the job is found by (repeatable).")
@click.option("--metadata", callback=pairs, multiple=True, metavar="NAME=VALUE", help="Likewise; VALUE as an ARG.")
@click.option(
    "--unique-for",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Only if no living job holds the same key; held for so long at most.",
)
@click.option("--unique-by", metavar="KEY", help="That key; by default the job's name and arguments.")
@click.option("--expires-in", type=click.FloatRange(min=0), metavar="SECONDS", help="Not started after so many s.")
@click.option("--deadline", metavar="TIME", help="Not started after this time: ISO 8601 with its offset.")
@click.option("--concurrency-key", metavar="KEY", help="Jobs of this key run one at a time, or as --concurrency says.")
@click.option("--concurrency", type=click.IntRange(min=1), help="How many jobs of the key run at once.")
@global_options
@click.pass_obj
def enqueue(
    options: Globals, /, name: str, args: tuple[str, ...], kwargs: str | None, priority: str | None, **chosen: Any
) -> None:
    """Enqueue the job NAME and print its id.

    Each ARG is read as JSON, or taken as text where it is not: 42 and '{"a": 1}' are what they look like,
    hello is a text, '"42"' is the text 42. Put -- before arguments that begin with a dash.
    """
    session = Session(options)
    chosen |= {"priority": _priority(priority), "id": chosen.pop("job_id"), "deadline": _instant(chosen["deadline"])}
    chosen["metadata"] = {name: _value(text) for name, text in chosen["metadata"].items()}
    draft = _draft(session, name, [_value(arg) for arg in args], _keywords(kwargs), chosen)
    handle = session.app_or_plain.enqueue_draft(draft)
    if not handle.created:
        why = "existed already" if handle.id == chosen["id"] else "holds the unique key"
        click.echo(f"job {handle.id} {why}; nothing was enqueued", err=True)
    if session.output == "table":
        click.echo(handle.id)
    else:
        print_fields({"id": handle.id, "queue": handle.queue, "created": handle.created}, session.output)


def _draft(session: Session, name: str, args: list[Any], kwargs: dict[str, Any], chosen: dict[str, Any]) -> Draft:
    """A checked call where the application knows the job; otherwise as asked, which needs a queue."""
    app: Millstream = session.app_or_plain
    job = app.registry.get(checked_name("job", name))
    if job is not None:
        positional, named = contract_of(job.fn).rebuilt(job.name, tuple(args), kwargs)
        return job.using(**chosen).job(*positional, **named)
    if chosen["queue"] is None:
        known = ", ".join(app.registry.names)
        hint = f"this application has: {known}" if known else "no application is configured: pass --app"
        raise InvalidJob(f"there is no job {name!r}: {hint}; or name the queue of another one's with --queue")
    options = checked_options(**chosen)
    lock = options.unique.lock(name, args, kwargs) if options.unique else None
    seat = options.seating.of(name, (), {}) if options.seating else None
    return Draft(name, tuple(args), kwargs, chosen["queue"], options.priority or 0, options, lock=lock, seat=seat)


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _keywords(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--kwargs") from None
    if not isinstance(value, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--kwargs")
    return value


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        example = "2030-01-31T18:00:00+00:00"
        raise click.BadParameter(f"not a time: write it as {example}", param_hint="--deadline") from None


def _priority(text: str | None) -> int | str | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text
