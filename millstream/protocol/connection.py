"""Connections made for queues: explicit timeouts, nothing re-sent behind our back, no secret in any text."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry

from millstream.protocol.errors import ConfigError, MillstreamError, Unavailable, Unsupported

# redis-py would name itself to the server by CLIENT SETINFO, which Redis 7.0 does not know and an ACL need not allow.
_UNNAMED: dict[str, Any] = (
    {"driver_info": None} if find_spec("redis.driver_info") else {"lib_name": None, "lib_version": None}
)


class Refused(Unavailable):
    """The server is there but refuses commands: loading, read-only, full, busy."""


SCHEMES = ("redis", "rediss", "unix")


class AccessDenied(Unavailable):
    """The server refused the user name or password, or an ACL forbids what Millstream needs."""

    exit_code = 78


def redacted(url: str) -> str:
    """The URL without its password, for logs and errors."""
    try:
        parts = urlsplit(url)
        if not parts.netloc and not parts.query:
            return url
        host = parts.netloc.rpartition("@")[2]
        user = parts.username or ""
        netloc = f"{user}:***@{host}" if parts.password else (f"{user}@{host}" if user else host)
        query = re.sub(r"(?i)(password|secret|token)=[^&]*", r"\1=***", parts.query)
        return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    except ValueError:
        return "(a URL that cannot be parsed)"


def without_user(url: str) -> str:
    """The URL without user and password: which server it is, whoever connects."""
    head, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return head + separator + host.rpartition("@")[2] + slash + path


def connection_options(url: str, *, connect_timeout: float, timeout: float) -> dict[str, Any]:
    """What redis-py needs to make connections for *url*; times in seconds.

    Retries are off: a command whose reply was lost may have been executed, and only its caller knows whether it
    may be sent again. RESP2, so that replies have one shape on every server. Raises :class:`ConfigError`.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise ConfigError(
            f"redis_url {redacted(url)!r} is not valid: it must begin with redis://, rediss:// or unix://"
        )
    return {
        "protocol": 2,
        "retry": RedisRetry(NoBackoff(), 0),
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": timeout,
        "health_check_interval": 0,
        "client_name": "millstream",
        **_UNNAMED,
    }


def connection_pool(url: str, *, connect_timeout: float = 2.0, timeout: float = 5.0) -> redis.ConnectionPool:
    """A pool that makes connections for *url*; none is opened yet. Raises :class:`ConfigError`."""
    options = connection_options(url, connect_timeout=connect_timeout, timeout=timeout)
    try:
        return redis.ConnectionPool.from_url(url, **options)
    except ValueError as error:
        raise ConfigError(f"redis_url {redacted(url)!r} is not valid: {error}") from None


def async_connection_pool(
    url: str, *, connect_timeout: float = 2.0, timeout: float = 5.0
) -> redis.asyncio.ConnectionPool:
    """The same for asyncio."""
    options = connection_options(url, connect_timeout=connect_timeout, timeout=timeout)
    from redis.asyncio.retry import Retry as AsyncRetry

    options["retry"] = AsyncRetry(NoBackoff(), 0)
    try:
        return redis.asyncio.ConnectionPool.from_url(url, **options)
    except ValueError as error:
        raise ConfigError(f"redis_url {redacted(url)!r} is not valid: {error}") from None


_REFUSALS = {
    "LOADING": "is still loading its data; try again in a moment",
    "READONLY": "is a read-only replica; point the URL at the primary",
    "MISCONF": "cannot save to its disk and refuses writes; free disk space there, or see its log",
    "OOM": "is full (maxmemory); raise maxmemory, or let the workers drain the queues",
    "MASTERDOWN": "is a replica that has lost its primary",
    "CLUSTERDOWN": "belongs to a cluster that is down",
    "BUSY": "is busy with a script; try again in a moment",
    "NOREPLICAS": "has too few replicas and refuses writes",
    "UNBLOCKED": "has just become a replica",
    "TRYAGAIN": "is moving this queue to another node; try again in a moment",
}


# redis-py takes the code off the texts of errors for which it has a type.
_REFUSAL_TYPES: dict[type[BaseException], str] = {
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.OutOfMemoryError: "OOM",
}


def hinted(error: Unavailable, url: str) -> Unavailable:
    """The same for somebody outside of a supervisor: how a private server comes to be there."""
    if url.startswith("unix:"):
        return Unavailable(f"{error}; start one with `millstream up`, or name another one: MILLSTREAM_REDIS_URL")
    return error


# How an ACL's refusal begins: of a plain command, and within a script (Valkey, then Redis 7.0).
_DENIALS = ("NOPERM", "ACL failure in script", "The user executing the script")


def explained(error: BaseException, url: str, doing: Callable[[str], str] = str) -> MillstreamError:
    """The error of ours that says what *error* of redis-py means and what to do about it.

    *doing* makes of an ACL's refusal what it was that the user may not do: not every server says it.
    """
    where = redacted(url)
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError) or re.match("WRONGPASS|NOAUTH", text):
        return AccessDenied(f"Redis at {where} refused the user name or password")
    if isinstance(error, exceptions.NoPermissionError) or text.startswith(_DENIALS):
        user = urlsplit(url).username or "default"
        return AccessDenied(
            f"Redis at {where} forbids user {user!r} a command or key: {_short(doing(text))} "
            "(the rights of each role: ops/docs/security.md)"
        )
    refusal = _REFUSAL_TYPES.get(type(error), text.split(" ", 1)[0])
    if refusal in _REFUSALS:
        return Refused(f"Redis at {where} {_REFUSALS[refusal]}")
    if isinstance(error, exceptions.TimeoutError):
        return Unavailable(f"Redis at {where} did not answer in time")
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return Unavailable(f"Redis at {where} cannot be reached: {_short(text)}")
    if isinstance(error, exceptions.InvalidResponse):
        return Unsupported(f"what listens at {where} is not a Redis or Valkey server")
    if "unknown command" in text or "Unknown Redis command" in text or "bad flag" in text.lower():
        return Unsupported(
            f"the server at {where} is too old: Millstream needs Redis 7.0 or Valkey 7.2 or later ({_short(text)})"
        )
    return MillstreamError(f"Redis at {where} answered with an error: {_short(text)}")


def _short(text: str) -> str:
    return text.splitlines()[0][:200].rstrip(".") if text else "no reason given"
