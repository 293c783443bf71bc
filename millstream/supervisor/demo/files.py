"""Which files ``millstream demo`` analyses."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LARGE = 4 * 1024 * 1024
"""Bytes from which on a file takes seconds."""


@dataclass(frozen=True)
class Files:
    """Absolute paths by name, but large files first: no worker shall be left with one of them at the end.

    ``skipped`` counts files whose names are not UTF-8 and thus cannot be arguments.
    """

    folder: Path
    paths: list[str]
    skipped: int


def standard_library() -> Path:
    """The folder of the sources that came with this Python."""
    return Path(sysconfig.get_path("stdlib"))


def find_files(folder: Path | None, limit: int | None = None) -> Files:
    """All regular files below *folder*; the sources of the standard library where it is None.

    With *limit* only the first so many by name. Links are not followed.
    """
    top = (folder or standard_library()).resolve()
    found = sorted(_sources(top) if folder is None else _regular_files(top))[:limit]
    usable = [(path, size) for path, size in found if _is_utf8(path)]
    usable.sort(key=lambda row: -row[1] if row[1] >= LARGE else 0)
    return Files(top, [path for path, _ in usable], len(found) - len(usable))


def _sources(top: Path) -> Iterator[tuple[str, int]]:
    installed = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
    for path, size in _regular_files(top):
        if path.endswith(".py") and not any(part in path for part in installed):
            yield path, size


def _regular_files(top: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue  # removed since it was listed
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
