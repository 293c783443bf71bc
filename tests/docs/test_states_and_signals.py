"""The tables of states and signals name what the code has, and nothing else."""

from __future__ import annotations

import re
from importlib import resources

from millstream.protocol.states import FINAL, TABLE, State, Transition
from millstream.supervisor import signals
from tests.docs.documents import DOCS, README, blocks, code, rows, sections

STATES = sections((DOCS / "states.md").read_text())
SIGNALS = sections((DOCS / "signals.md").read_text())
NAMES = {number.name.removeprefix("SIG") for number in signals.HANDLED}
MOVES = {(before, str(transition), after) for (before, transition), after in TABLE.items()}


def _place(text: str) -> str | None:
    """A state, or None for no job, as it is drawn (a point) and as it is listed."""
    return None if text in ("[*]", "-") else text


def words(text: str) -> set[str]:
    """The words of a text, without punctuation."""
    return {word.strip(",.;:()") for word in text.split()}


def test_every_state_is_documented() -> None:
    table = rows(STATES["Where a job is"])
    assert {code(row[0])[0]: row[2] for row in table} == {
        str(state): "yes" if state in FINAL else "no" for state in State
    }


def test_the_drawing_is_the_table() -> None:
    (drawing,) = blocks(STATES["States of a job"], "mermaid")
    arrows = [re.fullmatch(r" {4}(\S+) --> (\S+): (\w+)", line) for line in drawing.text.splitlines()[1:]]
    drawn = [(_place(arrow[1]), arrow[3], _place(arrow[2])) for arrow in arrows if arrow]
    assert len(drawn) == len(arrows), "each line is an arrow"
    assert sorted(drawn, key=str) == sorted(MOVES, key=str)


def test_the_moves_are_the_table() -> None:
    listed = {
        (_place(before), code(name)[0], _place(after))
        for befores, afters, name, *_ in rows(STATES["What moves a job"])
        for before in code(befores) or ["-"]
        for after in code(afters) or ["-"]
    }
    assert listed == MOVES


def test_moves_name_scripts() -> None:
    for *_, names in rows(STATES["What moves a job"]):
        for name in code(names):
            assert resources.files("millstream.protocol.scripts").joinpath(f"{name}.lua").is_file()


def test_every_state_is_reached_and_left() -> None:
    assert set(TABLE.values()) >= set(State)
    assert {before for before, _ in TABLE} >= set(State)
    assert {transition for _, transition in TABLE} == set(Transition)


def test_every_handled_signal_is_documented() -> None:
    assert {name for row in rows(SIGNALS["Signals"]) for name in words(row[0]) if name.isupper()} == NAMES


def test_the_readme_has_the_same_signals() -> None:
    table = rows(sections(README.read_text())["Signals"])
    assert {name for row in table for name in words(row[0]) if name.isupper()} == NAMES
