"""Arguments and results as jobs.md and wire-format.md describe them."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson
import pytest

from millstream import InvalidJob, Millstream
from millstream.protocol.contract import Contract
from millstream.protocol.payload import encode
from tests.docs.documents import DOCS, blocks, code, rows, sections
from tests.support.supervised import Supervised

SECTION = sections((DOCS / "jobs.md").read_text())["Arguments and results"]
WIRE = sections((DOCS / "wire-format.md").read_text())["Arguments and results in JSON"]
EXAMPLE = blocks(SECTION, "python")[0].text
TABLE = [[code(cell)[0] for cell in row] for row in rows(SECTION)]
FORMS = [row for row in TABLE if len(row) == 3]
CALLS = [row for row in TABLE if len(row) == 2]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names of the example."""
    scope: dict[str, Any] = {}
    exec(compile(EXAMPLE, "example", "exec", dont_inherit=True), scope)  # as it stands there
    return scope


def _contract(names: dict[str, Any], hint: str) -> Contract:
    scope = dict(names)
    exec(f"def handler(it: {hint}): ...", scope)
    return Contract(scope["handler"])


@pytest.mark.parametrize(("hint", "passed", "json"), FORMS, ids=[row[0] for row in FORMS])
def test_what_is_passed_is_what_arrives(names: dict[str, Any], hint: str, passed: str, json: str) -> None:
    value = eval(passed, dict(names))
    contract = _contract(names, hint)
    contract.check("job", (value,), {})
    sent = encode(value, "it")
    assert orjson.loads(sent) == orjson.loads(json)
    (arrived,), _ = contract.rebuilt("job", (orjson.loads(sent),), {})
    assert (arrived, type(arrived)) == (value, type(value))


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[row[0] for row in CALLS])
def test_wrong_calls(names: dict[str, Any], call: str, message: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        eval(call, dict(names))
    assert str(caught.value) == message


def test_the_example_through_a_worker(
    supervise: Callable[..., Supervised], names: dict[str, Any], url: str, prefix: str
) -> None:
    names["app"].connect_to(url, prefix)
    up = supervise(EXAMPLE)
    call, result = re.findall(r"`(total\.enqueue[^`]*)` is `([^`]*)`", SECTION)[0]
    assert eval(call.replace("result()", "result(20)"), dict(names)) == eval(result) == Decimal("10.00")
    named = names["app"].enqueue("total", names["invoice"])
    assert named.result(20) == "10.00"
    assert Millstream(redis_url=url, prefix=prefix).handle(named.id, named.queue).result(20) == "10.00"
    names["app"].client.close()
    up.stop()


ALSO: list[tuple[str, object, str]] = [
    ("datetime", 0, "datetime(1970, 1, 1, tzinfo=UTC)"),
    ("timedelta", "P1DT2H", "timedelta(hours=26)"),
    ("UUID", "018f4e2a000070008000000000000042", 'UUID("018f4e2a-0000-7000-8000-000000000042")'),
    ("Decimal", 9.9, 'Decimal("9.9")'),
    ("bytes", "_wA", 'b"\\xff\\x00"'),
    ("Size", {"width": 4, "height": 3}, "Size(4, 3)"),
]


@pytest.mark.parametrize(("hint", "json", "value"), ALSO, ids=[one[0] for one in ALSO])
def test_what_is_also_read(names: dict[str, Any], hint: str, json: object, value: str) -> None:
    (arrived,), _ = _contract(names, hint).rebuilt("job", (json,), {})
    assert arrived == eval(value, dict(names))


def test_the_wire_format_speaks_of_every_kind() -> None:
    explained = set(code(WIRE))
    assert explained >= {"datetime", "date", "time", "timedelta", "UUID", "Decimal", "Path", "bytes", "Enum", "tuple"}
