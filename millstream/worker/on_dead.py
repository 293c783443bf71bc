"""Telling an application of its dead jobs: the job that the scripts leave in the queue when one is buried.

Its arguments are the id of the dead job, the number of the run that ended it, its name, and the row of that run.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
import structlog

from millstream.protocol import transitions
from millstream.protocol.app import Millstream
from millstream.protocol.envelope import Entry, Malformed, TooNew, parse_entry
from millstream.protocol.errors import InvalidJob
from millstream.protocol.info import JobInfo, State, dead_info, job_info
from millstream.protocol.keys import checked_id
from millstream.protocol.policy import Retry
from millstream.protocol.registry import NOTICE, DeadHook, Job
from millstream.protocol.signing import BadSignature, Keyring, verify
from millstream.worker.context import current_job

log = structlog.get_logger("millstream.worker")


def job_of(entry: Entry, app: Millstream) -> Job[..., Any] | None:
    """The job that calls the hooks, where the entry is such a notice and its dead job is one of this application's."""
    if entry.name != NOTICE:
        return None
    match entry.args:
        case [str(job_id), int(), str(name), dict(row)] if _is_id(job_id) and not entry.kwargs:
            known = app.registry.get(name)
            if known is None and row.get("c") != "unknown_job":
                return None  # of another application on this queue, or of a newer version of this one
            fn = partial(tell, app, known)
        case _:
            fn = partial(_refuse)
    return Job(app, fn, NOTICE, entry.queue, None, (Retry(),), "normal", 0.0)


def unsigned_notice(
    letter: str, entry_id: bytes, fields: Sequence[bytes], queue: str, error: Exception
) -> Entry | None:
    """The notice that an entry is though nobody has signed it: scripts have no keys. None where it is none.

    What it says is believed only as far as the record of the dead job holds a payload that is signed; see :func:`tell`.
    """
    if not isinstance(error, BadSignature) or not fields[1].startswith(b"on_dead:"):
        return None
    try:
        entry = parse_entry(letter, entry_id, fields, queue)
    except (Malformed, TooNew):
        return None
    return entry if entry.name == NOTICE else None


def tell(app: Millstream, known: Job[..., Any] | None, job_id: str, run: int, name: str, row: dict[str, Any]) -> None:
    """Call the hook of the job and those of the application. What they raise makes this run fail, after all of them."""
    info = _facts(app, current_job().queue, job_id, run, name, row)
    hooks: list[DeadHook] = [*([known.on_dead] if known is not None and known.on_dead else ()), *app.dead_hooks]
    failure: Exception | None = None
    for hook in hooks if info is not None else ():
        try:
            _call(hook, info)
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _facts(app: Millstream, queue: str, job_id: str, run: int, name: str, row: dict[str, Any]) -> JobInfo | None:
    """The job as its record has it; where it was retried or deleted meanwhile, as this notice tells of it.

    With signing keys only what they have signed is told of: None where the payload is gone or is not theirs.
    """
    keys = app.queue_keys(queue)
    found = app.client.run(transitions.inspect(keys, job_id))
    env = found.record.get("env") or found.entry.get("env") or b""
    if app.keyring is not None and not _is_signed(env, queue, job_id, app.keyring):
        log.warning("hook.not_told", dead=job_id, dead_name=name, reason="its payload is gone, or not signed")
        return None
    if found.record:
        info = job_info(queue, job_id, found)
        if info.state is State.DEAD and info.run == run:
            return info
    return dead_info(queue, job_id, name, run, orjson.dumps(row))


def _is_signed(envelope: bytes, queue: str, job_id: str, keyring: Keyring) -> bool:
    try:
        verify(envelope, queue, job_id, keyring, job_id)
    except BadSignature:
        return False
    return bool(envelope)


def _call(hook: DeadHook, info: JobInfo | None) -> None:
    assert info is not None
    made = hook(info)
    if inspect.iscoroutine(made):
        asyncio.run(made)


def _refuse(*_: object, **__: object) -> None:
    raise InvalidJob(f"the arguments of this {NOTICE} are not those that the scripts write")


def _is_id(job_id: str) -> bool:
    try:
        return bool(checked_id(job_id))
    except InvalidJob:
        return False
