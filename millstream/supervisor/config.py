"""The configuration: millstream.toml, overridden by MILLSTREAM_* variables, overridden by flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError

from millstream.protocol.errors import ConfigError
from millstream.protocol.location import Location, find_file, locate, read_file
from millstream.supervisor.config_layers import Layers, normalise_groups, read_layers
from millstream.supervisor.config_models import Group, Section, Settings, SupervisorSettings, Web
from millstream.supervisor.config_problems import cross_checks, worded
from millstream.supervisor.config_values import Range
from millstream.supervisor.cpus import cpus
from millstream.supervisor.redaction import MASK, is_secret, redact

__all__ = ["Group", "Range", "Row", "Settings", "SupervisorSettings", "Web", "describe", "load", "processes"]


def load(
    file: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """Read all sources. `overrides` are flags by dotted key, e.g. {"redis_url": …, "supervisor.name": …}.

    Raises ConfigError with every problem at once, each with its key, its source and what to do.
    """
    path = find_file(file, environ=environ, folder=folder)
    layers = read_layers(path, read_file(path) if path else {}, environ, overrides or {})
    problems = layers.problems
    normalise_groups(layers)
    try:
        settings = Settings.model_validate(layers.tree)
    except ValidationError as error:
        raise ConfigError([*problems, *worded(error, layers)]) from None
    problems += cross_checks(settings, layers)
    if problems:
        raise ConfigError(problems)
    settings._layers = layers
    settings._location = _located(settings, path, environ, folder)
    return settings


def _located(settings: Settings, file: Path | None, environ: Mapping[str, str], folder: Path | None) -> Location:
    # The layers have already decided about the variables, all but the data folder's.
    data = {"MILLSTREAM_DATA": environ.get("MILLSTREAM_DATA", "")}
    location = locate(
        url=settings.redis_url,
        config=file,
        prefix=settings.prefix,
        app=settings.app,
        environ=data,
        folder=folder,
    )
    return location if location.embedded else replace(location, source=settings._layers.origin(("redis_url",)))


def processes(group: Group) -> int:
    """How many processes a group starts with; the lower bound of a range, the usable CPUs for "auto"."""
    if group.processes == "auto":
        return cpus()
    return group.processes.min if isinstance(group.processes, Range) else group.processes


class Row(NamedTuple):
    """One line of `config show`; the value is JSON-able, secrets are masked."""

    key: str
    value: Any
    source: str


def describe(settings: Settings) -> list[Row]:
    """Every effective value with its source: a file, a variable, a flag, "embedded" or "default"."""
    rows: list[Row] = []
    _walk(settings, (), settings._layers, rows)
    if not settings.location.embedded:
        return rows
    embedded = Row("redis_url", settings.location.url, "embedded")
    return [embedded if row.key == "redis_url" else row for row in rows]


def _walk(table: Section, key: tuple[str, ...], layers: Layers, rows: list[Row]) -> None:
    for name, value in _written(table):
        here = (*key, name)
        if isinstance(value, Section):
            _walk(value, here, layers, rows)
        elif here == ("workers",):
            for group in value.values():
                _walk(group, (*here, group.name), layers, rows)
        elif name == "env" and isinstance(table, Group):
            rows += [
                Row(".".join((*here, variable)), _shown(variable, item), layers.origin((*here, variable)))
                for variable, item in value.items()
            ]
        else:
            rows.append(Row(".".join(here), _shown(name, value), layers.origin(here)))


def _written(table: Section) -> list[tuple[str, Any]]:
    """The fields as they stand in the file: a group's name is its table's, its weights are in `queues`."""
    fields = {name: getattr(table, name) for name in type(table).model_fields}
    if isinstance(table, Group):
        del fields["name"]
        fields["queues"] = fields.pop("weights") or list(table.queues)
    return list(fields.items())


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr) or (isinstance(value, str) and is_secret(name)):
        return MASK
    if isinstance(value, Range):
        return value._asdict()
    if value == float("inf"):
        return "inf"  # JSON has no infinity
    return redact(value) if isinstance(value, str) else value
