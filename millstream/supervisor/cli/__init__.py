"""The command line: ``main``, and a file for each family of commands, imported when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that this process was started with, and exit with its code."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the arguments are those of the process by default."""
    from millstream.supervisor.cli.failures import exit_code_of
    from millstream.supervisor.cli.root import root

    try:
        code = root.main(arguments, prog_name="millstream", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error)
    return code if isinstance(code, int) else 0
