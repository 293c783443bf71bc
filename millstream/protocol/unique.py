"""Unique jobs: which calls are the same, and for how long only one of them may exist."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from millstream.protocol.errors import InvalidJob
from millstream.protocol.payload import encode
from millstream.protocol.policy import LONGEST, Duration, seconds

Until = Literal["finished", "started"]
"""How long a unique job keeps others away: until its end, or only until its first run starts."""

KeyOf = str | Callable[..., str]
"""What ``unique_by`` may be: the key itself, or what makes it of the arguments of a call."""


INCOMPLETE = "unique_by and unique_until need unique_for: the seconds for which the key is held at most"


@dataclass(frozen=True)
class Lock:
    """What the one living job of a key holds: the key's digest, and milliseconds after which it is free in any case."""

    digest: str
    lifetime: int
    until: Until


@dataclass(frozen=True)
class Unique:
    """The options of unique jobs, as far as they are given. ``lifetime`` in seconds, 0 for a job that is not unique."""

    lifetime: float | None = None
    by: KeyOf | None = None
    until: Until | None = None

    def lock(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None = None
    ) -> Lock | None:
        """What a call must hold; None where nothing is asked for. Raises :class:`InvalidJob`.

        With the function's signature a call is the same however its arguments are passed.
        """
        if self.lifetime is None:
            raise InvalidJob(INCOMPLETE)
        if not self.lifetime:
            return None
        key = self._key(name, args, kwargs, signature)
        lifetime = max(1, int(min(self.lifetime, LONGEST) * 1000))
        return Lock(hashlib.blake2b(key, digest_size=16).hexdigest(), lifetime, self.until or "finished")

    def _key(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None
    ) -> bytes:
        if isinstance(self.by, str):
            return b"key\0" + _encoded(self.by)
        if self.by is not None:
            key = self.by(*args, **kwargs)
            if not isinstance(key, str) or not key:
                raise InvalidJob(f"unique_by of job {name!r} returned {type(key).__name__}, not a text with the key")
            return b"by\0" + name.encode() + b"\0" + _encoded(key)
        if signature is not None:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        call = orjson.loads(encode([list(args), dict(kwargs)], "argument"))  # what the handler would see of it
        return b"call\0" + name.encode() + b"\0" + orjson.dumps(call, option=orjson.OPT_SORT_KEYS)


def overridden(own: Unique | None, given: Unique | None) -> Unique | None:
    """A job's own options with those of one enqueue, which win."""
    if own is None or given is None:
        return given or own
    lifetime = own.lifetime if given.lifetime is None else given.lifetime
    return Unique(lifetime, given.by or own.by, given.until or own.until)


def checked_unique(unique_for: Duration | None, unique_by: KeyOf | None, unique_until: Until | None) -> Unique | None:
    """Check the options of unique jobs; None where none is given. Raises :class:`InvalidJob`."""
    if unique_for is None and unique_by is None and unique_until is None:
        return None
    if unique_by is not None and not callable(unique_by) and (not isinstance(unique_by, str) or not unique_by):
        raise InvalidJob(f"unique_by {unique_by!r} is not valid: use a text, or a function of the job's arguments")
    if unique_until is not None and unique_until not in get_args(Until):
        raise InvalidJob(f"unique_until {unique_until!r} is not valid: use one of {', '.join(get_args(Until))}")
    lifetime = None if unique_for is None else seconds(unique_for, "unique_for")
    return Unique(lifetime, unique_by, unique_until)


def _encoded(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise InvalidJob(f"unique_by {key!r} is not valid: {error.reason}") from None
