"""Where Redis is: the configuration file, the URL, the key prefix and the data folder; and the signing keys.

Plain standard library, because every process and every client starts here. What else the configuration
says is read by `millstream.supervisor.config`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from millstream.protocol import signing
from millstream.protocol.errors import ConfigError

FILE_NAME = "millstream.toml"
DEFAULT_PREFIX = "ms:"
DATA_FOLDER = ".millstream"
SOCKET_NAME = "valkey.sock"

TOP_LEVEL = ("app", "redis_url", "prefix", "env", "signing_keys", "accept_unsigned")
SECTIONS = ("workers", "supervisor", "web", "dead")
"""What a configuration file may hold at its top."""

# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing NUL.
MAX_SOCKET_PATH = 100
# Not tempfile.gettempdir(): it follows TMPDIR, so that two processes could disagree about the path.
SHORT_SOCKETS = Path("/tmp")

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# A brace in the prefix would be taken for the hash tag, which belongs to the queue.
_PREFIX = re.compile(r"[^{}\s\x00-\x1f]{1,100}")


@dataclass(frozen=True)
class Location:
    """Where this application's Redis is. `url` may hold a password and is left out of the repr."""

    url: str = field(repr=False)
    prefix: str
    source: str  # what named the URL: an option, a variable, a file, or "embedded"
    embedded: bool  # the URL is the socket of the private server in `data`
    data: Path  # absolute; may not exist yet
    file: Path | None
    app: str | None

    @property
    def socket(self) -> Path:
        """The embedded server's socket, whether or not it is used."""
        return socket_path(self.data)


def locate(
    *,
    url: str | None = None,
    config: str | os.PathLike[str] | None = None,
    prefix: str | None = None,
    app: str | None = None,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Location:
    """Resolve everything: arguments first, then variables, then the file, then the defaults.

    `folder` is where the search for the file starts (the current folder by default).
    Raises ConfigError for a file that is named but missing or cannot be read, for keys that are unknown at its top,
    and for values of a wrong type.
    """
    start = (folder or Path.cwd()).absolute()
    file = find_file(config, environ=environ, folder=start)
    table = read_file(file) if file else {}
    if file and (unknown := table.keys() - {*TOP_LEVEL, *SECTIONS}):
        # A misspelt redis_url must not send anybody to another server in silence.
        raise ConfigError(f"{file}: unknown key {min(unknown)!r}; `millstream check` tells all that is wrong")
    data = data_folder(file, environ=environ, folder=start)
    found, source = _find_url(url, table, file, environ)
    if not found:
        found, source = f"unix://{quote(str(socket_path(data)))}", "embedded"
    key_prefix, named_by = _find_prefix(prefix, table, file, environ)
    return Location(
        url=_checked("redis_url", found, source, url_problem(found)),
        prefix=_checked("prefix", key_prefix, named_by, prefix_problem(key_prefix)),
        source=source,
        embedded=source == "embedded",
        data=data,
        file=file,
        app=app or environ.get("MILLSTREAM_APP") or _text(table, "app", file),
    )


def find_file(
    config: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Path | None:
    """The configuration file: `config`, else MILLSTREAM_CONFIG, else the first one from `folder` upward."""
    start = (folder or Path.cwd()).absolute()
    for named, source in ((config, "--config"), (environ.get("MILLSTREAM_CONFIG"), "MILLSTREAM_CONFIG")):
        if named:
            path = start / Path(named).expanduser()
            if not path.is_file():
                raise ConfigError(f"{source}: there is no file {path}")
            return path
    return next(_candidates(start), None)


def _candidates(start: Path) -> Iterator[Path]:
    for folder in (start, *start.parents):
        own, shared = folder / FILE_NAME, folder / "pyproject.toml"
        if own.is_file():
            yield own
        elif shared.is_file() and _mentions_millstream(shared):
            yield shared


def _mentions_millstream(pyproject: Path) -> bool:
    # A broken pyproject.toml is our business only if it is about Millstream.
    try:
        text = pyproject.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    try:
        return "millstream" in tomllib.loads(text).get("tool", {})
    except tomllib.TOMLDecodeError:
        return "[tool.millstream" in text


def read_file(file: Path) -> dict[str, Any]:
    """Millstream's part of a configuration file: all of it, or [tool.millstream] of a pyproject.toml."""
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"{file}: not valid TOML: {reason}") from None
    if file.name != "pyproject.toml":
        return content
    tool = content.get("tool")
    table = tool.get("millstream") if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: has no table [tool.millstream]")
    return table


def data_folder(file: Path | None, *, environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Path:
    """MILLSTREAM_DATA, else `.millstream` beside the configuration file, else in the current folder."""
    start = (folder or Path.cwd()).absolute()
    named = environ.get("MILLSTREAM_DATA")
    if named:
        return _resolved(start / Path(named).expanduser())
    return _resolved((file.parent if file else start) / DATA_FOLDER)


def _resolved(path: Path) -> Path:
    # One folder must have one name, or two processes would derive two short socket paths from it.
    return Path(os.path.realpath(path))


def socket_path(data: Path) -> Path:
    """The embedded server's socket: in `data`, or in a folder under /tmp where that path is too long."""
    path = data / SOCKET_NAME
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    key = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return SHORT_SOCKETS / f"millstream-{key}" / SOCKET_NAME


def _find_url(
    explicit: str | None, table: dict[str, Any], file: Path | None, environ: Mapping[str, str]
) -> tuple[str | None, str]:
    if explicit:
        return explicit, "--redis-url"
    if environ.get("MILLSTREAM_REDIS_URL"):
        return environ["MILLSTREAM_REDIS_URL"], "MILLSTREAM_REDIS_URL"
    if environ.get("MILLSTREAM_REDIS_URL_FILE"):
        return read_secret("MILLSTREAM_REDIS_URL_FILE", environ), "MILLSTREAM_REDIS_URL_FILE"
    if environ.get("REDIS_URL"):
        return environ["REDIS_URL"], "REDIS_URL"
    return _text(table, "redis_url", file), str(file)


def _find_prefix(
    explicit: str | None, table: dict[str, Any], file: Path | None, environ: Mapping[str, str]
) -> tuple[str, str]:
    if explicit is not None:
        return explicit, "argument"
    if environ.get("MILLSTREAM_PREFIX"):
        return environ["MILLSTREAM_PREFIX"], "MILLSTREAM_PREFIX"
    return _text(table, "prefix", file) or DEFAULT_PREFIX, str(file)


def signing_keys(file: Path | None, *, environ: Mapping[str, str] = os.environ) -> str | None:
    """The keys that jobs are signed with, as they are written; None where they are not signed.

    Raises ConfigError for keys that cannot be read or used; it repeats nothing of them.
    """
    if environ.get("MILLSTREAM_SIGNING_KEYS"):
        found, source = environ["MILLSTREAM_SIGNING_KEYS"], "MILLSTREAM_SIGNING_KEYS"
    elif environ.get("MILLSTREAM_SIGNING_KEYS_FILE"):
        found, source = read_secret("MILLSTREAM_SIGNING_KEYS_FILE", environ), "MILLSTREAM_SIGNING_KEYS_FILE"
    else:
        table = read_file(file) if file else {}
        if "signing_keys" not in table:
            return None
        found, source = _text(table, "signing_keys", file) or "", str(file)
    return _checked("signing_keys", found, source, signing.problem(found))


def configured_keyring(file: Path | None) -> signing.Keyring | None:
    """What a producer signs its jobs with; None: they are not signed. Raises ConfigError."""
    text = signing_keys(file)
    return signing.Keyring.parse(text) if text else None


def read_secret(variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """The content of the file that a *_FILE variable names, without surrounding white space."""
    path = Path(environ[variable]).expanduser()
    try:
        secret = path.read_text("utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{variable}: {path} cannot be read: {error.strerror}") from error
    if not secret:
        raise ConfigError(f"{variable}: {path} is empty")
    return secret


def _text(table: dict[str, Any], key: str, file: Path | None) -> str | None:
    value = table.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{key} ({file}): must be text in quotes")
    return value


def url_problem(url: str) -> str | None:
    """What is wrong with a Redis URL, or None. It never repeats the URL, which may hold a password."""
    return None if _URL.match(url) else "must begin with redis://, rediss:// or unix://"


def prefix_problem(prefix: str) -> str | None:
    """What is wrong with a key prefix, or None."""
    if _PREFIX.fullmatch(prefix):
        return None
    return "must be 1 to 100 characters without braces, spaces and control characters"


def _checked(key: str, value: str, source: str, problem: str | None) -> str:
    if problem:
        raise ConfigError(f"{key} ({source}): {problem}")
    return value
