"""The jobs of ``millstream demo``: read one file, hash it, count it, compress it."""

from __future__ import annotations

import hashlib
import lzma
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millstream import Millstream

QUEUE = "demo"
CHUNK = 1024 * 1024

app = Millstream()

_LAYOUT = frozenset(
    {
        tokenize.NEWLINE,
        tokenize.NL,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)


@app.job(queue=QUEUE)
def analyse(path: str) -> dict[str, Any]:
    """Measure one file: its SHA-256, lines, tokens (of Python sources) and its size after LZMA compression.

    ``kind`` is ``python``, ``text``, ``binary`` or ``unreadable``; the last has an ``error`` and no figures.
    """
    file = Path(path)
    try:
        result = _measure(file)
        if result["kind"] == "text" and file.suffix in (".py", ".pyi"):
            result.update(_count_tokens(file))
    except OSError as error:
        return {"path": path, "kind": "unreadable", "error": error.strerror or str(error)}
    return {"path": path, **result}


def _measure(file: Path) -> dict[str, Any]:
    """Everything that needs only the bytes, in one pass, with a bounded part of the file in memory."""
    digest = hashlib.sha256()
    compressor = lzma.LZMACompressor()
    size = lines = compressed = 0
    binary, last = False, b"\n"
    for chunk in _chunks(file):
        digest.update(chunk)
        compressed += len(compressor.compress(chunk))
        size += len(chunk)
        lines += chunk.count(b"\n")
        binary = binary or b"\0" in chunk
        last = chunk[-1:]
    compressed += len(compressor.flush())
    counted = {} if binary else {"lines": lines + (last != b"\n")}
    return {
        "kind": "binary" if binary else "text",
        "bytes": size,
        "sha256": digest.hexdigest(),
        "compressed": compressed,
        **counted,
    }


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(CHUNK):
            yield chunk


def _count_tokens(file: Path) -> dict[str, Any]:
    """Tokens of a Python source by kind. A file that is not valid Python stays a text, with its fault."""
    kinds: Counter[int] = Counter()
    try:
        with file.open("rb") as source:
            for token in tokenize.tokenize(source.readline):
                kinds[token.type] += 1
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError) as error:
        return {"fault": f"{type(error).__name__}: {error}"[:200]}
    return {
        "kind": "python",
        "tokens": sum(count for kind, count in kinds.items() if kind not in _LAYOUT),
        "names": kinds[tokenize.NAME],
        "comments": kinds[tokenize.COMMENT],
    }
