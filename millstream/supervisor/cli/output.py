"""Printing data on stdout: a table for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import orjson

from millstream.supervisor.cli.wording import NOTHING, printable

FORMATS = ("table", "json", "ndjson")

WIDEST = 500
"""Characters of a line of a table, at most."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table: its title, and what it shows of a row (by default the field of that name)."""

    title: str
    cell: Callable[[Row], object] | None = None
    right: bool = False

    def text(self, row: Row) -> str:
        value = self.cell(row) if self.cell else row.get(self.title)
        return NOTHING if value is None or value == "" else printable(str(value))


def print_rows(rows: Iterable[Row], columns: Sequence[Column], form: str, *, nothing: str) -> None:
    """Print a list. An empty table is said on stderr in the words of *nothing*."""
    if form == "ndjson":
        for row in rows:
            print_line(row)
        return
    listed = list(rows)
    if form == "json":
        print_json(listed)
    elif not listed:
        click.echo(nothing, err=True)
    else:
        _print_table([[column.text(row) for column in columns] for row in listed], columns)


def print_fields(row: Row, form: str, *, shown: Mapping[str, object] | None = None) -> None:
    """Print one thing: as JSON, or a line per field (of *shown*, where the wording differs)."""
    if form == "json":
        print_json(row)
    elif form == "ndjson":
        print_line(row)
    else:
        fields = {name: value for name, value in (shown or row).items() if value is not None}
        width = max(map(len, fields), default=0)
        for name, value in fields.items():
            first, *more = str(value).splitlines() or [""]
            click.echo(f"{name:<{width}}  {printable(first)}".rstrip())
            for line in more:
                click.echo(f"{'':<{width}}  {printable(line)}".rstrip())


def print_done(row: Row, message: str, form: str) -> None:
    """Say what a command did: a message for people (on stderr), or the facts as JSON on stdout."""
    if form == "table":
        click.echo(message, err=True)
    else:
        print_fields(row, form)


def print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def print_line(value: object) -> None:
    click.echo(orjson.dumps(value))


def _print_table(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    if sys.stdout.isatty():
        _print_rich(cells, columns)
        return
    titles = [column.title.upper() for column in columns]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in (titles, *cells):
        padded = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _print_rich(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title.upper(), justify="right" if column.right else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    console = Console()
    # A narrow terminal breaks long lines itself, so that an id stays in one piece and can be copied.
    natural = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.width = max(console.width, natural)
    console.print(table)
