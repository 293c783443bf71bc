"""What a handler's hints make of its arguments: checked when it is enqueued, rebuilt when it runs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, computed_field
from typing_extensions import TypedDict

from millstream import InvalidJob, Millstream, NotJSON, WrongArguments, WrongResult
from millstream.protocol.contract import Contract, contract_of, rebuilding
from millstream.protocol.payload import encode
from tests.support.supervised import ROOT

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

app = Millstream(redis_url="unix:///nowhere", prefix="t00000000:")
UserId = NewType("UserId", int)
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
ONE = uuid.UUID(int=1)


class Color(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    GO = "go"


class Pair(NamedTuple):
    key: uuid.UUID
    number: int = 1


class Stamp(TypedDict):
    at: dt.datetime


@dataclasses.dataclass
class Point:
    x: int
    at: dt.datetime | None = None
    raw: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Node:
    children: list[Node]
    price: Decimal


@dataclasses.dataclass
class Sum:
    parts: list[int]
    total: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(self.parts)


@dataclasses.dataclass
class Hidden:
    _x: int = 1


class Model(BaseModel):
    number: int = Field(alias="no")
    seen: set[int] = set()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.number


class Special(Model):
    extra: int = 0


class Secret(BaseModel):
    word: SecretStr


def one_of(hint: object) -> Contract:
    """The contract of a function with one parameter of this hint."""

    def handler(it: Any) -> None:
        """Nothing."""

    handler.__annotations__ = {"it": hint}
    return Contract(handler)


ARRIVES: list[tuple[object, object]] = [
    (int, True),
    (float, 1),
    (UserId, 5),
    (int | None, None),
    (Literal["a", 2], 2),
    (list[list[int]], [[1], []]),
    (Mapping[str, Sequence[int]], {"a": [1]}),
    (list[int] | dict[str, str], {"a": "b"}),
    (Sequence[str], "text"),
    (object, {"a": [None]}),
    (dict[str, Any], {"a": 1}),
    (dt.datetime, NOON),
    (dt.datetime, dt.datetime(2026, 1, 2)),
    (dt.datetime | str, "soon"),
    (dt.datetime | dt.date, dt.date(2026, 1, 2)),
    (dt.timedelta, dt.timedelta(days=-3, microseconds=7)),
    (Decimal, Decimal("1E+5")),
    (Decimal | float, 1.5),
    (Decimal | float, Decimal("1.50")),
    (str | Path, "a"),
    (bytes, bytes(range(256))),
    (bytes | str, "hello"),
    (uuid.UUID | None, ONE),
    (list[uuid.UUID], [ONE]),
    (Iterable[uuid.UUID], [ONE]),
    (dict[str, uuid.UUID], {"a": ONE}),
    (tuple[uuid.UUID, ...], (ONE, ONE)),
    (Color, Color.RED),
    (Word, Word.GO),
    (Pair, Pair(ONE)),
    (Stamp, {"at": NOON}),
    (Point, Point(1, NOON, b"\xff")),
    (list[Point] | None, [Point(1)]),
    (Sum, Sum([1, 2])),
    (Model, Model(no=3, seen={1})),
    (Model | Point, Point(4)),
    (Annotated[int, Field(gt=3)], 5),
    (Annotated[uuid.UUID, "any note"], ONE),
]


@pytest.mark.parametrize(("hint", "value"), ARRIVES, ids=[f"{hint}-{value}"[:60] for hint, value in ARRIVES])
def test_what_is_passed_is_what_arrives(hint: object, value: object) -> None:
    contract = one_of(hint)
    contract.check("job", (value,), {})
    contract.check("job", (), {"it": value})
    (arrived,), _ = contract.rebuilt("job", (orjson.loads(encode(value, "it")),), {})
    assert arrived == value
    assert type(arrived) is type(value) or hint is float
    assert not contract.unusable


REFUSED: list[tuple[object, object, str]] = [
    (int, "abc", ": expected int, got str"),
    (int, None, ": expected int, got NoneType"),
    (int, 1.0, ": expected int, got float"),
    (str, 1, ": expected str, got int"),
    (UserId, "1", ": expected int, got str"),
    (Literal["a"], "b", ": expected Literal['a'], got str"),
    (list[int], [1, "x"], "[1]: expected int, got str"),
    (list[int], (1,), ": expected list[int], got tuple"),
    (dict[str, list[int]] | None, {"a": [1, None]}, "['a'][1]: expected int, got NoneType"),
    (int | str, 1.5, ": expected int | str, got float"),
    (dt.datetime, "2026-01-01", ": expected datetime.datetime, got str, which would arrive as datetime"),
    (dt.date, NOON, ": expected datetime.date, got datetime ("),
    (dt.timedelta, 5, ": expected datetime.timedelta, got int, which would arrive as timedelta"),
    (bytes, "abcd", ": expected bytes, got str, which would arrive as bytes"),
    (Color, "red", "Color, got str, which would arrive as Color"),
    (str | Path, Path("a"), ": expected str | pathlib.Path, got PosixPath, which would arrive as str"),
    (list[uuid.UUID], [str(ONE)], "[0]: got str, which would arrive as UUID"),
    (tuple[int, ...], [1], ": expected tuple[int, ...], got list, which would arrive as tuple"),
    (Point, Point("1"), ".x: got str, which would arrive as int"),  # type: ignore[arg-type]
    (Node, Node([Node([], 1.5)], Decimal(1)), ".children[0].price: got float, which would arrive as Decimal"),  # type: ignore[arg-type]
    (Hidden, Hidden(2), "._x: got int, which would not arrive as it is"),
    (Model, Special(no=1), "Model, got Special, which would arrive as Model"),
    (Secret, Secret(word=SecretStr("x")), ".word: got SecretStr, which would not arrive as it is"),
    (Stamp, {"at": NOON, "more": 1}, "['more']: got int, which would arrive as nothing"),
    (Annotated[int, Field(gt=3)], 2, "got int (expected greater than 3)"),
    (set[uuid.UUID], [ONE], ": expected set[uuid.UUID], got list, which would arrive as set"),
    (dt.datetime, dt.datetime(1800, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "which would not arrive as it is"),
]


@pytest.mark.parametrize(("hint", "value", "message"), REFUSED, ids=[f"{one[0]}-{one[1]}"[:60] for one in REFUSED])
def test_what_would_not_arrive_as_it_is(hint: object, value: object, message: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        one_of(hint).check("job", (value,), {})
    assert str(caught.value).startswith("job(): parameter 'it'")
    assert message in str(caught.value)
    if isinstance(value, str) and len(value) > 2:
        assert value not in str(caught.value), "no values in errors: they may be logged"


def test_times_in_the_hour_that_repeats() -> None:
    at = dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    one_of(dt.datetime).check("job", (at,), {})
    (arrived,), _ = one_of(dt.datetime).rebuilt("job", (orjson.loads(encode(at, "it")),), {})
    assert arrived.isoformat() == at.isoformat() == "2026-10-25T02:30:00+01:00"


def test_a_subclass_is_refused_however_it_compares() -> None:
    @dataclasses.dataclass
    class Loose:
        x: int

        def __eq__(self, other: object) -> bool:
            return True

    @dataclasses.dataclass(eq=False)
    class Looser(Loose):
        pass

    with pytest.raises(InvalidJob, match="got Looser, which would arrive as Loose"):
        one_of(Loose).check("job", (Looser(1),), {})


def test_what_is_no_json_is_named_with_its_parameter() -> None:
    with pytest.raises(NotJSON, match=r"^job\(\): parameter 'it'\.at is not JSON: set has no JSON form$"):
        one_of(Point).check("job", (Point(1, {1}),), {})  # type: ignore[arg-type]
    with pytest.raises(NotJSON, match="nan has no JSON form"):
        one_of(list[float] | Point).check("job", ([float("nan")],), {})


@app.job
def every_way(a: int, /, b: uuid.UUID, *more: dt.date, c: Color = Color.RED, **rest: bytes) -> list[uuid.UUID]:
    """Each kind of parameter."""
    return [a, b, more, c, rest]  # type: ignore[list-item]


def test_every_kind_of_parameter() -> None:
    day = dt.date(2026, 1, 2)
    every_way.job(1, ONE, day, day, c=Color.RED, x=b"\xff")
    assert every_way.handler(1, str(ONE), "2026-01-02", c="red", x="/w==") == [
        *(1, ONE, (day,), Color.RED),
        {"x": b"\xff"},
    ]
    assert every_way.handler(1, b=str(ONE)) == [1, ONE, (), Color.RED, {}]
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((1, ONE, day, "x"), {}, "parameter 'more'[1]: expected datetime.date, got str"),
        ((1, ONE), {"x": "y"}, "parameter 'rest'['x']: expected bytes, got str"),
        ((1,), {"b": 5}, "parameter 'b': expected uuid.UUID, got int"),
        ((1,), {}, "missing a required argument: 'b'"),
    ]
    for args, kwargs, message in wrong:
        with pytest.raises(InvalidJob) as caught:
            every_way.job(*args, **kwargs)
        assert message in str(caught.value)


def test_what_arrives_but_does_not_fit() -> None:
    arrived: list[tuple[tuple[Any, ...], str]] = [
        ((1, "no id"), "parameter 'b': expected uuid.UUID, got str"),
        ((1, str(ONE), 7.5), "parameter 'more'[0]: expected datetime.date, got float"),
        ((1, [[]]), "parameter 'b': expected uuid.UUID, got list"),
        ((), "missing a required argument: 'a'"),
    ]
    for args, message in arrived:
        with pytest.raises(WrongArguments) as caught:
            every_way.handler(*args)
        assert message in str(caught.value)
    deep: list[Any] = []
    for _ in range(900):  # as orjson still reads it
        deep = [deep]
    with pytest.raises(WrongArguments, match="cannot be read"):
        every_way.handler(1, deep)


def test_results() -> None:
    contract = contract_of(every_way.fn)
    assert contract.result("every_way", [str(ONE)]) == [ONE]
    assert contract.result("every_way", None) is None, "no result is kept"
    with pytest.raises(WrongResult, match=r"the result of every_way\(\), at \[0\]: .* info\(\)\.result has it"):
        contract.result("every_way", [5])


def test_a_default_of_none_may_be_passed() -> None:
    def handler(number: int = None, at: dt.datetime = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        """As people write."""

    contract = Contract(handler)
    contract.check("job", (None, None), {})
    assert contract.rebuilt("job", (None, None), {})[0] == (None, None)


def takes_unknown(a: Unknown, b: uuid.UUID, c, d: list[Unknown]) -> Unknown:  # type: ignore[no-untyped-def]
    """Hints that exist for a type checker only, and none."""


def test_hints_that_cannot_be_used_count_as_none() -> None:
    contract = Contract(takes_unknown)
    contract.check("job", ("x", ONE, 2, [4]), {})
    args, _ = contract.rebuilt("job", ("x", str(ONE), NOON, [4]), {})
    assert args == ("x", ONE, NOON, [4])
    assert contract.result("job", "x") == "x"
    assert set(contract.unusable) == {"a", "d", "return"}
    assert contract.unusable["a"] == "NameError: name 'Unknown' is not defined"
    with pytest.raises(InvalidJob, match="parameter 'b'"):
        contract.check("job", ("x", "y", 2, [4]), {})


def test_functions_that_tell_nothing_are_taken_as_they_are() -> None:
    class Callme:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, at: dt.date) -> None:
            """An object that is called."""

    contract_of(Callme()).check("job", (dt.date(2026, 1, 1),), {})
    assert rebuilding("job", dict.fromkeys) is not None
    contract_of(min).check("job", (1, 2), {})


def test_plain_handlers_are_called_directly() -> None:
    def plain(a: int, b: dict[str, list[float | None]], c: Literal["x"] = "x", *d: str, e: Any = 1) -> None:
        """Nothing but JSON."""

    assert rebuilding("job", plain) is plain
    assert contract_of(plain) is contract_of(plain)
    assert rebuilding("job", every_way.fn) is not every_way.fn


def test_plain_programs_do_not_wait_for_pydantic() -> None:
    program = (
        "import sys; from millstream import Millstream; app = Millstream()\n"
        "def f(a: int, b: list[str]) -> dict[str, int]: ...\n"
        "app.job(f).job(1, ['a']); print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_by_name_a_call_is_checked_but_its_result_is_plain() -> None:
    with pytest.raises(InvalidJob, match="parameter 'b'"):
        app._named_draft("every_way", (1, "x"), {}, None)
    assert app._named_draft("every_way", (1, ONE), {}, None).job is None
    assert every_way.using(delay=5).job(1, ONE).job is not None


QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUES = st.sampled_from([1, True, "a", None, 1.5, [1], ["a"], {"a": 1}])
FUNCTIONS: list[Callable[..., Any]] = []


def _shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    FUNCTIONS.append(function)
    return function


@_shapes
def _first(a: int, b: str = "") -> None: ...
@_shapes
def _second(a: int, /, b: list[int], *, c: float | None = None, d: str) -> None: ...
@_shapes
def _third(a: Any, *b: int, **c: str) -> None: ...
@_shapes
def _fourth(*, a: dict[str, int] | None, b=None) -> None: ...  # type: ignore[no-untyped-def]


@QUICK
@given(st.sampled_from(FUNCTIONS), st.lists(VALUES, max_size=3), st.dictionaries(st.sampled_from("abcde"), VALUES))
def test_the_quick_answer_is_the_long_one(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> None:
    """A call that is right at first sight is right when it is looked at, and passes as it was made."""
    contract = contract_of(function)
    quick = contract._plain_calls.fits(tuple(args), kwargs)
    try:
        bound = contract.signature.bind(*args, **kwargs)
        for name, part, value in contract._values(bound):
            contract._check(part, name, value)
    except (TypeError, InvalidJob):
        assert not quick
        with pytest.raises(InvalidJob):
            contract.check("job", tuple(args), kwargs)
    else:
        contract.check("job", tuple(args), kwargs)
        assert quick or None in [*args, *kwargs.values()] or function is _third


_TIMES = st.datetimes(timezones=st.sampled_from([None, dt.UTC, ZoneInfo("Asia/Kolkata")])).filter(
    lambda at: at.year > 1950
)
_NODES = st.recursive(
    st.builds(Node, st.just([]), st.decimals(allow_nan=False, allow_infinity=False)),
    lambda inner: st.builds(Node, st.lists(inner, max_size=3), st.decimals(allow_nan=False, allow_infinity=False)),
    max_leaves=6,
)
_TYPED: list[tuple[object, st.SearchStrategy[Any]]] = [
    (bytes, st.binary()),
    (dt.timedelta, st.timedeltas(dt.timedelta(-90_000), dt.timedelta(90_000))),
    (dt.datetime, _TIMES),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Point, st.builds(Point, st.integers(-(2**63), 2**63), st.none() | _TIMES, st.binary())),
    (Node, _NODES),
    (dict[str, list[uuid.UUID]], st.dictionaries(st.text(), st.lists(st.uuids(), max_size=3), max_size=3)),
]


@QUICK
@given(st.sampled_from(_TYPED).flatmap(lambda one: st.tuples(st.just(one[0]), one[1])))
def test_any_value_arrives(case: tuple[object, Any]) -> None:
    contract = one_of(case[0])
    contract.check("job", (case[1],), {})
    (arrived,), _ = contract.rebuilt("job", (orjson.loads(encode(case[1], "it")),), {})
    assert encode(arrived, "it") == encode(case[1], "it")
    assert type(arrived) is type(case[1])
