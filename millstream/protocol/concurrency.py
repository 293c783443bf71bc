"""Places of a key: how many jobs of one customer, one account, one file ... run at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from millstream.protocol.errors import InvalidJob

KeyOf = str | Callable[..., str]
"""A key, or what makes one of the arguments of a call."""

LONGEST_KEY = 200
"""Bytes of a key in UTF-8, at most."""

MOST_PLACES = 100_000


class Seat(NamedTuple):
    """What one job needs to run: a place among ``places`` of a key."""

    key: str
    places: int


@dataclass(frozen=True)
class Seating:
    """The key of a job's calls, and how many of one key run at once."""

    key: KeyOf
    places: int = 1

    def of(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Seat:
        """The seat of one call. Raises :class:`InvalidJob` for a key that is none."""
        key = self.key(*args, **kwargs) if callable(self.key) else self.key
        return Seat(_checked(key, f"concurrency_key of job {name!r} gave"), self.places)


def checked_seating(key: KeyOf | None, places: int | None) -> Seating | None:
    """What ``concurrency_key`` and ``concurrency`` say; None where they are not given. Raises :class:`InvalidJob`."""
    if key is None:
        if places is not None:
            raise InvalidJob("concurrency is about a key: give concurrency_key too, or limit the queue")
        return None
    if places is not None and (type(places) is not int or not 1 <= places <= MOST_PLACES):
        raise InvalidJob(f"concurrency {places!r} is not valid: use an integer from 1 to {MOST_PLACES:,}")
    if not callable(key):
        _checked(key, "concurrency_key is")
    return Seating(key, 1 if places is None else places)


def _checked(key: object, what: str) -> str:
    if not isinstance(key, str) or not 1 <= len(key.encode(errors="replace")) <= LONGEST_KEY or "\0" in key:
        shown = repr(key)
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        raise InvalidJob(f"{what} {shown}: use a text of 1 to {LONGEST_KEY} bytes")
    return key
