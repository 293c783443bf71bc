"""A call of one script as a value: who makes it decides how it travels (alone, in a pipeline, sync or async)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from millstream.protocol.scripts import Script

T = TypeVar("T")

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One invocation of one script; ``parse`` turns the raw reply into what the caller wants."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]
    parse: Callable[[Any], T]

    def evalsha(self) -> tuple[Argument, ...]:
        """The command that runs the script by its digest."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)
