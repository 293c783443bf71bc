"""The embedded server: a private Valkey that the supervisor runs as one more child.

It listens on a unix socket only and keeps an append-only file, so that its data survives a restart and
`kill -9`. The lock on the data folder is held by the server process itself, through an inherited descriptor:
it is free exactly when no server works on the files, whoever died in whatever order.
"""

from __future__ import annotations

from millstream.supervisor.embedded.probe import answers, wait_ready
from millstream.supervisor.embedded.process import spawn, stop
from millstream.supervisor.embedded.server import Server, command, refuse_in_production, respawn, start

__all__ = ["Server", "answers", "command", "refuse_in_production", "respawn", "spawn", "start", "stop", "wait_ready"]
