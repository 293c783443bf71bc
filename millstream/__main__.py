"""`python -m millstream` is the same as the command `millstream`."""

from __future__ import annotations

from millstream.supervisor.cli import main

if __name__ == "__main__":
    main()
