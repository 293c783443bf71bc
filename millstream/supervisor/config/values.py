"""The types of configured values: what they accept, in a file and as the text of a variable."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PlainValidator, SecretStr

from millstream.protocol import signing
from millstream.protocol.location import prefix_problem, url_problem

_NAME = r"[A-Za-z0-9_.-]{1,100}"


class Range(NamedTuple):
    """Bounds for a number of processes that follows the backlog."""

    min: int
    max: int


def _number(value: object) -> object:
    if isinstance(value, bool):  # pydantic would take true for 1
        raise ValueError("must be a number")
    return value


def _processes(value: object) -> int | Literal["auto"] | Range:
    if value == "auto":
        return "auto"
    if isinstance(value, Range):
        return value
    if isinstance(value, dict) and "max" in value and value.keys() <= {"min", "max"}:
        low, high = _whole(value.get("min", 1)), _whole(value["max"])
        if low and high and low <= high:
            return Range(low, high)
    elif count := _whole(value):
        return count
    raise ValueError('must be a whole number of at least 1, "auto", or { min = 1, max = 8 } with min <= max')


def _whole(value: object) -> int:
    """The number if it is a positive whole one, also as text (a variable); else 0."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _queues(value: object) -> object:
    """A list, or as text (a variable) names with commas between them."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _ages(value: object) -> object:
    """A table of seconds by queue, or one number for all of them, which is kept under the name "*"."""
    return value if isinstance(value, dict) else {"*": value}


def _env_value(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _url(value: str) -> str:
    if problem := url_problem(value):
        raise ValueError(problem)
    return value


def _prefix(value: str) -> str:
    if problem := prefix_problem(value):
        raise ValueError(problem)
    return value


def _signing_keys(value: SecretStr) -> SecretStr:
    if problem := signing.problem(value.get_secret_value()):
        raise ValueError(problem)
    return value


def _matching(pattern: str, hint: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"must be {hint}")
        return value

    return AfterValidator(check)


Name = Annotated[str, _matching(_NAME, "1 to 100 letters, digits and . _ -")]
QueueName = Annotated[
    str, _matching(f"{_NAME}(@{_NAME})?", "1 to 100 letters, digits and . _ - (then @tag, if wanted)")
]
AppPath = Annotated[str, _matching(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", 'like "module:object"')]
Bind = Annotated[
    str,
    _matching(r"off|(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):\d{1,5}", 'like "127.0.0.1:7070" or "[::1]:7070", or off'),
]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Concurrency = Annotated[int, BeforeValidator(_number), Field(ge=1, le=1000)]
Niceness = Annotated[int, BeforeValidator(_number), Field(ge=0, le=19)]
Seconds = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
DrainSeconds = Annotated[float, BeforeValidator(_number), Field(ge=0)]  # "inf": wait for ever
BacklogAges = Annotated[dict[str, PositiveSeconds], BeforeValidator(_ages)]
Size = Annotated[ByteSize, BeforeValidator(_number), Field(gt=0)]
Processes = Annotated[int | Literal["auto"] | Range, PlainValidator(_processes)]
EnvValue = Annotated[str, BeforeValidator(_env_value)]
Queues = Annotated[tuple[QueueName, ...], BeforeValidator(_queues)]
RedisURL = Annotated[str, AfterValidator(_url)]
Prefix = Annotated[str, AfterValidator(_prefix)]
SigningKeys = Annotated[SecretStr, AfterValidator(_signing_keys)]
Lease = Annotated[float, BeforeValidator(_number), Field(ge=1, allow_inf_nan=False)]
