"""The page about chaos lists the scenarios, the mutants and the options that there are."""

from __future__ import annotations

from tests.chaos.command import main
from tests.chaos.mutations import MUTANTS
from tests.chaos.scenarios import SCENARIOS
from tests.docs.documents import DOCS, code, rows, sections

TEXT = (DOCS / "chaos.md").read_text()


def test_scenarios_and_what_they_break() -> None:
    listed = {code(name)[0]: text for name, text in rows(sections(TEXT)["Scenarios"])}
    assert listed == {name: scenario.promise for name, scenario in SCENARIOS.items()}


def test_mutants_and_who_notices() -> None:
    listed = {code(name)[0]: code(scenario)[0] for name, scenario in rows(sections(TEXT)["Mutants"])}
    assert listed == {mutant.name: mutant.scenario for mutant in MUTANTS}


def test_options() -> None:
    listed = {code(name)[0].split()[0] for name, _ in rows(sections(TEXT)["Chaos"])}
    assert listed == {option for parameter in main.params for option in parameter.opts}
