"""The program of the web child, from its fork to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
from setproctitle import setproctitle

from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor import signals
from millstream.supervisor.plan import Plan
from millstream.supervisor.web.app import make_app
from millstream.supervisor.web.folder import ADDRESS
from millstream.worker.program import die_with_parent

log = structlog.get_logger("millstream.web")

BIND_AGAIN = 5.0
"""Seconds between two tries to bind an address that somebody else has."""

ORPHANED = 1.0
"""Seconds between two looks whether our parent lives, for systems that do not tell us of its death."""


def run_web(plan: Plan, board: Scoreboard, parent: int) -> int:
    """Serve until the supervisor ends us, or is gone; returns the exit code."""
    die_with_parent(parent)
    signals.ignore_in_child()
    setproctitle("millstream: web")
    structlog.contextvars.bind_contextvars(pid=os.getpid())

    listener = _listen(plan.bind, parent)
    address = address_of(listener)
    log.info("web.listening", address=address)
    config = uvicorn.Config(
        make_app(plan, board),
        log_config=None,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=100,
        timeout_keep_alive=30,
    )
    logging.getLogger("asyncio").setLevel(logging.INFO)
    asyncio.run(_serve(Server(config), listener, parent, Path(plan.metrics, ADDRESS)))
    return 0


class Server(uvicorn.Server):
    """A server that leaves signals alone: which ones end us is our parent's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(server: Server, listener: socket.socket, parent: int, place: Path) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    address = address_of(listener)
    while os.getppid() == parent and not serving.done():
        _say_where(place, address)
        await asyncio.wait({serving}, timeout=ORPHANED)
    server.should_exit = True
    await serving


def _say_where(place: Path, address: str) -> None:
    """Leave the address where `millstream healthcheck` looks for it, again where somebody has removed it."""
    with contextlib.suppress(OSError):  # a full disk, or the folder is gone; /healthz tells
        if not place.exists() or place.read_text() != address:
            place.write_text(address)


def _listen(bind: str, parent: int) -> socket.socket:
    """Bind the address; where that fails, say why (once for each cause), and try again for as long as we live."""
    said = ""
    while os.getppid() == parent:
        try:
            return _bind(bind)
        except OSError as error:
            if str(error) != said:
                said = str(error)
                hint = "free the address, or choose another one (port 0 for any): web.bind; trying again every 5 s"
                log.error("web.not_listening", bind=bind, error=said, hint=hint)
            time.sleep(BIND_AGAIN)
    raise SystemExit(1)


def _bind(bind: str) -> socket.socket:
    host, _, port = bind.rpartition(":")
    family, kind, _, _, address = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Where we listen, as it is written in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
