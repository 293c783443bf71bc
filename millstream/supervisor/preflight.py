"""Is this server one that keeps our promises? Asked before the first fork."""

from __future__ import annotations

import contextlib

import structlog

from millstream.protocol.connection import Refused, redacted
from millstream.protocol.errors import Unsupported
from millstream.protocol.keys import SCHEMA, Keys
from millstream.protocol.link import Link

log = structlog.get_logger("millstream.supervisor")

NEEDED = ("XAUTOCLAIM", "XREADGROUP", "EVALSHA", "ZRANGE", "FUNCTION")
"""FUNCTION is not used, but marks Redis 7.0: scripts have flags from then on."""


def check_server(link: Link, keys: Keys, *, enter: bool = True) -> None:
    """Refuse a server that is too old or holds keys of a newer format; warn loudly where it may lose jobs.

    Commands are probed, not versions compared: forks report the version they were forked from.
    Raises :class:`Unsupported`, :class:`Unavailable`.
    """
    found = link.execute("COMMAND", "INFO", *NEEDED)
    missing = [name for name, row in zip(NEEDED, found, strict=True) if not row]
    if missing:
        raise Unsupported(
            f"the server at {redacted(link.url)} is too old: Millstream needs Redis 7.0 or Valkey 7.2 or later "
            f"(it does not know {', '.join(missing)})"
        )
    if _schema(link, keys) < SCHEMA and enter:
        enter_schema(link, keys)
    _check_memory_policy(link)


def enter_schema(link: Link, keys: Keys) -> None:
    """Say that the keys are of our format: the version after ours may come now, the one before may still run."""
    with contextlib.suppress(Refused):  # a server that is full takes it later; it must not stop us from draining it
        link.execute("SET", keys.schema, SCHEMA)


def _schema(link: Link, keys: Keys) -> int:
    """The format of the keys, 0 where there are none yet. Raises :class:`Unsupported` for one that we do not know."""
    version = link.execute("GET", keys.schema)
    if version is None:
        return 0
    if not version.isdigit() or int(version) > SCHEMA + 1:
        raise Unsupported(
            f"the keys under {keys.prefix!r} have format {version.decode(errors='replace')!r}, this version knows "
            f"up to {SCHEMA + 1}: upgrade millstream, or use another prefix"
        )
    return int(version)


def _check_memory_policy(link: Link) -> None:
    info = link.execute("INFO", "memory").decode(errors="replace")
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    policy = facts.get("maxmemory_policy", "noeviction").strip()
    if policy != "noeviction":  # without a maxmemory it waits for somebody to set one
        log.warning("redis.may_evict", policy=policy, hint="set maxmemory-policy noeviction, or jobs will be lost")
