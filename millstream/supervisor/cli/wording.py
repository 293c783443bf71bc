"""Numbers as people read them: durations, sizes, ages."""

from __future__ import annotations

NOTHING = "-"


def duration(seconds: float | None) -> str:
    """``0.4 ms``, ``250 ms``, ``3.2 s``, ``4m 05s``, ``2h 10m``, ``3d 04h``; ``-`` for None."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m {int(seconds) % 60:02d}s"
    if seconds < 86400:
        return f"{int(seconds) // 3600}h {int(seconds) % 3600 // 60:02d}m"
    return f"{int(seconds) // 86400}d {int(seconds) % 86400 // 3600:02d}h"


def size(count: float | None) -> str:
    """Bytes in binary units: ``512 B``, ``1.5 KiB``, ``3.0 GiB``; ``-`` for None."""
    if count is None:
        return NOTHING
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def printable(text: str) -> str:
    """*text* on one line, with control characters escaped: job errors must not drive the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shortened(text: str, width: int) -> str:
    """*text* cut to *width* characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """``1 job``, ``2 jobs``, ``1,000 jobs``; *many* is the noun's plural where that is not plus s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {many or noun + 's'}"
