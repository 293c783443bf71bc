"""The Prometheus text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


def head(kind: str, name: str, help_text: str) -> str:
    """The two lines before a metric's samples. *name* is without the ``_total`` of a counter."""
    shown = f"{name}_total" if kind == "counter" else name
    escaped = help_text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {shown} {escaped}\n# TYPE {shown} {kind}\n"


def sample_name(name: str, labels: Labels) -> str:
    """A sample up to its value."""
    if not labels:
        return name
    inner = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
    return f"{name}{{{inner}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def family(kind: str, name: str, help_text: str, samples: Iterable[tuple[Labels, float]]) -> str:
    """A whole counter or gauge; "" where it has no samples."""
    lines = [f"{sample_name(name, labels)} {value}\n" for labels, value in samples]
    return (
        head(kind, name.removesuffix("_total") if kind == "counter" else name, help_text) + "".join(lines)
        if lines
        else ""
    )
