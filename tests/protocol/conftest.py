"""A rig for each test of the scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.rig import Rig


@pytest.fixture
def rig(url: str, prefix: str) -> Iterator[Rig]:
    """A queue of the test's own, once on each server."""
    made = Rig(url, prefix)
    yield made
    made.link.close()
