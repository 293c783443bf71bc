"""The tables of the configuration against the models: every key, its type, its default; every variable."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, SecretStr

from millstream.protocol.location import TOP_LEVEL
from millstream.supervisor import config
from millstream.supervisor.config import layers, models, values
from tests.docs.documents import DOCS, blocks, code, rows, sections

TEXT = (DOCS / "configuration.md").read_text()
SECTIONS = sections(TEXT)

TYPES = {
    "Name": "name",
    "Queues": "list of names, or table of weights",
    "Processes": 'count, "auto" or { min, max }',
    "Count": "count",
    "Seconds": "seconds",
    "PositiveSeconds": "seconds > 0",
    "Concurrency": "1 to 1000",
    "Niceness": "0 to 19",
    "DrainSeconds": 'seconds or "inf"',
    "Lease": "seconds >= 1",
    "Size": "size",
    "AppPath": "module:object",
    "RedisURL": "URL",
    "Prefix": "prefix",
    "Bind": 'host:port or "off"',
    "BacklogAges": "seconds, or table of seconds",
    "SigningKeys": "secret",
}
"""How the document calls the types of config/values.py."""

PLAIN: list[tuple[object, str]] = [
    (bool, "true or false"),
    (SecretStr, "secret"),
    (dict[str, values.EnvValue], "table of texts"),
]

TABLES: list[tuple[str, type[BaseModel], set[str]]] = [
    ("Top level", models.Settings, {"workers", "supervisor", "web", "dead"}),
    ("`[workers.NAME]`", models.Group, {"name", "weights"}),
    ("`[supervisor]`", models.SupervisorSettings, set()),
    ("`[web]`", models.Web, set()),
    ("`[dead]`", models.DeadLetters, set()),
]


def type_word(hint: Any) -> str:
    """How the document calls a type of a field; one that may be None is called like itself."""
    alternatives = get_args(hint)
    if NoneType in alternatives:
        hint = alternatives[0]
    if isinstance(choices := get_args(hint), tuple) and choices and all(isinstance(one, str) for one in choices):
        return " or ".join(choices)
    named = next((word for name, word in TYPES.items() if getattr(values, name) == hint), None)
    return named or next(word for plain, word in PLAIN if plain == hint)


def described(model: type[BaseModel], left_out: set[str]) -> Iterator[tuple[str, str, object]]:
    """Key, type and default of every field, in the document's words."""
    hints = get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        if name in left_out:
            continue
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        yield name, type_word(hints[name]), "none" if default is None else default


@pytest.mark.parametrize(("title", "model", "left_out"), TABLES, ids=[table[0] for table in TABLES])
def test_every_key_is_documented(title: str, model: type[BaseModel], left_out: set[str]) -> None:
    table = rows(SECTIONS[title])
    shown = [(code(key)[0], kind.replace("`", ""), _default(default)) for key, kind, default, _ in table]
    expected = list(described(model, left_out))
    if model is models.SupervisorSettings:
        expected[0] = ("name", "name", "the host's name")
    assert sorted(shown, key=str) == sorted(expected, key=str)


def _default(cell: str) -> object:
    """A default as the document writes it: TOML in backticks, or a word."""
    values = code(cell)
    return tomllib.loads(f"value = {values[0]}")["value"] if values else cell


def test_every_variable_is_documented() -> None:
    names = {name.upper() for name in TOP_LEVEL}
    names |= {*layers._OTHER_VARIABLES, *layers._WEB_TOKEN}
    expected = {f"MILLSTREAM_{name}" for name in names} | {"REDIS_URL"}
    assert {code(row[0])[0] for row in rows(SECTIONS["Variables"])} == expected


def test_the_examples_are_valid(tmp_path: Path) -> None:
    (tmp_path / "millstream.toml").write_text(blocks(TEXT, "toml")[0].text)
    settings = [part for part in code(SECTIONS["Variables"]) if "=" in part]
    environ = dict(part.split("=", 1) for part in settings)
    loaded = config.load(folder=tmp_path, environ=environ)
    assert loaded.workers["mail"].weights == {"newsletters": 1, "receipts": 5}
    assert loaded.workers["reports"].processes == 8 and loaded.workers["reports"].env["TZ"] == "UTC"
    assert loaded.supervisor.lease == 10
    assert len(environ) == 4
