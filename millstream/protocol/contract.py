"""What a handler takes and returns, by its signature and type hints: checked at enqueue, rebuilt in the worker."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from millstream.protocol.errors import InvalidJob, WrongArguments, WrongResult
from millstream.protocol.hints import AS_IS, Plain, plain, resolved, shown
from millstream.protocol.plain_calls import PlainCalls

if TYPE_CHECKING:
    from millstream.protocol.rebuilding import Rebuilder


class Contract:
    """The parameters and the result of one function. Made once; hints are looked at when they are needed first."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = _signature(function)
        self._unusable: dict[str, str] = {}
        self._function = function
        self._hints = {
            name: self._hint(name, parameter.annotation) for name, parameter in self.signature.parameters.items()
        }
        self._rebuilders = {name: hint for name, hint in self._hints.items() if not isinstance(hint, Plain)}
        self._plain_calls = PlainCalls(self.signature, self._hints)

    @property
    def rebuilds(self) -> bool:
        """Whether there are parameters that take something else than JSON has."""
        return bool(self._rebuilders)

    def check(self, job: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check a call. Raises :class:`InvalidJob` that names the job and the parameter."""
        if self._plain_calls.fits(args, kwargs):
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
        if not self._rebuilders:
            return args, kwargs
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArguments(f"{job}{self.signature}: {error}") from None
        for name, rebuilder in self._rebuilders.items():
            if name in bound.arguments:
                bound.arguments[name] = self._rebuilt(f"{job}(): parameter {name!r}", name, rebuilder, bound)
        return bound.args, bound.kwargs

    def result(self, job: str, value: Any) -> Any:
        """What a handler has returned, of what JSON brought. Raises :class:`WrongResult`."""
        if value is None or isinstance(self._returns, Plain):
            return value  # None is not kept: it is no misfit
        from millstream.protocol.rebuilding import Misbuilt

        try:
            return self._returns.rebuilt(value)
        except Misbuilt as reason:
            where = f"the result of {job}(){reason.path and ', at '}{reason.path}"
            raise WrongResult(f"{where}: {reason}; info().result has it as it is") from None

    @property
    def unusable(self) -> dict[str, str]:
        """Why hints cannot be used, by parameter; ``return`` is the result's."""
        assert self._returns is not None  # looked at
        return self._unusable

    @cached_property
    def _returns(self) -> Plain | Rebuilder:
        return self._hint("return", self.signature.return_annotation)

    def _hint(self, name: str, annotation: object) -> Plain | Rebuilder:
        """How to check or rebuild what has this annotation. One that cannot be used counts as none."""
        try:
            hint = resolved(annotation, self._function)
            return plain(hint) or _rebuilder(hint)
        except Exception as error:  # whatever a hint raises that only a type checker was meant to read
            self._unusable[name] = f"{type(error).__name__}: {error}".splitlines()[0]
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

    def _rebuilt(self, what: str, name: str, rebuilder: Rebuilder, bound: inspect.BoundArguments) -> Any:
        """The value of a parameter, or all of its values where it takes many. Raises :class:`WrongArguments`."""
        from millstream.protocol.rebuilding import Misbuilt

        def one(value: Any, part: str = "") -> Any:
            try:
                return rebuilder.rebuilt(value)
            except Misbuilt as reason:
                raise WrongArguments(f"{what}{part}{reason.path}: {reason}") from None

        value, kind = bound.arguments[name], self.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return tuple(one(item, f"[{index}]") for index, item in enumerate(value))
        if kind is inspect.Parameter.VAR_KEYWORD:
            return {key: one(item, f"[{key!r}]") for key, item in value.items()}
        return value if self._is_default_none(name, value) else one(value)


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
        values, named = contract.rebuilt(job, args, kwargs)
        return function(*values, **named)

    return call
