"""The quick look at a call whose arguments are all plain JSON."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from millstream.protocol.hints import AS_IS, Plain

_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NOWHERE = sys.maxsize
_UNKNOWN = (-1, Plain(AS_IS, (object,)))


class PlainCalls:
    """Tells of most right calls that they are right, without binding their arguments, which takes longer."""

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, object]) -> None:
        self._positional: list[Plain] = []
        self._named: dict[str, tuple[int, Plain]] = {}
        self._needed: list[tuple[int, str]] = []
        for parameter in signature.parameters.values():
            hint = hints[parameter.name]
            if parameter.kind in _MANY or not isinstance(hint, Plain):
                continue
            place = len(self._positional) if parameter.kind in _POSITIONAL else _NOWHERE
            if parameter.kind in _POSITIONAL:
                self._positional.append(hint)
            if parameter.kind is not parameter.POSITIONAL_ONLY:
                self._named[parameter.name] = place, hint
            if parameter.default is parameter.empty:
                self._needed.append((place, parameter.name))
        self._all = all(isinstance(hint, Plain) for hint in hints.values())

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the call is right. False where it has to be looked at."""
        given = len(args)
        if not self._all or given > len(self._positional):
            return False
        for value, hint in zip(args, self._positional, strict=False):
            if not isinstance(value, hint.kinds) or (hint.inner and hint.inner(value)):
                return False
        for name, value in kwargs.items():
            place, hint = self._named.get(name, _UNKNOWN)
            if place < given or not isinstance(value, hint.kinds) or (hint.inner and hint.inner(value)):
                return False
        for place, name in self._needed:  # noqa: SIM110 (a generator takes half a microsecond more)
            if place >= given and name not in kwargs:
                return False
        return True
