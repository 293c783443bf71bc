"""The envelope and the counters beside it: what is written is read, and nothing else is taken for a job."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.protocol.envelope import VERSION, Malformed, TooNew, encode_envelope, parse_entry
from millstream.protocol.errors import MillstreamError, NotJSON, PayloadTooLarge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)

QUICK = settings(deadline=None, database=None)  # a busy machine is no error; nothing is kept


@QUICK
@given(
    args=st.lists(JSON, max_size=3), kwargs=st.dictionaries(st.text("xyz", min_size=1, max_size=3), JSON, max_size=3)
)
def test_what_is_written_is_read(args: list[object], kwargs: dict[str, object]) -> None:
    encoded = encode_envelope("n", args, kwargs, queue="q", enqueued_at=5, priority="high", headers={"t": "1"})
    entry = parse_entry("h", b"7-1", [b"id", b"x", b"env", encoded], "q")
    assert (entry.ref, entry.id, entry.name, entry.queue) == ("h7-1", "x", "n", "q")
    assert (entry.args, entry.kwargs) == (orjson.loads(orjson.dumps(args)), orjson.loads(orjson.dumps(kwargs)))
    assert (entry.priority, entry.enqueued_at, entry.headers) == ("high", 5, {"t": "1"})
    assert (entry.run, entry.attempt, entry.crashes, entry.alone) == (1, 0, 0, False)


def test_what_is_empty_or_default_is_left_out() -> None:
    encoded = encode_envelope("n", [], {}, queue="q", enqueued_at=5)
    assert orjson.loads(encoded) == {"v": VERSION, "n": "n", "q": "q", "t": 5}


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(NotJSON, match=r"^argument\[0\] is not JSON: set has no JSON form$"):
        encode_envelope("n", [{1}], {}, queue="q", enqueued_at=5)
    with pytest.raises(NotJSON, match=r"^keyword argument\['k'\] is not JSON: set has no JSON form$"):
        encode_envelope("n", [], {"k": {1}}, queue="q", enqueued_at=5)
    with pytest.raises(PayloadTooLarge, match=r"^job 'n' is 2,097,"):
        encode_envelope("n", ["x" * 2**21], {}, queue="q", enqueued_at=5)


def test_counters_are_read() -> None:
    encoded = encode_envelope("n", [], {}, queue="q", enqueued_at=5)
    counters = [b"run", b"4", b"attempt", b"2", b"crashes", b"1", b"alone", b"1"]
    entry = parse_entry("a", b"7-1", [b"id", b"x", b"env", encoded, *counters], "q")
    assert (entry.run, entry.attempt, entry.crashes, entry.alone) == (4, 2, 1, True)


def test_a_newer_version_is_told_apart() -> None:
    with pytest.raises(TooNew, match=f"envelope version {VERSION + 1}, this worker knows {VERSION}"):
        parse_entry("n", b"1-0", [b"id", b"x", b"env", orjson.dumps({"v": VERSION + 1})], "q")


@QUICK
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_raises_nothing_else(fields: list[bytes]) -> None:
    with pytest.raises(MillstreamError) as caught:
        parse_entry("n", b"1-0", fields, "q")
    assert isinstance(caught.value, Malformed)


@QUICK
@given(st.dictionaries(st.sampled_from("vnaktpohq"), JSON | st.text(max_size=5)))
def test_json_that_is_no_envelope_raises_nothing_else(envelope: dict[str, object]) -> None:
    """Whatever passes has the types that the worker relies on."""
    try:
        entry = parse_entry("n", b"1-0", [b"id", b"x", b"env", orjson.dumps(envelope)], "q")
    except (Malformed, TooNew):
        return
    assert isinstance(entry.name, str)
    assert isinstance(entry.args, list)
    assert isinstance(entry.kwargs, dict)
    assert isinstance(entry.options, dict)
    assert isinstance(entry.headers, dict)
    assert isinstance(entry.enqueued_at, int)
    assert entry.priority in ("critical", "high", "normal", "low")
