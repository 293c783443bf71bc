"""The transitions as Lua scripts, one file each; a file's header states its KEYS, ARGV and every return code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_INCLUDE = "-- include: "


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, with its includes in place, and the SHA-1 by which EVALSHA names it."""

    name: str
    text: str
    sha: str

    @property
    def command(self) -> str:
        """What runs it: one that only reads is run so that a user, or a replica, needs no right to write."""
        return "EVALSHA_RO" if "no-writes" in self.text.partition("\n")[0] else "EVALSHA"


def _read(file: str) -> str:
    return (resources.files(__name__) / file).read_text(encoding="utf-8")


@cache
def script(name: str) -> Script:
    """Load the script of this name; lines ``-- include: <file>`` are replaced by that file."""
    lines = _read(f"{name}.lua").splitlines()
    text = "\n".join(_read(line.removeprefix(_INCLUDE)) if line.startswith(_INCLUDE) else line for line in lines)
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())
