"""What is JSON, what is not and why, and how large it may be."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import uuid
from decimal import Decimal
from pathlib import PurePosixPath

import orjson
import pytest
from pydantic import BaseModel

from millstream.protocol.errors import NotJSON, PayloadTooLarge
from millstream.protocol.payload import MAX_PAYLOAD, checked_size, encode


@dataclasses.dataclass
class Point:
    x: object
    y: object = 0


class Model(BaseModel):
    name: str
    at: datetime.datetime


NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)

GOOD: list[tuple[object, object]] = [
    (None, None),
    ([1, 2.5, "ü", True], [1, 2.5, "ü", True]),
    ((1, (2,)), [1, [2]]),
    ({"a": {"b": None}}, {"a": {"b": None}}),
    (2**64 - 1, 2**64 - 1),
    (-(2**63), -(2**63)),
    (b"\xff!", base64.b64encode(b"\xff!").decode()),
    (bytearray(b"x"), "eA=="),
    (Decimal("1.50"), "1.50"),
    (PurePosixPath("/a/b"), "/a/b"),
    (NOON, "2026-01-02T12:00:00+00:00"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Point(1, [2]), {"x": 1, "y": [2]}),
    (Model(name="n", at=NOON), {"name": "n", "at": "2026-01-02T12:00:00Z"}),
    ("null", "null"),
    ([None, "null"], [None, "null"]),
]


@pytest.mark.parametrize(("value", "plain"), GOOD, ids=[repr(value)[:40] for value, _ in GOOD])
def test_what_json_carries(value: object, plain: object) -> None:
    assert orjson.loads(encode(value, "argument")) == plain


BAD: list[tuple[object, str]] = [
    ({1, 2}, "argument is not JSON: set has no JSON form"),
    ([1, {2}], "argument[1] is not JSON: set has no JSON form"),
    ({"a": [0, {"b": object()}]}, "argument['a'][1]['b'] is not JSON: object has no JSON form"),
    ({1: "x"}, "argument is not JSON: the key 1 is not a string"),
    ({"a": {None: 1}}, "argument['a'] is not JSON: the key None is not a string"),
    (float("nan"), "argument is not JSON: nan has no JSON form"),
    ([0.0, float("inf")], "argument[1] is not JSON: inf has no JSON form"),
    ({"x": float("-inf")}, "argument['x'] is not JSON: -inf has no JSON form"),
    (2**64, "argument is not JSON: the integer is beyond 64 bits"),
    ([-(2**63) - 1], "argument[0] is not JSON: the integer is beyond 64 bits"),
    ("\ud800", "argument is not JSON: the string holds a lone surrogate, which UTF-8 cannot encode"),
    ({"a": ["\udc00"]}, "argument['a'][0] is not JSON: the string holds a lone surrogate, which UTF-8 cannot encode"),
    ({"\ud800": 1}, "argument is not JSON: the string holds a lone surrogate, which UTF-8 cannot encode"),
    (1j, "argument is not JSON: complex has no JSON form"),
    (lambda: 0, "argument is not JSON: function has no JSON form"),
    (Point(1, {2}), "argument.y is not JSON: set has no JSON form"),
    (Point(float("nan")), "argument.x is not JSON: nan has no JSON form"),
    (range(3), "argument is not JSON: range has no JSON form"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[message for _, message in BAD])
def test_what_json_does_not_carry(value: object, message: str) -> None:
    with pytest.raises(NotJSON) as caught:
        encode(value, "argument")
    assert str(caught.value) == message


def test_what_is_cyclic_is_refused() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(NotJSON, match=r"^argument is not JSON: it is nested too deeply, or contains itself$"):
        encode(cycle, "argument")


def test_the_size_limit_is_exact() -> None:
    assert checked_size(b"x" * MAX_PAYLOAD, "it")
    with pytest.raises(PayloadTooLarge) as caught:
        checked_size(b"x" * (MAX_PAYLOAD + 1), "job 'render'")
    assert str(caught.value) == (
        "job 'render' is 1,048,577 bytes, the limit is 1,048,576: store the data elsewhere and pass a reference to it"
    )
