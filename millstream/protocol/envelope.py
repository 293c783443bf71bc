"""What a stream entry carries: the envelope (fixed at enqueue) and the counters (new with each delivery)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from millstream.protocol.errors import MillstreamError
from millstream.protocol.keys import BANDS, MAX_NAME, checked_id
from millstream.protocol.payload import MAX_PAYLOAD, checked_size, encode
from millstream.protocol.signing import Keyring, verify

VERSION = 1
"""The version of the envelope. A worker gives a newer one back, for a newer worker to run."""


COUNT_LIMIT = 2**31
"""Counters and durations (seconds) that are not below it were not written by us."""


HOLDING = frozenset({"unique", "key"})
"""Options of a job that holds something until its end: a lock, or a place among the jobs of its key."""


EXPIRING = "expires"
"""The option of a job that is not started after some time: milliseconds; what counts is in its record."""


class Malformed(MillstreamError):
    """A stream entry is not a job; it becomes a dead letter with its raw fields."""


class TooNew(MillstreamError):
    """The envelope was written by a newer version of Millstream."""


def encode_envelope(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    queue: str,
    enqueued_at: int,
    priority: str = "normal",
    options: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Encode one job as JSON; what is empty or default is left out.

    ``enqueued_at`` is in milliseconds of the Unix epoch. Raises :class:`NotJSON` or :class:`PayloadTooLarge`.
    """
    envelope: dict[str, Any] = {"v": VERSION, "n": name, "q": queue, "t": enqueued_at}
    if args:
        envelope["a"] = orjson.Fragment(encode(args, "argument"))
    if kwargs:
        envelope["k"] = orjson.Fragment(encode(kwargs, "keyword argument"))
    if priority != "normal":
        envelope["p"] = priority
    if options:
        envelope["o"] = options
    if headers:
        envelope["h"] = headers
    return checked_size(orjson.dumps(envelope), f"job {name!r}")


@dataclass(slots=True)
class Entry:
    """One delivered stream entry: a job, and which delivery of it this is.

    ``holds``: it holds something that its end must free. ``guarded``: it must not start before ``begin.lua`` was asked.
    """

    ref: str
    id: str
    name: str
    queue: str
    args: list[Any]
    kwargs: dict[str, Any]
    priority: str
    enqueued_at: int
    run: int = 1
    attempt: int = 0
    crashes: int = 0
    alone: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    holds: bool = False
    timeouts: int = 0
    memory: int = 0
    guarded: bool = False
    expires: int = 0  # not started, or retried, from this moment on (ms by the server's clock); 0 for never


def parse_entry(
    letter: str, entry_id: bytes, fields: Sequence[bytes], queue: str, keyring: Keyring | None = None
) -> Entry:
    """Make an :class:`Entry` of what XREADGROUP returned. With a *keyring* it must be signed.

    Raises :class:`Malformed` where it is not a job, :class:`TooNew` where a newer version wrote it,
    :class:`BadSignature` where none of the keys has signed it.
    """
    ref = letter + entry_id.decode()
    try:
        # The layout that every enqueue writes: id, env, then counters if it was requeued.
        if fields[0] != b"id" or fields[2] != b"env":
            raise Malformed(f"entry {ref} has no id and env in front")
        job_id = checked_id(fields[1].decode())
        if len(fields[3]) > MAX_PAYLOAD:
            raise Malformed(f"entry {ref} has an envelope of {len(fields[3]):,} bytes, the limit is {MAX_PAYLOAD:,}")
        if keyring is not None:
            verify(fields[3], queue, job_id, keyring, ref)  # before anything of it is decoded
        envelope = orjson.loads(fields[3])
        version = envelope["v"]
        if version > VERSION:
            raise TooNew(f"entry {ref} has envelope version {version}, this worker knows {VERSION}")
        entry = Entry(
            ref,
            job_id,
            envelope["n"],
            queue,
            envelope.get("a") or [],
            envelope.get("k") or {},
            envelope.get("p", "normal"),
            envelope["t"],
            options=envelope.get("o") or {},
            headers=envelope.get("h") or {},
        )
        if not _well_typed(entry):
            raise Malformed(f"entry {ref} is not a job: some part of its envelope has the wrong type")
        if entry.options:
            entry.holds = not HOLDING.isdisjoint(entry.options)
            entry.guarded = EXPIRING in entry.options or entry.options.get("unique") == "started"
        if len(fields) > 4:
            _read_counters(entry, fields)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise Malformed(f"entry {ref} is not a job: {type(error).__name__}: {str(error)[:200]}") from None
    return entry


def _well_typed(entry: Entry) -> bool:
    """Whether an envelope that somebody else may have written has what the worker relies on."""
    options = entry.options
    return (
        type(entry.name) is str
        and len(entry.name) <= MAX_NAME
        and type(entry.args) is list
        and type(entry.kwargs) is dict
        and type(entry.enqueued_at) is int
        and entry.priority in BANDS
        and type(entry.headers) is dict
        and type(options) is dict
        and (not options or all(_is_count(options.get(name, 0)) for name in ("keep", "attempts", "result_ttl")))
    )


def _is_count(number: object) -> bool:
    return type(number) in (int, float) and 0 <= number < COUNT_LIMIT  # type: ignore[operator]


def _read_counters(entry: Entry, fields: Sequence[bytes]) -> None:
    counters = dict(zip(fields[4::2], fields[5::2], strict=True))
    entry.run = int(counters.get(b"run", 1))
    entry.attempt = int(counters.get(b"attempt", 0))
    entry.crashes = int(counters.get(b"crashes", 0))
    entry.timeouts = int(counters.get(b"timeouts", 0))
    entry.memory = int(counters.get(b"memory", 0))
    if not all(map(_is_count, (entry.run, entry.attempt, entry.crashes, entry.timeouts, entry.memory))):
        raise ValueError("a counter is out of range")
    if b"alone" in counters:
        entry.alone = entry.guarded = True
