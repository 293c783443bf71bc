"""``--export FILE``: what is about to be deleted, written down first, one JSON object per line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import click
import orjson

from millstream.protocol.errors import MillstreamError


class ExportFailed(MillstreamError):
    """The file of ``--export`` cannot be written: what it does not hold is not deleted."""


class Export:
    """Lines in a file that is on the disk before :meth:`write` returns; nothing where no file is wanted."""

    def __init__(self, path: str, file: BinaryIO | None) -> None:
        self._path = path
        self._file = file

    def __bool__(self) -> bool:
        return self._file is not None

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows. Raises :class:`ExportFailed`."""
        if self._file is None:
            return
        try:
            for row in rows:
                self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ExportFailed(f"--export {self._path}: {error.strerror}; nothing more was deleted") from None


@contextmanager
def exporting(path: str | None) -> Iterator[Export]:
    """Open a new file that only its owner may read: it has the arguments of jobs. Raises a usage error."""
    if path is None:
        yield Export("", None)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.UsageError(f"--export {path}: {error.strerror}; nothing was deleted") from None
    with open(descriptor, "wb") as file:
        yield Export(path, file)
