"""What the type hints of a handler say of its arguments. What is plain JSON is checked here, by isinstance alone."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

AS_IS = object
"""The hint of what is taken as it comes: it has no hint, or one that cannot be used."""

_ATOMS: dict[object, tuple[type, ...]] = {
    int: (int,),
    float: (float, int),
    str: (str,),
    bool: (bool,),
    None: (NoneType,),
    NoneType: (NoneType,),
    Any: (object,),
    AS_IS: (object,),
    inspect.Parameter.empty: (object,),
}

_CONTAINERS: tuple[type, ...] = (
    list,
    dict,
    collections.abc.Collection,
    collections.abc.Iterable,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
    collections.abc.MutableSequence,
    collections.abc.Sequence,
)


class Misfit(NamedTuple):
    """A part of a value that is not what was expected there: ``path`` is empty for the whole."""

    path: str
    expected: object
    value: object


Inner = Callable[[Any], Misfit | None]


@dataclass(frozen=True, slots=True)
class Plain:
    """A hint of plain JSON: what arrives is what was passed. ``inner`` looks into a container."""

    hint: object
    kinds: tuple[type, ...]
    inner: Inner | None = None

    def misfit(self, value: object) -> Misfit | None:
        """The first part of *value* that does not fit; None where all do."""
        if not isinstance(value, self.kinds):
            return Misfit("", self.hint, value)
        return self.inner(value) if self.inner else None


def resolved(annotation: object, function: Callable[..., Any]) -> object:
    """An annotation without strings in it, by the names of the function's module. Raises what evaluating it raises."""
    if annotation is inspect.Parameter.empty:
        return AS_IS
    probe = SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(probe, globalns=_names(function), include_extras=True)["it"]


def _names(function: Callable[..., Any]) -> dict[str, Any]:
    """The module's names that a function sees; for a callable object, those that its class sees."""
    inner: Any = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    if not hasattr(inner, "__globals__"):
        inner = inspect.unwrap(type(inner).__call__)
    return getattr(inner, "__globals__", {})


def plain(hint: Any) -> Plain | None:
    """How to check a hint of plain JSON; None for any other."""
    while (alias := getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)) is not None:
        hint = alias  # NewType("UserId", int), type UserId = int
    origin, members = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return _union(hint, [plain(member) for member in members])
    if origin is Literal:
        return _literal(hint, members)
    if origin in _CONTAINERS:
        return _container(hint, origin, members)
    kinds = None if members else _ATOMS.get(hint)
    return Plain(hint, kinds) if kinds else None


def _union(hint: object, members: list[Plain | None]) -> Plain | None:
    parts = [member for member in members if member is not None]
    if len(parts) < len(members):
        return None

    def inner(value: object) -> Misfit | None:
        misfits = [part.misfit(value) for part in parts if isinstance(value, part.kinds)]
        if None in misfits:
            return None
        return misfits[0] if len(misfits) == 1 else Misfit("", hint, value)

    kinds = tuple(kind for part in parts for kind in part.kinds)
    return Plain(hint, kinds, inner if any(part.inner for part in parts) else None)


def _literal(hint: object, members: tuple[object, ...]) -> Plain | None:
    if not {type(member) for member in members} <= {str, int, bool, NoneType}:
        return None  # enums and bytes

    def inner(value: object) -> Misfit | None:
        fits = any(value == member and isinstance(value, type(member)) for member in members)
        return None if fits else Misfit("", hint, value)

    return Plain(hint, tuple({type(member) for member in members}), inner)


def _container(hint: object, origin: type, members: tuple[Any, ...]) -> Plain | None:
    of = plain(members[-1] if members else Any)
    if of is None or (len(members) == 2 and members[0] not in (str, Any)):
        return None
    if not of.inner and of.kinds == (object,):
        return Plain(hint, (origin,))

    def inner(value: object) -> Misfit | None:
        if not isinstance(value, (dict, list, tuple)):
            return None  # a text is a sequence of texts
        for at, item in enumerate(value.values() if isinstance(value, dict) else value):
            if not isinstance(item, of.kinds) or (of.inner and of.inner(item)):
                misfit = of.misfit(item)
                key = list(value)[at] if isinstance(value, dict) else at
                return misfit and misfit._replace(path=f"[{key!r}]{misfit.path}")
        return None

    return Plain(hint, (origin,), inner)


def shown(hint: object) -> str:
    """A hint as it is written."""
    return "None" if hint is NoneType else inspect.formatannotation(hint)
