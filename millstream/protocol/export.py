"""Purge a queue and keep what is removed: each job is in a file before it is gone, and only those that are gone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO

import orjson

from millstream.protocol.control import STEP, remove
from millstream.protocol.info import JobInfo
from millstream.protocol.inspect import browse
from millstream.protocol.keys import QueueKeys
from millstream.protocol.listing import PLACES, infos_of
from millstream.protocol.runner import Runner


def purge_into(file: BinaryIO, runner: Runner, keys: QueueKeys, *, due: bool = False) -> int:
    """Remove every waiting job of a queue, and with *due* those that are due later; return how many.

    A line of *file*, which must be seekable, is a job as ``jobs show --json --args`` prints it. Raises
    :class:`Unavailable`, :class:`OSError`.
    """
    return sum(_empty(place, file, runner, keys) for place in ("queued", *(["due"] if due else [])))


def _empty(place: str, file: BinaryIO, runner: Runner, keys: QueueKeys) -> int:
    removed, position = 0, ""
    while True:
        page = runner.run(browse(keys, place, position, STEP))
        waiting = [info for info in infos_of(runner, keys, page.ids) if info.state in PLACES[place]]
        gone = _remove(waiting, file, runner, keys)
        removed += gone
        if not gone:
            position = page.position  # what is left of this page does not wait any more, or is no job
            if not position:
                return removed


def _remove(waiting: Sequence[JobInfo], file: BinaryIO, runner: Runner, keys: QueueKeys) -> int:
    """One step: first into the file, then out of the queue; what could not be removed goes from the file again."""
    if not waiting:
        return 0
    begin = file.tell()
    _write(file, waiting)
    removed = runner.run(remove(keys, [info.id for info in waiting]))
    gone = [info for info, is_gone in zip(waiting, removed, strict=True) if is_gone]
    if len(gone) < len(waiting):
        file.seek(begin)
        file.truncate()
        _write(file, gone)
    return len(gone)


def _write(file: BinaryIO, infos: Sequence[JobInfo]) -> None:
    file.writelines(orjson.dumps(info.to_dict()) + b"\n" for info in infos)
    file.flush()
    os.fsync(file.fileno())
