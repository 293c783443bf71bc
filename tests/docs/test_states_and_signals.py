"""The tables of states and signals name what the code has, and nothing else."""

from __future__ import annotations

from importlib import resources

from millstream.protocol.info import FINAL, State
from millstream.supervisor import signals
from tests.docs.documents import DOCS, README, code, rows, sections

STATES = sections((DOCS / "states.md").read_text())
SIGNALS = sections((DOCS / "signals.md").read_text())
NAMES = {number.name.removeprefix("SIG") for number in signals.HANDLED}


def words(text: str) -> set[str]:
    """The words of a text, without punctuation."""
    return {word.strip(",.;:()") for word in text.split()}


def test_every_state_is_documented() -> None:
    table = rows(STATES["Where a job is"])
    assert {code(row[0])[0]: row[2] for row in table} == {
        str(state): "yes" if state in FINAL else "no" for state in State
    }
    drawn = words(STATES["States of a job"].replace("|", " ").replace("-", " "))
    assert {str(state) for state in State} - drawn == {"expired"}


def test_moves_name_states_and_scripts() -> None:
    for before, after, _, name in rows(STATES["What moves a job"]):
        assert {*code(before), *code(after)} <= {str(state) for state in State}
        assert resources.files("millstream.protocol.scripts").joinpath(f"{code(name)[0]}.lua").is_file()


def test_every_state_is_reached_and_left() -> None:
    moves = rows(STATES["What moves a job"])
    reached = {state for move in moves for state in code(move[1])}
    left = {state for move in moves for state in code(move[0])}
    assert {str(state) for state in State} - reached == {"expired"}
    assert {str(state) for state in State} - left == {str(state) for state in FINAL - {State.DEAD}}


def test_every_handled_signal_is_documented() -> None:
    assert {name for row in rows(SIGNALS["Signals"]) for name in words(row[0]) if name.isupper()} == NAMES


def test_the_readme_has_the_same_signals() -> None:
    table = rows(sections(README.read_text())["Signals"])
    assert {name for row in table for name in words(row[0]) if name.isupper()} == NAMES
