"""From drafts to what is sent: encoded, with an id, in portions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from millstream.protocol.envelope import encode_envelope
from millstream.protocol.errors import InvalidJob
from millstream.protocol.ids import new_id
from millstream.protocol.keys import band_of
from millstream.protocol.payload import checked_size
from millstream.protocol.policy import LONGEST, LONGEST_TTL
from millstream.protocol.registry import Draft
from millstream.protocol.signing import Keyring, sign
from millstream.protocol.transitions import NewJob

CHUNK = 300
"""Jobs in one round trip of ``enqueue_many``."""

CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes in one round trip of ``enqueue_many``, about."""

KEEP_CALLERS_ID = 86400
"""Seconds for which a caller's id stays taken after the job's end. A generated id: 300 s."""


def new_job(draft: Draft, keyring: Keyring | None) -> NewJob:
    """Encode a draft, and sign it where there are keys. Raises :class:`NotJSON`, :class:`PayloadTooLarge`."""
    options = draft.options
    band = band_of(draft.priority)
    delay, expiry = _delay(draft), _expiry(draft)
    if delay is not None and expiry is not None and delay >= expiry:
        raise InvalidJob(f"job {draft.name!r} would expire before its time comes: it would never be started")
    envelope = encode_envelope(
        draft.name,
        draft.args,
        draft.kwargs,
        queue=draft.queue,
        enqueued_at=time.time_ns() // 1_000_000,
        priority=band,
        options=_kept(draft, expiry),
        headers=options.headers,
    )
    job_id, nonce = (new_id(), "") if options.id is None else (options.id, new_id())
    if keyring is not None:
        envelope = checked_size(sign(envelope, draft.queue, job_id, keyring), f"job {draft.name!r}, signed,")
    return NewJob(job_id, band, envelope, delay, nonce, _extras(draft, expiry))


def _extras(draft: Draft, expiry: int | None) -> dict[str, Any] | None:
    """What the enqueue itself must know of the job, see ``_extras.lua``; None for a plain one."""
    extras: dict[str, Any] = {}
    if draft.lock is not None:
        extras |= {"unique": draft.lock.digest, "unique_for": draft.lock.lifetime, "until": draft.lock.until}
    if expiry is not None:
        extras["expires"] = expiry
    if draft.seat is not None:
        extras |= {"key": draft.seat.key, "places": draft.seat.places}
    return extras or None


def _expiry(draft: Draft) -> int | None:
    """Milliseconds after which the job is not started any more; None for never."""
    wait = draft.options.expires_in
    if draft.options.deadline is not None:
        wait = _until(draft.options.deadline)
    return None if wait is None else max(1, int(min(wait, LONGEST) * 1000))


def _until(instant: datetime) -> float:
    """Seconds until an instant, by this host's clock; never negative."""
    return max(0.0, (instant - datetime.now(UTC)).total_seconds())


def _kept(draft: Draft, expiry: int | None) -> dict[str, Any]:
    """The options that workers and readers are told of; most jobs have none."""
    kept: dict[str, Any] = {}
    options = draft.options
    if options.id:
        kept["keep"] = KEEP_CALLERS_ID
    if options.result_ttl is not None:
        kept["result_ttl"] = min(options.result_ttl, LONGEST_TTL)
    if options.tags:
        kept["tags"] = options.tags
    if options.metadata:
        kept["metadata"] = options.metadata
    if draft.lock is not None:
        kept["unique"] = draft.lock.until
    if draft.seat is not None:
        kept["key"] = draft.seat.key
    if expiry is not None:
        kept["expires"] = expiry
    return kept


def _delay(draft: Draft) -> int | None:
    """Milliseconds until the job is due; None for now."""
    if draft.options.at is not None:
        return int(min(_until(draft.options.at), LONGEST) * 1000) or None
    if draft.options.delay:
        return max(1, int(min(draft.options.delay, LONGEST) * 1000))
    return None


def chunks(drafts: Iterable[Draft], keyring: Keyring | None) -> Iterator[list[tuple[Draft, NewJob]]]:
    """Encoded drafts in lists that are small enough for one round trip. Raises :class:`InvalidJob`."""
    chunk: list[tuple[Draft, NewJob]] = []
    size = 0
    for draft in drafts:
        if not isinstance(draft, Draft):
            raise InvalidJob(f"enqueue_many takes drafts, as made by a_job.job(...), not {type(draft).__name__}")
        new = new_job(draft, keyring)
        chunk.append((draft, new))
        size += len(new.envelope)
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
