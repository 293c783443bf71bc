"""Reads all sources of the configuration into one checked :class:`Settings`, or raises every problem at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from millstream.protocol.errors import ConfigError
from millstream.protocol.location import Location, find_file, locate, read_file
from millstream.supervisor import logs
from millstream.supervisor.config.layers import normalise_groups, read_layers
from millstream.supervisor.config.models import Group, Settings
from millstream.supervisor.config.problems import cross_checks, worded
from millstream.supervisor.config.values import Range
from millstream.supervisor.cpus import cpus


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
    problems += logs.problems(environ)
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


def bounds(group: Group) -> Range:
    """Between which numbers of processes a group stays: one number twice, unless it may follow its backlog."""
    if isinstance(group.processes, Range):
        return group.processes
    count = cpus() if group.processes == "auto" else group.processes
    return Range(count, count)
