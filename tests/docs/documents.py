"""Reads the documents: their headings, fenced blocks and tables, and the commands of console blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.supervised import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "ops" / "docs"

_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" for none) and its text."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a console block, and the output that the document shows for it."""

    text: str
    output: str


def blocks(text: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a document, of one language or of all."""
    found = [Block(match[1], match[2]) for match in _FENCE.finditer(text)]
    return [block for block in found if language in (None, block.language)]


def commands(text: str) -> list[Command]:
    """The commands of all console blocks: lines after ``$ ``, continued by a backslash."""
    return [command for block in blocks(text, "console") for command in _commands(block.text)]


def _commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, output = _split(part)
        yield Command(command, output)


def _split(part: str) -> tuple[str, str]:
    lines, typed = part.splitlines(keepends=True), ""
    while lines:
        typed += lines.pop(0)
        if not typed.endswith("\\\n"):
            break
    return typed.rstrip("\n"), "".join(lines)


def sections(text: str) -> dict[str, str]:
    """The text below each heading, up to the next heading of any level."""
    plain = _blank_fences(text)
    headings = list(_HEADING.finditer(plain))
    starts = [plain.count("\n", 0, heading.start()) for heading in headings]
    lines = text.splitlines(keepends=True)
    return {
        heading[2]: "".join(lines[start + 1 : end])
        for heading, start, end in zip(headings, starts, [*starts[1:], len(lines)], strict=True)
    }


def _blank_fences(text: str) -> str:
    """The text with empty lines for its fenced blocks."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row of a text, without titles and rulers."""
    found: list[list[str]] = []
    previous = ""
    for line in text.splitlines():
        if line.startswith("|") and not _ruler(line):
            found.append(_cells(line))
        if _ruler(line) and previous.startswith("|"):
            found.pop()  # what stands above a ruler are the titles
        previous = line
    return found


def _ruler(line: str) -> bool:
    return re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line.strip()) is not None


def _cells(line: str) -> list[str]:
    inner = line.strip().strip("|").replace("\\|", "\0")
    return [cell.strip().replace("\0", "|") for cell in inner.split("|")]


def code(text: str) -> list[str]:
    """What stands in backticks, outside of fenced blocks."""
    return _CODE.findall(_blank_fences(text))
