"""Where one RESP message ends (RESP2 and RESP3), for tools that must count requests and replies."""

from __future__ import annotations

_LINES = frozenset(b"+-:,#(_")
_BLOBS = frozenset(b"$=!")
_LISTS = frozenset(b"*~>")
_PAIRS = frozenset(b"%|")
PUSH = ord(">")


def message_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Index just after the message that begins at `start`, or None while it is incomplete."""
    position, missing = start, 1
    while missing:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            return None
        kind, following = data[position], line_end + 2
        size = int(data[position + 1 : line_end]) if kind not in _LINES else 0
        missing -= 1
        if kind in _BLOBS and size >= 0:
            following += size + 2
        elif kind in _LISTS:
            missing += max(size, 0)
        elif kind in _PAIRS:
            missing += 2 * size + (kind == ord("|"))  # an attribute precedes the reply proper
        elif kind not in _LINES and kind not in _BLOBS:
            raise ValueError(f"not RESP: {bytes(data[position : position + 40])!r}")
        if following > len(data):
            return None
        position = following
    return position


def take(buffer: bytearray) -> list[bytes]:
    """Remove the complete messages from the front of `buffer` and return them."""
    messages = []
    start = 0
    while start < len(buffer):
        end = message_end(buffer, start)
        if end is None:
            break
        messages.append(bytes(buffer[start:end]))
        start = end
    del buffer[:start]
    return messages
