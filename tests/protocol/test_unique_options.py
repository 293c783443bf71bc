"""Which calls have one key, and what an enqueue may be asked for: no server is needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import orjson
import pytest

from millstream import InvalidJob, Millstream
from millstream.protocol.drafts import new_job
from millstream.protocol.envelope import parse_entry
from millstream.protocol.registry import Draft, Job, checked_options
from millstream.protocol.signing import Keyring
from millstream.protocol.transitions import NewJob

app = Millstream()


@app.job
def render(report: int, fmt: str = "pdf", *, pages: dict[str, int] | None = None) -> str:
    return fmt


@app.job
def other(report: int, fmt: str = "pdf", *, pages: dict[str, int] | None = None) -> str:
    return fmt


@app.job(unique_for=60, unique_by=lambda report: f"report {report}", unique_until="started")
def always(report: int) -> None:
    pass


def digest(draft: Draft) -> str:
    assert draft.lock is not None
    return draft.lock.digest


def test_a_call_is_the_same_however_its_arguments_are_passed() -> None:
    unique = render.using(unique_for=60)
    calls = [
        unique.job(1),
        unique.job(report=1),
        unique.job(1, "pdf"),
        unique.job(fmt="pdf", report=1),
        unique.job(1, pages=None),
    ]
    assert len({digest(call) for call in calls}) == 1
    pages = [unique.job(1, pages={"a": 1, "b": 2}), unique.job(1, pages={"b": 2, "a": 1})]
    assert len({digest(call) for call in pages}) == 1


def test_another_call_or_another_name_is_another_key() -> None:
    unique = render.using(unique_for=60)
    calls = [unique.job(1), unique.job(2), unique.job(1, "csv"), unique.job(1, pages={}), unique.job(True)]
    calls += [other.using(unique_for=60).job(1), render.using(unique_for=60, unique_by="1").job(1)]
    assert len({digest(call) for call in calls}) == len(calls)


def test_a_key_that_is_a_text_is_that_of_any_job() -> None:
    keys = {digest(job.using(unique_for=60, unique_by="nightly").job(1)) for job in (render, other)}
    assert len(keys) == 1


def test_a_key_that_is_made_of_the_arguments_is_the_jobs_own() -> None:
    def by(report: int, fmt: str = "pdf", *, pages: dict[str, int] | None = None) -> str:
        return str(report)

    one, two = render.using(unique_for=60, unique_by=by), other.using(unique_for=60, unique_by=by)
    assert digest(one.job(1)) == digest(one.job(1, "csv")) != digest(one.job(2))
    assert digest(one.job(1)) != digest(two.job(1))


def test_the_options_of_a_job_hold_until_an_enqueue_says_otherwise() -> None:
    own = always.job(1).lock
    assert own is not None
    assert (own.lifetime, own.until) == (60_000, "started")
    given = always.using(unique_until="finished").job(1).lock
    assert given is not None
    assert (given.digest, given.until) == (own.digest, "finished")
    assert always.using(unique_for=0).job(1).lock is None
    assert render.job(1).lock is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique_for": -1}, "unique_for -1 is not valid"),
        ({"unique_for": "60"}, "unique_for '60' is not valid"),
        ({"unique_by": "k"}, "unique_by and unique_until need unique_for"),
        ({"unique_until": "started"}, "unique_by and unique_until need unique_for"),
        ({"unique_for": 1, "unique_until": "ended"}, "unique_until 'ended' is not valid: use one of finished, started"),
        ({"unique_for": 1, "unique_by": ""}, "unique_by '' is not valid"),
        ({"unique_for": 1, "unique_by": 5}, "unique_by 5 is not valid"),
        ({"unique_for": 1, "unique_by": "\ud800"}, "unique_by '.*' is not valid"),
        ({"unique_for": 1, "unique_by": lambda *_: 5}, "unique_by of job 'render' returned int, not a text"),
        ({"unique_for": 1, "unique_by": lambda *_: ""}, "unique_by of job 'render' returned str"),
        ({"headers": {"trace": 7}}, "headers are not valid: use a dict of texts by name"),
        ({"headers": [("trace", "7")]}, "headers are not valid: use a dict of texts by name"),
        ({"expires_in": -1}, "expires_in -1 is not valid"),
        ({"expires_in": 5, "deadline": datetime.now(UTC)}, "expires_in and deadline exclude each other"),
        ({"deadline": datetime(2030, 1, 1)}, r"deadline datetime.datetime\(2030.* use an aware datetime"),
        ({"deadline": 1_700_000_000}, "deadline 1700000000 is not valid: use an aware datetime"),
        ({"at": datetime(2030, 1, 1)}, r"at datetime.datetime\(2030.* use an aware datetime"),
        ({"at": "2030-01-01"}, "at '2030-01-01' is not valid: use an aware datetime"),
        ({"delay": 60, "expires_in": 60}, "job 'render' would expire before its time comes"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        new_job(render.using(**options).job(1), None)


def test_a_job_whose_own_options_are_incomplete_is_refused_where_it_is_written() -> None:
    with pytest.raises(InvalidJob, match="unique_by and unique_until need unique_for"):
        app.job(name="incomplete", unique_by="k")(lambda: None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (render, "'render' is a job already: give its function"),
        ("reports", "'reports' cannot be a job: write options by name, and give a function or a name="),
        (partial(print, 1), "cannot be a job: .* give a function or a name="),
    ],
)
def test_what_is_no_function_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        app.job(given)


def sent(job: Job[..., Any], **options: Any) -> NewJob:
    return new_job(job.using(**options).job(1), None)


def test_a_plain_job_has_no_extras() -> None:
    assert sent(render).extras is None
    assert b'"o"' not in sent(render).envelope
    assert sent(render, id="own").extras is None


Word = Literal["expires_in", "deadline"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("expires_in", lambda: 60),
        ("expires_in", lambda: timedelta(minutes=1)),
        ("deadline", lambda: datetime.now(UTC) + timedelta(minutes=1)),
    ],
)
def test_a_deadline_is_sent_as_time_from_now(word: Word, value: Callable[[], object]) -> None:
    extras = sent(render, **{word: value()}).extras
    assert extras is not None
    assert 55_000 < extras["expires"] <= 60_000


def test_a_deadline_that_is_over_is_accepted() -> None:
    """So that a producer's clock is no reason to fail: the job is not started."""
    assert sent(render, deadline=datetime.now(UTC) - timedelta(days=1)).extras == {"expires": 1}
    assert sent(render, expires_in=0).extras == {"expires": 1}


def test_very_long_is_for_ever() -> None:
    extras = sent(render, unique_for=1e300, expires_in=timedelta.max).extras
    assert extras is not None
    assert extras["unique_for"] == extras["expires"] < 2**52


def test_a_signed_job_says_what_it_holds_all_the_same() -> None:
    ring = Keyring.parse("key:" + "s" * 32)
    sent = new_job(render.using(unique_for=60, unique_until="started", expires_in=60, id="own").job(1), ring)
    fields = [b"id", sent.id.encode(), b"env", sent.envelope]
    entry = parse_entry("n", b"1-0", fields, "default", ring)
    assert (entry.holds, entry.guarded) == (True, True)


@pytest.mark.parametrize("options", [{"unique": 5}, {"unique": None}, {"expires": "soon"}, {"expires": [1]}])
def test_forged_options_are_no_reason_to_fail(options: dict[str, object]) -> None:
    """Their values are not relied upon: what a job has is in its record."""
    envelope = orjson.dumps({"v": 1, "n": "render", "q": "q", "t": 1, "o": options})
    entry = parse_entry("n", b"1-0", [b"id", b"j", b"env", envelope], "q")
    assert entry.holds or entry.guarded


def test_options_of_code_that_does_not_have_the_function() -> None:
    assert checked_options(unique_for=5).unique is not None
    assert checked_options().unique is None
