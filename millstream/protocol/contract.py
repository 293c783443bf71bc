"""What a handler takes and returns, by its signature and type hints: checked at enqueue, rebuilt in the worker."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from millstream.protocol.errors import InvalidJob, WrongArguments, WrongResult
from millstream.protocol.hints import AS_IS, Plain, plain, resolved, shown

if TYPE_CHECKING:
    from millstream.protocol.rebuilding import Rebuilder

_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NOWHERE = sys.maxsize
_UNKNOWN = (-1, Plain(AS_IS, (object,)))


class _Plainly:
    """The quick answer for calls whose arguments are all plain JSON: without binding them, which takes longer."""

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Plain | Rebuilder]) -> None:
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


class Contract:
    """The parameters and the result of one function. Made once; hints are looked at when they are needed first."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = _signature(function)
        self.unusable: dict[str, str] = {}
        self._function = function
        self._hints = {
            name: self._hint(name, parameter.annotation) for name, parameter in self.signature.parameters.items()
        }
        self._rebuilders = {name: hint for name, hint in self._hints.items() if not isinstance(hint, Plain)}
        self._plainly = _Plainly(self.signature, self._hints)

    @property
    def rebuilds(self) -> bool:
        """Whether there are parameters that take something else than JSON has."""
        return bool(self._rebuilders)

    def check(self, job: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check a call. Raises :class:`InvalidJob` that names the job and the parameter."""
        if self._plainly.fits(args, kwargs):
            return
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidJob(f"{job}{self.signature}: {error}") from None
        for name, part, value in self._values(bound):
            self._check(f"{job}(): parameter {name!r}{part}", name, value)

    def rebuilt(
        self, job: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """What a handler is called with, of what JSON brought. Raises :class:`WrongArguments`."""
        from millstream.protocol.rebuilding import Misbuilt

        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArguments(f"{job}{self.signature}: {error}") from None
        for name, rebuilder in self._rebuilders.items():
            try:
                self._rebuild(bound, name, rebuilder)
            except Misbuilt as reason:
                raise WrongArguments(f"{job}(): parameter {name!r}{reason.path}: {reason}") from None
        return bound.args, bound.kwargs

    def result(self, job: str, value: Any) -> Any:
        """What a handler has returned, of what JSON brought. Raises :class:`WrongResult`."""
        if value is None or isinstance(self._returns, Plain):
            return value  # no result is kept of None, nor where none is wanted
        from millstream.protocol.rebuilding import Misbuilt

        try:
            return self._returns.rebuilt(value)
        except Misbuilt as reason:
            where = f"the result of {job}(){reason.path and ', at '}{reason.path}"
            raise WrongResult(f"{where}: {reason}; info().result has it as it is") from None

    @cached_property
    def _returns(self) -> Plain | Rebuilder:
        return self._hint("return", self.signature.return_annotation)

    def _hint(self, name: str, annotation: object) -> Plain | Rebuilder:
        """How to check or rebuild what has this annotation. One that cannot be used counts as none."""
        try:
            hint = resolved(annotation, self._function)
            return plain(hint) or _rebuilder(hint)
        except Exception as error:  # whatever a hint raises that only a type checker was meant to read
            self.unusable[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            return Plain(AS_IS, (object,))

    def _values(self, bound: inspect.BoundArguments) -> Iterator[tuple[str, str, Any]]:
        """The values of a call: the parameter, which of its values where it takes many, and the value."""
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                yield from ((name, f"[{index}]", item) for index, item in enumerate(value))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                yield from ((name, f"[{key!r}]", item) for key, item in value.items())
            else:
                yield name, "", value

    def _check(self, what: str, name: str, value: object) -> None:
        """Check a value for this parameter; *what* names it in errors. Raises :class:`InvalidJob`."""
        hint = self._hints[name]
        if self._is_default_none(name, value):
            return
        if isinstance(hint, Plain):
            if misfit := hint.misfit(value):
                came = type(misfit.value).__name__
                raise InvalidJob(f"{what}{misfit.path}: expected {shown(misfit.expected)}, got {came}")
            return
        from millstream.protocol.rebuilding import Misbuilt

        try:
            hint.check(value, what)
        except Misbuilt as reason:
            raise InvalidJob(f"{what}{reason.path}: {reason}") from None

    def _is_default_none(self, name: str, value: object) -> bool:
        """``def f(at: datetime = None)``: None is right, whatever the hint says."""
        return value is None and self.signature.parameters[name].default is None

    def _rebuild(self, bound: inspect.BoundArguments, name: str, rebuilder: Rebuilder) -> None:
        if name not in bound.arguments or self._is_default_none(name, bound.arguments[name]):
            return
        value, kind = bound.arguments[name], self.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(rebuilder.rebuilt(item) for item in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: rebuilder.rebuilt(item) for key, item in value.items()}
        else:
            bound.arguments[name] = rebuilder.rebuilt(value)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a hint that exists for type checkers only
        try:
            return inspect.signature(function)
        except ValueError:  # a function of C that does not tell
            return inspect.signature(_anything)


def _anything(*args: Any, **kwargs: Any) -> Any: ...


def _rebuilder(hint: object) -> Rebuilder:
    from millstream.protocol.rebuilding import Rebuilder  # pydantic: only programs that need it wait for it

    return Rebuilder(hint)


_contracts: dict[int, Contract] = {}  # by the id of the function, which its contract keeps alive


def contract_of(function: Callable[..., Any]) -> Contract:
    """The contract of a function."""
    found = _contracts.get(id(function))
    if found is None:
        found = _contracts[id(function)] = Contract(function)
    return found


def rebuilding(job: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """What a worker calls: the function itself, or one that rebuilds its arguments before it calls it."""
    contract = contract_of(function)
    if not contract.rebuilds:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = contract.rebuilt(job, args, kwargs)  # type: ignore[assignment]
        return function(*args, **kwargs)

    return call
