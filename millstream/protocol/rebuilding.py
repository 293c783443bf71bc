"""Values that JSON does not know as they are: rebuilt from their JSON form by a type hint, with pydantic."""

from __future__ import annotations

import collections.abc
import dataclasses
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from types import GenericAlias
from typing import Any, get_args, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from millstream.protocol.hints import shown
from millstream.protocol.payload import encode

_CONFIG = ConfigDict(val_json_bytes="base64")

_MISSING = object()


class Misbuilt(Exception):
    """A value does not fit its hint. ``path`` says where, empty for the whole; the message says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


class Rebuilder:
    """Makes values of one hint of their JSON forms. Raises what pydantic raises where it does not know the hint."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        # A tuple around it: a configuration cannot be given for a dataclass or model itself.
        around: Any = GenericAlias(tuple, (_listed(hint),))
        self._adapter: TypeAdapter[Any] = TypeAdapter(around, config=_CONFIG)
        if not getattr(self._adapter, "pydantic_complete", True):
            raise NameError("it refers to a name that is not defined")

    def rebuilt(self, value: object) -> Any:
        """Make the value of its JSON form. Raises :class:`Misbuilt`."""
        try:
            encoded = orjson.dumps(value)
        except TypeError as error:
            raise Misbuilt("", f"expected {shown(self.hint)}, got what cannot be read: {error}") from None
        return self._built(encoded, type(value).__name__)

    def check(self, value: object, what: str) -> None:
        """Make sure that *value* arrives as it is: its JSON form has to give the same value again.

        *what* names it in errors. Raises :class:`Misbuilt`, :class:`NotJSON`.
        """
        built = self._built(encode(value, what), type(value).__name__)
        for path, sent, got in _differences(value, built, ""):
            expected = "" if path else f"expected {shown(self.hint)}, "
            arrives = "not arrive as it is" if _kind(sent) == _kind(got) else f"arrive as {_kind(got)}"
            raise Misbuilt(path, f"{expected}got {_kind(sent)}, which would {arrives}")

    def _built(self, encoded: bytes, kind: str) -> Any:
        try:
            return self._adapter.validate_json(b"[" + encoded + b"]")[0]
        except ValidationError as error:
            raise self._misbuilt(error, encoded, kind) from None

    def _misbuilt(self, error: ValidationError, encoded: bytes, kind: str) -> Misbuilt:
        """What the first fault is, and where. Never the value itself: this text is logged."""
        faults = error.errors(include_url=False, include_context=False)
        fault = faults[0]
        text = fault["msg"].replace("Input should be ", "expected ").removeprefix("Value error, ")
        if fault["type"] == "missing":
            return Misbuilt(_path(fault["loc"][1:-1]), f"{fault['loc'][-1]!r} is missing")
        if fault["input"] != orjson.loads(encoded):
            return Misbuilt(_path(fault["loc"][1:]), f"{text}, got {_kind(fault['input'])}")
        why = "" if len(faults) > 1 else f" ({text})"
        return Misbuilt("", f"expected {shown(self.hint)}, got {kind}{why}")


def _listed(hint: Any) -> Any:
    """What is asked for as an iterable arrives as a list; pydantic would make an iterator of it."""
    if get_origin(hint) in (collections.abc.Iterable, collections.abc.Collection):
        return GenericAlias(collections.abc.Sequence, get_args(hint))
    return hint


def _kind(value: object) -> str:
    return "nothing" if value is _MISSING else type(value).__name__


def _path(parts: Iterable[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _differences(sent: object, got: object, path: str) -> Iterator[tuple[str, object, object]]:
    """The parts of what is sent that what is built of its JSON form does not have, or has as something else."""
    names = _fields(sent)
    if names is not None and type(sent) is type(got):
        for name in names:
            yield from _differences(getattr(sent, name, _MISSING), getattr(got, name, _MISSING), f"{path}.{name}")
    elif isinstance(sent, dict) and isinstance(got, dict):
        for key in sent.keys() | got.keys():
            yield from _differences(sent.get(key, _MISSING), got.get(key, _MISSING), f"{path}[{key!r}]")
    elif _both_arrays(sent, got):
        for index, (one, other) in enumerate(zip(sent, got, strict=True)):  # type: ignore[call-overload]
            yield from _differences(one, other, f"{path}[{index}]")
    elif names is not None or not _same(sent, got):
        yield path, sent, got


def _fields(value: object) -> list[str] | None:
    """The names of the fields of a dataclass or model; None for other values."""
    if isinstance(value, BaseModel):
        return [*type(value).model_fields, *(value.__pydantic_extra__ or ())]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    return None


def _both_arrays(sent: object, got: object) -> bool:
    """Whether they are arrays of one kind and length; a tuple may arrive as a list where the hint allows for it."""
    if not (isinstance(sent, (list, tuple)) and isinstance(got, (list, tuple))):
        return False
    return len(sent) == len(got) and (type(sent) is type(got) or (type(sent), type(got)) == (tuple, list))


def _same(sent: Any, got: Any) -> bool:
    if isinstance(sent, (datetime, time)) and type(got) is type(sent):
        return sent.isoformat() == got.isoformat()  # == does not hold between time zones in the hour that repeats
    return (isinstance(sent, type(got)) or (type(got) is float and isinstance(sent, int))) and bool(sent == got)
