"""Tags and metadata: what a job is found by. They are part of its envelope, and kept when it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from millstream.protocol.errors import InvalidJob
from millstream.protocol.payload import encode

MAX_TAGS = 20
MAX_TAG = 100
"""Characters of a tag."""

MAX_METADATA = 4096
"""Bytes of the metadata of a job as JSON."""


def checked_tags(tags: object) -> tuple[str, ...]:
    """Tags without repetitions, in their order. Raises :class:`InvalidJob`."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidJob(f"tags {tags!r} are not valid: use a list of texts")
    unique = tuple(dict.fromkeys(map(_checked_tag, tags)))
    if len(unique) > MAX_TAGS:
        raise InvalidJob(f"{len(unique)} tags are too many: use {MAX_TAGS} at most")
    return unique


def _checked_tag(tag: object) -> str:
    if not isinstance(tag, str) or not 0 < len(tag) <= MAX_TAG or not tag.isprintable():
        raise InvalidJob(f"tag {tag!r} is not valid: use 1 to {MAX_TAG} printable characters")
    return tag


def checked_metadata(metadata: object) -> dict[str, Any]:
    """Metadata as plain JSON values. Raises :class:`InvalidJob`, :class:`NotJSON`."""
    if not isinstance(metadata, Mapping):
        raise InvalidJob(f"metadata {metadata!r} is not valid: use a dict of values by name")
    encoded = encode(dict(metadata), "metadata")
    if len(encoded) > MAX_METADATA:
        raise InvalidJob(
            f"metadata is {len(encoded):,} bytes, the limit is {MAX_METADATA:,}: pass data as arguments instead"
        )
    return orjson.loads(encoded)  # type: ignore[no-any-return]


def labels_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Tags and metadata among the options of an envelope, without what a stranger has put in their place."""
    labels: dict[str, Any] = {}
    tags, metadata = options.get("tags"), options.get("metadata")
    if isinstance(tags, list) and tags and all(isinstance(tag, str) for tag in tags):
        labels["tags"] = tags
    if isinstance(metadata, dict) and metadata:
        labels["metadata"] = metadata
    return labels
