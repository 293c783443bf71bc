"""Files into which a command writes what it is about to remove."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """Open a file that must not exist yet; arguments of jobs are nobody else's business. Wrong usage otherwise."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.UsageError(f"--export {path}: {error.strerror}; nothing was done") from None
    with os.fdopen(descriptor, "wb") as file:
        yield file
