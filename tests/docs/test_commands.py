"""The tables of commands against click's tree: names, arguments, options, exit codes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import click
import pytest

from millstream.protocol.errors import MillstreamError
from millstream.supervisor import master
from millstream.supervisor.cli import failures, options, run
from millstream.supervisor.cli.root import root
from tests.docs.documents import DOCS, code, commands, rows, sections
from tests.support.acl import as_role

SECTIONS = sections((DOCS / "commands.md").read_text())


def names(command: click.Command) -> set[str]:
    """The long names of a command's options."""
    return {opt for param in command.params for opt in param.opts if opt.startswith("--")}


def shared(decorate: Callable[[Callable[[], None]], Callable[[], None]]) -> set[str]:
    """The long names of one set of shared options."""
    return names(click.command("any")(decorate(lambda: None)))


SETS = {
    "connection": shared(options.connection_options),
    "output": shared(options.output_options),
    "destructive": shared(options.destructive),
}


Leaf = tuple[str, click.Command]


def leaves(command: click.Command, path: str, above: click.Context | None = None) -> Iterator[Leaf]:
    """Every command that does something, with its path and arguments as its usage has them."""
    context = click.Context(command, above, info_name=path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, f"{path} {name}".strip(), context)
    else:
        pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
        yield " ".join((path, *pieces)), command


def split(found: set[str]) -> tuple[set[str], set[str]]:
    """A command's own options, and the sets whose options it has too."""
    sets = {name for name, members in SETS.items() if members <= found}
    return found - set().union(*(SETS[name] for name in sets)), sets


def test_every_command_is_documented() -> None:
    documented = {
        code(row[0])[0]: (set(code(row[1])), {name for name in row[2].split(", ") if name})
        for row in (*rows(SECTIONS["Running"]), *rows(SECTIONS["Looking and acting"]))
    }
    assert documented == {usage: split(names(command)) for usage, command in leaves(root, "")}


def test_shared_options_are_documented() -> None:
    table = rows(SECTIONS["Shared options"])
    documented: dict[str, set[str]] = {}
    for name, option, _ in table:
        long_ones = (part.split()[0] for part in code(option) if part.startswith("--"))
        documented.setdefault(name, set()).update(long_ones)
    assert documented == SETS
    assert names(root) == SETS["connection"] | SETS["output"] | {"--version"}


def exit_codes(kind: type[MillstreamError]) -> Iterator[int]:
    """The exit codes of an error and of all that are made of it."""
    yield kind.exit_code
    for child in kind.__subclasses__():
        yield from exit_codes(child)


def test_every_exit_code_is_documented() -> None:
    known = {0, failures.FAILED, failures.USAGE, failures.UNREACHABLE, failures.INTERRUPTED}
    known |= {*exit_codes(MillstreamError), master.EXIT_STOPPED, master.EXIT_NAME, master.EXIT_CONFIG}
    assert {int(row[0]) for row in rows(SECTIONS["Exit codes"])} == known
    ends = rows(sections((DOCS / "signals.md").read_text())["Exit codes of `millstream up`"])
    assert {int(row[0]) for row in ends} == known - {failures.USAGE, failures.INTERRUPTED}


def test_examples_of_finding_jobs(url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is run where there are such jobs."""
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", as_role(url, "operator"))
    monkeypatch.setenv("MILLSTREAM_PREFIX", prefix)
    label = ("--queue", "reports", "--tag", "urgent", "--metadata", "customer=acme")
    assert run(["enqueue", "render", *label]) == 0
    examples = [shlex.split(example.text) for example in commands(SECTIONS["Finding jobs"])]
    assert len(examples) == 5
    for command, *arguments in examples:
        assert command == "millstream"
        assert run(arguments) == 0, arguments
    assert run(["jobs", "cancel", "--all", "--tag", "urgent", "--yes"]) == 0


def test_exit_codes_are_real() -> None:
    assert run(["queues"]) == 2
    assert run(["check"]) == 78
    assert run(["check", "--app", "no_such_module:app"]) == 78
    assert run(["jobs", "list"]) == 69
    assert run(["config", "show"]) == 0
