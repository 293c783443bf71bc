"""Lays the sources of the configuration over each other and remembers where each value came from.

Later layers win: the file, REDIS_URL, the files that *_FILE variables name, MILLSTREAM_* variables, flags.
"""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from millstream.protocol.errors import ConfigError
from millstream.protocol.location import SECTIONS, TOP_LEVEL, read_secret

VARIABLES = "MILLSTREAM_"

# Read elsewhere, or below under another name.
_OTHER_VARIABLES = frozenset(
    {"CONFIG", "DATA", "LOG_FORMAT", "LOG_LEVEL", "REDIS_SERVER", "REDIS_URL_FILE", "SIGNING_KEYS_FILE"}
)
_WEB_TOKEN = ("WEB_TOKEN", "WEB_TOKEN_FILE")
# Kubernetes and Docker links put such variables beside a service that is called "millstream…".
_SERVICE_LINK = re.compile(r"(_SERVICE_HOST|_SERVICE_PORT\w*|_PORT|_PORT_\d+_(TCP|UDP|SCTP)\w*)$")

Key = tuple[str, ...]


@dataclass
class Layers:
    """The merged tree, the origin of its values, and what was wrong with the sources themselves."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, key: Key, value: Any, origin: str) -> None:
        """Set one value; a table is merged key by key into the table that is there."""
        if isinstance(value, dict) and value and key[2:] != ("queues",):
            for name, item in value.items():
                self.put((*key, str(name)), item, origin)
            return
        table = self.tree
        for name in key[:-1]:
            if not isinstance(table.get(name), dict):
                table[name] = {}
            table = table[name]
        table[key[-1]] = value
        self._forget(key)
        self.origins[key] = origin

    def _forget(self, key: Key) -> None:
        for other in [other for other in self.origins if _overlap(other, key)]:
            del self.origins[other]

    def origin(self, key: Key) -> str:
        """Where this value, or something inside it, was set; "default" if nowhere."""
        inside = (origin for other, origin in self.origins.items() if other[: len(key)] == key)
        return next(inside, "default")

    def nearest_origin(self, key: Key) -> str:
        """Where this value was set, or else something in the nearest table around it."""
        origins = (self.origin(key[:length]) for length in range(len(key), 0, -1))
        return next((origin for origin in origins if origin != "default"), "default")


def _overlap(one: Key, other: Key) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def read_layers(
    file: Path | None, table: dict[str, Any], environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Layers:
    """All sources in one tree. `overrides` are flags: dotted keys; None means that a flag was not given."""
    layers = Layers()
    for name, value in table.items():
        layers.put((name,), value, str(file))
    if environ.get("REDIS_URL"):
        layers.put(("redis_url",), environ["REDIS_URL"], "REDIS_URL")
    _put_secret_file(layers, ("redis_url",), "MILLSTREAM_REDIS_URL_FILE", environ)
    _put_secret_file(layers, ("signing_keys",), "MILLSTREAM_SIGNING_KEYS_FILE", environ)
    _put_secret_file(layers, ("web", "token"), "MILLSTREAM_WEB_TOKEN_FILE", environ)
    for variable, value in sorted(environ.items()):
        if variable.startswith(VARIABLES) and value:
            _put_variable(layers, variable, value)
    for dotted, value in overrides.items():
        if value is not None:
            origin = "command line" if "." in dotted else f"--{dotted.replace('_', '-')}"
            layers.put(tuple(dotted.split(".")), value, origin)
    return layers


def _put_secret_file(layers: Layers, key: Key, variable: str, environ: Mapping[str, str]) -> None:
    if environ.get(variable):
        try:
            layers.put(key, read_secret(variable, environ), variable)
        except ConfigError as error:
            layers.problems += error.problems


def _put_variable(layers: Layers, variable: str, value: str) -> None:
    name = variable.removeprefix(VARIABLES)
    if name == "WEB_TOKEN":
        layers.put(("web", "token"), value, variable)
    elif "__" in name:
        _put_nested(layers, variable, name.split("__"), value)
    elif name.lower() in TOP_LEVEL:
        layers.put((name.lower(),), value, variable)
    elif name not in (*_OTHER_VARIABLES, *_WEB_TOKEN) and not _SERVICE_LINK.search(name):
        _suspect(layers, variable, name)


def _put_nested(layers: Layers, variable: str, parts: list[str], value: str) -> None:
    section, rest = parts[0].lower(), parts[1:]
    key: Key = (section, *(part.lower() for part in rest))
    if section == "workers":
        key = (section, _group_name(layers, rest[0]), *key[2:])
        if key[2:3] == ("env",) and len(rest) > 2:  # the names of environment variables keep their case
            layers.put((*key[:3], "__".join(rest[2:])), value, variable)
            return
    layers.put(key, _decoded(value), variable)


def _group_name(layers: Layers, part: str) -> str:
    # Variables cannot spell "-" and "." and are written in capitals: the file's spelling of the name counts.
    groups = layers.tree.get("workers")
    for name in groups if isinstance(groups, dict) else ():
        if re.sub(r"[-.]", "_", name).upper() == part.upper():
            return str(name)
    return part.lower()


def _decoded(value: str) -> Any:
    """A list or a table as JSON has it, or as it stands in the file; any other text as it is."""
    if value.lstrip()[:1] not in ("[", "{"):
        return value
    with contextlib.suppress(ValueError):
        return json.loads(value)
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {value}")["value"]
    return value


def _suspect(layers: Layers, variable: str, name: str) -> None:
    """Report what looks like a slip; other variables with our prefix may belong to something else."""
    section = name.split("_")[0].lower()
    if section in SECTIONS and "_" in name:
        hint = f"did you mean {VARIABLES}{section.upper()}__{name.partition('_')[2]}?"
        layers.problems.append(f"{variable}: unknown variable; tables take two underscores: {hint}")
        return
    known = [*(key.upper() for key in TOP_LEVEL), *_OTHER_VARIABLES, *_WEB_TOKEN]
    for close in get_close_matches(name, known, 1, 0.8):
        layers.problems.append(f"{variable}: unknown variable; did you mean {VARIABLES}{close}?")


def normalise_groups(layers: Layers) -> None:
    """Name each group, split a table of queues into names and weights, supply the default group."""
    workers = layers.tree.setdefault("workers", {})
    if workers == {}:
        workers["default"] = {}
    if not isinstance(workers, dict):
        return  # the model says what is wrong
    for name, group in workers.items():
        if isinstance(group, dict):
            _normalise_group(layers, name, group, alone=len(workers) == 1)


def _normalise_group(layers: Layers, name: str, group: dict[str, Any], *, alone: bool) -> None:
    where: Key
    for key in ("name", "weights"):  # fields of the model that are not keys of the table
        if key in group:
            where = ("workers", name, key)
            layers.problems.append(f"{'.'.join(where)} ({layers.nearest_origin(where)}): unknown key")
            del group[key]
    group["name"] = name
    queues = group.get("queues")
    if queues is None and name == "default" and alone:
        group["queues"] = ()  # the queues of all registered jobs
    elif queues in ([], {}, ""):
        where = ("workers", name, "queues")
        layers.problems.append(f"{'.'.join(where)} ({layers.nearest_origin(where)}): must name at least one queue")
        group["queues"] = ()
    elif isinstance(queues, dict):
        group["queues"], group["weights"] = list(queues), queues
