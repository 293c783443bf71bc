"""Every effective value of the configuration with its source, as ``config show`` prints it."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import SecretStr

from millstream.supervisor.config.layers import Layers
from millstream.supervisor.config.models import Group, Section, Settings
from millstream.supervisor.config.values import Range
from millstream.supervisor.redaction import MASK, is_secret, redact


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
