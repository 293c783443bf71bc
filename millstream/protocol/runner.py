"""What can run script calls: a worker's own connection, or the connections that producers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from millstream.protocol.call import Argument, Call

T = TypeVar("T")


class Runner(Protocol):
    """A :class:`Link` or a :class:`Client`. Every method raises :class:`Unavailable`."""

    def run(self, call: Call[T]) -> T:
        """Run one call and return its parsed reply."""
        ...

    def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Run several calls in one round trip."""
        ...

    def execute(self, *command: Argument) -> Any:
        """Run one plain command."""
        ...
