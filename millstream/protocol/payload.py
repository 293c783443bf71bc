"""Arguments and results are JSON: encoding, with errors that name the path of what is not."""

from __future__ import annotations

import base64
import dataclasses
import math
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import orjson

from millstream.protocol.errors import NotJSON, PayloadTooLarge

MAX_PAYLOAD = 1024 * 1024
"""Bytes of an encoded envelope or result, at most."""


def _plain(value: object) -> object:
    """What orjson does not know but JSON can carry."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (Decimal, PurePath)):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):  # a named one
        return list(value)
    if callable(getattr(value, "model_dump", None)):
        return _dumped(value)
    raise TypeError(type(value).__name__)


def _dumped(model: Any) -> object:
    """What a pydantic model is built of again, by its own rules."""
    try:
        return model.model_dump(mode="json", by_alias=True, round_trip=True)
    except ValueError as error:  # for one, bytes that are not UTF-8
        raise TypeError(f"{type(model).__name__}: {error}") from None


def encode(value: object, what: str) -> bytes:
    """Encode *value* as JSON.

    *what* names the value in errors, for example ``argument``.
    Raises :class:`NotJSON` with the path of the culprit.
    """
    try:
        encoded = orjson.dumps(value, default=_plain)
    except TypeError as error:
        try:
            path, reason = _find_culprit(value, what) or (what, str(error))
        except RecursionError:
            path, reason = what, "it is nested too deeply, or contains itself"
        raise NotJSON(f"{path} is not JSON: {reason}") from None
    # orjson writes NaN and the infinities as null; only then is the walk worth its time.
    if b"null" in encoded and (culprit := _find_culprit(value, what)):
        raise NotJSON(f"{culprit[0]} is not JSON: {culprit[1]}")
    return encoded


def checked_size(encoded: bytes, what: str) -> bytes:
    """Return *encoded* unless it is larger than :data:`MAX_PAYLOAD`; else raise :class:`PayloadTooLarge`."""
    if len(encoded) > MAX_PAYLOAD:
        raise PayloadTooLarge(
            f"{what} is {len(encoded):,} bytes, the limit is {MAX_PAYLOAD:,}: "
            "store the data elsewhere and pass a reference to it"
        )
    return encoded


def _find_culprit(value: object, path: str) -> tuple[str, str] | None:
    """The path of the first part of *value* that JSON cannot carry, and why."""
    if value is None or isinstance(value, (str, bool)):
        return _surrogates(value, path) if isinstance(value, str) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, f"{value} has no JSON form")
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else (path, "the integer is beyond 64 bits")
    if isinstance(value, dict):
        return _find_in_dict(value, path)
    if callable(getattr(value, "model_dump", None)) and not isinstance(value, type):
        return _find_in_model(value, path)
    if isinstance(value, (list, tuple)):
        return _first(_find_culprit(item, f"{path}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _first(_find_culprit(item, f"{path}.{name}") for name, item in fields)
    try:
        orjson.dumps(value, default=_plain)
    except TypeError:
        return path, f"{type(value).__name__} has no JSON form"
    return None


def _find_in_model(value: object, path: str) -> tuple[str, str] | None:
    try:
        return _find_culprit(_dumped(value), path)
    except TypeError as error:
        return path, str(error)


def _find_in_dict(value: dict[Any, Any], path: str) -> tuple[str, str] | None:
    for key, item in value.items():
        if not isinstance(key, str):
            return path, f"the key {key!r} is not a string"
        if culprit := _surrogates(key, path) or _find_culprit(item, f"{path}[{key!r}]"):
            return culprit
    return None


def _surrogates(value: str, path: str) -> tuple[str, str] | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return path, "the string holds a lone surrogate, which UTF-8 cannot encode"
    return None


def _first(culprits: Any) -> tuple[str, str] | None:
    return next((culprit for culprit in culprits if culprit), None)
