"""How this process was started, and how it is started again: by what is on disk then."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from millstream.protocol.errors import ConfigError

VARIABLE = "MILLSTREAM_RELOAD"
"""What tells ``millstream up`` that a supervisor has started it, and which descriptor has the rest."""

_OF_THE_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Role(StrEnum):
    """What ``millstream up`` is to be, if not a new supervisor."""

    REHEARSAL = "rehearsal"  # load everything and say whether that works
    SUCCESSOR = "successor"  # go on with the children of the supervisor that this process was


@dataclass(frozen=True)
class Launch:
    """The command line, the folder and the environment of this process at its start."""

    arguments: tuple[str, ...]
    folder: str
    environ: Mapping[str, str]

    @classmethod
    def of_this_process(cls) -> Launch:
        """To be called before the environment or the current folder is changed."""
        return cls((sys.executable, *sys.orig_argv[1:]), _folder(), dict(os.environ))

    def start_again(self, role: Role, descriptor: int) -> NoReturn:
        """Become what this command line starts now. Raises :class:`OSError` where it starts nothing."""
        environ = {**self.environ, VARIABLE: f"{role}:{descriptor}"}
        if role is Role.REHEARSAL:  # the service manager is not to hear of it
            environ = {name: value for name, value in environ.items() if name not in _OF_THE_SERVICE}
        os.chdir(self.folder)
        os.execve(self.arguments[0], self.arguments, environ)


def received(environ: MutableMapping[str, str] = os.environ) -> tuple[Role, int] | None:
    """Take our variable out of the environment: which role it gives us, and the descriptor; None for a plain start.

    Raises :class:`ConfigError` for one that no supervisor has written.
    """
    value = environ.pop(VARIABLE, "")
    if not value:
        return None
    role, _, descriptor = value.partition(":")
    try:
        os.set_inheritable(int(descriptor), False)  # it is for us, not for what we start
        return Role(role), int(descriptor)
    except (OSError, ValueError, OverflowError):
        raise ConfigError(f"{VARIABLE}: is for the supervisor's own use; remove it") from None


def _folder() -> str:
    """The current folder, under the name that it was entered by: a link may lead elsewhere after a deployment."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    return os.getcwd()
