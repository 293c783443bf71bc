"""Calls as values: what they send, and what they make of replies."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.protocol import transitions
from millstream.protocol.call import Call
from millstream.protocol.keys import Keys
from millstream.protocol.transitions import Kind, NewJob, Outcome, Verdict, all_keys

QUICK = settings(deadline=None, database=None)

KEYS = Keys("p:").queue("q")
PLAIN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@QUICK
@given(PLAIN, PLAIN, st.sampled_from(Kind), st.integers(0, 2**53), st.binary(max_size=100), st.booleans())
def test_an_outcome_survives_the_outbox(
    ref: str, job_id: str, kind: Kind, number: int, row: bytes, holds: bool
) -> None:
    outcome = Outcome(ref, job_id, kind, number, row, holds)
    assert Outcome.unpack(outcome.pack()) == outcome


def test_an_outcome_that_an_older_version_has_left_in_the_outbox_is_read() -> None:
    assert Outcome.unpack(b"n1-0\0j\0completed\x005\0{}") == Outcome("n1-0", "j", "completed", 5, b"{}", holds=False)


def test_the_order_of_the_keys_is_that_of_the_scripts() -> None:
    head = (resources.files("millstream.protocol.scripts") / "_keys.lua").read_text()
    listed = re.findall(r"(?:^|[;,\s])(\d+) (\w+)", " ".join(re.findall(r"^--(.*)$", head, re.M)))
    names = {int(number): name for number, name in listed}
    found = all_keys(KEYS)
    assert len(found) == max(names)
    assert [key.rpartition(":")[2] for key in found[:5]] == ["again", "critical", "high", "normal", "low"]
    plain = {"records": "job:", "waits": "wait:", "uniques": "unique:"}
    for number, name in names.items():
        if number > 5:
            assert found[number - 1] == f"{KEYS.base}{plain.get(name, name)}"


def test_verdicts_are_told_apart() -> None:
    outcomes = [Outcome(f"n{number}-0", f"j{number}", Kind.COMPLETED, 1, b"{}") for number in range(5)]
    call = transitions.settle(KEYS, "i:g/0:1", outcomes, 60.0)
    assert call.parse([2, 0, 3, 2, 5, b"ERR bad"]) == [
        (Verdict.OK, ""),
        (Verdict.STALE, ""),
        (Verdict.ALREADY, ""),
        (Verdict.OK, ""),
        (Verdict.ERROR, "ERR bad"),
    ]
    command = call.evalsha()
    assert command[0] == "EVALSHA"
    assert command[2] == len(all_keys(KEYS))
    assert len(command) == 3 + len(all_keys(KEYS)) + 2 + 5 * 5


def test_an_enqueue_sends_five_arguments_for_each_job() -> None:
    jobs = [NewJob("a", "high", b"{}", None, ""), NewJob("b", "low", b"{}", 500, "n")]
    call = transitions.enqueue(KEYS, jobs)
    assert list(call.args) == ["a", "h", b"{}", "", "", "b", "l", b"{}", 500, "n"]
    assert call.parse([1, 0]) == [True, False]


def test_every_key_of_a_call_lies_in_one_slot() -> None:
    for keys in (KEYS, Keys("p:").queue("q", "tag")):
        tag = "{tag}" if keys.tag else "{q}"
        calls: list[Call[Any]] = [
            transitions.enqueue(keys, [NewJob("a", "high", b"{}", None, "")]),
            transitions.join(keys, "i", 1.0),
            transitions.fetch(keys, "c", 1),
            transitions.settle(keys, "c", []),
            transitions.inspect(keys, "a"),
            transitions.await_end(keys, "a", 1),
            transitions.begin(keys, "a", "n1-0", "c", alone=True),
            transitions.renew(keys, "c", []),
        ]
        assert all(tag in key for call in calls for key in call.keys)
