"""The registered jobs, in a small file, for processes that do not import the application: no other name is a label."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

FILE = "jobs.json"


def write_names(folder: str, queues: Mapping[str, str], writer: str) -> None:
    """Leave the queue of each job in the folder, unless it is there. *writer*: a name that no other process has.

    Raises :class:`OSError`.
    """
    path, text = Path(folder, FILE), orjson.dumps(queues, option=orjson.OPT_SORT_KEYS)
    if not path.exists() or path.read_bytes() != text:
        part = path.with_suffix(f".{writer}")
        part.write_bytes(text)
        os.replace(part, path)


def read_names(folder: str) -> dict[str, str]:
    """The queue of each job; empty where no worker has written it yet."""
    try:
        return dict(orjson.loads(Path(folder, FILE).read_bytes()))
    except (OSError, ValueError):
        return {}
