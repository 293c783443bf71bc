"""Words what is wrong with a configuration: each problem with its key, its source and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from millstream.protocol.scoreboard import MAX_GROUPS
from millstream.supervisor.config.layers import Key, Layers
from millstream.supervisor.config.models import DeadLetters, Group, Section, Settings, SupervisorSettings, Web
from millstream.supervisor.redaction import is_secret

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_HINTS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "byte_size": 'must be a number of bytes or a size like "512MiB" or "1GiB"',
    "byte_size_unit": 'must be a number of bytes or a size like "512MiB" or "1GiB"',
    "dict_type": "must be a table",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a sensible size",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "string_type": "must be text in quotes",
    "tuple_type": 'must be a list like ["urgent", "reports"] or weights like { urgent = 5, reports = 1 }',
}
_MISSING = {"queues": 'is missing: name the queues that this group serves, like ["default"]'}


def worded(error: ValidationError, layers: Layers) -> list[str]:
    """One line for each error of the model; values that may be secret are not repeated."""
    return [_line(detail, layers) for detail in error.errors(include_url=False)]


def _line(detail: ErrorDetails, layers: Layers) -> str:
    key = _written_key(tuple(str(part) for part in detail["loc"]))
    reason = _reason(detail, key)
    return f"{_dotted(key)} ({layers.nearest_origin(key)}): {reason}"


def _written_key(key: Key) -> Key:
    """The key as it stands in the file, where a group's weights are the values of its queues."""
    if key[:1] == ("workers",) and key[2:3] == ("weights",):
        return (*key[:2], "queues", *key[3:])
    return key


def _dotted(key: Key) -> str:
    text = ".".join(key)
    if len(key) > 1 and key[-2] == "queues" and key[-1].isdecimal():
        return f"{'.'.join(key[:-1])}[{key[-1]}]"
    return text


def _reason(detail: ErrorDetails, key: Key) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{_suggestion(key)}"
    if kind == "missing":
        return _MISSING.get(key[-1], "is missing")
    return f"{_rule(kind, context, detail['msg'])}{_given(detail['input'], key)}"


def _rule(kind: str, context: dict[str, Any], message: str) -> str:
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']:g}"
    if kind == "greater_than":
        return f"must be more than {context['gt']:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    return _HINTS.get(kind, message)


def _given(value: object, key: Key) -> str:
    """The refused value where it is short, plain and no secret."""
    if any(map(is_secret, key)):
        return ""
    if key[-1] == "processes" and isinstance(value, dict):
        value = "{ " + ", ".join(f"{name} = {one}" for name, one in value.items()) + " }"
    if not isinstance(value, str | int | float):
        return ""
    if key[0] == "redis_url" or key[2:3] == ("env",) or "://" in str(value):
        return ""
    text = repr(value) if isinstance(value, str) else str(value).lower()
    return f", not {text}" if len(text) <= 50 else ""


def _suggestion(key: Key) -> str:
    for close in get_close_matches(key[-1], _known(key[:-1]), 1, 0.6):
        return f"; did you mean {close}?"
    return ""


def _known(table: Key) -> list[str]:
    if not table:
        return list(Settings.model_fields)
    if table[0] == "workers":
        return [name for name in Group.model_fields if name not in ("name", "weights")]
    tables: dict[str, type[Section]] = {"supervisor": SupervisorSettings, "dead": DeadLetters}
    return list(tables.get(table[0], Web).model_fields)


def cross_checks(settings: Settings, layers: Layers) -> list[str]:
    """What is wrong between values that are each right."""
    problems: list[tuple[Key, str]] = [
        (("workers", group.name, key), reason)
        for group in settings.workers.values()
        for key, reason in _group_problems(group)
    ]
    supervisor = settings.supervisor
    if supervisor.restart_backoff_max < supervisor.restart_backoff:
        problems.append((("supervisor", "restart_backoff_max"), "must not be below restart_backoff"))
    if len(settings.workers) > MAX_GROUPS:
        problems.append((("workers",), f"has {len(settings.workers)} groups, {MAX_GROUPS} are the most"))
    return [f"{_dotted(key)} ({layers.nearest_origin(key)}): {reason}" for key, reason in problems]


def _group_problems(group: Group) -> Iterator[tuple[str, str]]:
    twice = {queue for queue in group.queues if group.queues.count(queue) > 1}
    if twice:
        yield "queues", f"names {', '.join(sorted(twice))} more than once"
    if group.max_rss and group.memory_limit and group.max_rss >= group.memory_limit:
        yield "max_rss", "must be below memory_limit: a worker is recycled at the one and killed at the other"
