"""Reads a Dockerfile: its stages, and what each instruction says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Stage:
    """One FROM and what follows it: (instruction, value) in order."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def value(self, instruction: str) -> str:
        """The value of the last instruction of this kind."""
        return [value for name, value in self.instructions if name == instruction][-1]

    def variables(self) -> dict[str, str]:
        """What its ENV instructions set."""
        pairs = [pair for name, value in self.instructions if name == "ENV" for pair in value.split()]
        return dict(pair.split("=", 1) for pair in pairs)

    def copied(self) -> list[str]:
        """The names that its COPY instructions take from the build context."""
        sources = [value.split()[:-1] for name, value in self.instructions if name == "COPY"]
        return [source for found in sources if not found[0].startswith("--from") for source in found]


def parse(text: str) -> list[Stage]:
    """The stages. Lines that end with a backslash go on; comments may stand between them."""
    kept = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", kept).splitlines():
        instruction, value = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append(Stage(name, base))
        else:
            stages[-1].instructions.append((instruction, value))
    return stages
