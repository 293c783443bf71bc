"""A call of one script as a value: who makes it decides how it travels (alone, in a pipeline, sync or async)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from millstream.protocol.scripts import Script

T = TypeVar("T")

_COMMAND = re.compile(r"redis\.p?call\('(\w+)'")

Argument = str | bytes | int | float


def forbidden(command: Sequence[Argument], text: str) -> str:
    """What an ACL does not allow of a plain command: its beginning, which is all that names a key."""
    head = (part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in command[:2])
    return f"{' '.join(head)}: {text}"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One invocation of one script; ``parse`` turns the raw reply into what the caller wants."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]
    parse: Callable[[Any], T]

    def evalsha(self) -> tuple[Argument, ...]:
        """The command that runs the script by its digest."""
        return (self.script.command, self.script.sha, len(self.keys), *self.keys, *self.args)

    def forbidden(self, text: str) -> str:
        """What an ACL does not allow, by a refusal's text: the script itself, or the command at the line it names."""
        line = re.search(r"@user_script:\s*(\d+)", text)
        commands = _COMMAND.findall(self.script.text.splitlines()[int(line[1]) - 1]) if line else ()
        what = " or ".join(dict.fromkeys(commands)) or f"{self.script.command} {self.keys[0]}"
        return f"{what} in script {self.script.name}: {text}"
