"""The scripts do what the model does, and a script that allows a move which is not in the table is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources

import pytest

from millstream.protocol import scripts
from millstream.protocol.states import TABLE, State, Transition
from millstream.protocol.transitions import Kind as Ends
from tests.conftest import SharedServers
from tests.fuzz.coverage import PLACES, Coverage
from tests.fuzz.machine import ATTEMPTS, WAYS, machine_on
from tests.fuzz.search import Found, play_every_scene, run_example_batch, search, try_every_pair
from tests.support.servers import Kind

pytestmark = [pytest.mark.slow, pytest.mark.leaves_jobs]

MUTANTS = {
    "a completed job can be cancelled": (
        "if not state then return {'absent', ''} end",
        "if not state then return {'absent', ''} end\nif state == 'completed' then state = 'retrying' end",
    ),
    "a dead job in due is promoted": ("fields[6] ~= 'scheduled' and fields[6] ~= 'retrying'", "false"),
    "a settle is not fenced": ("if not pending[ref] then", "if false then"),
    "an id is taken only while its job lives": (
        "if redis.call('EXISTS', record) == 1 then",
        "if redis.call('EXISTS', record) == 1 and redis.call('HGET', record, 'state') ~= 'cancelled' then",
    ),
    "a cancel of a running job is forgotten": ("redis.call('HSET', record, 'cancel', entry)", ""),
    "a job that was given back keeps its old entry": ("redis.call('XACK', stream, GROUP, id)", ""),
    "a purge takes the record of what runs": (" or not ref and not waits", ""),
}

KEEPING = {
    "a cancelled job keeps its unique key": ("release(id)\nnotify(id)\nreturn {'ok', state}", "return {'ok', state}"),
    "a job that runs later keeps its place": ("  step_aside(job)\nend", "end"),
    "nobody gets a place that is free again": ("id) == 1 then fill_places(key) end", "id) == 1 then return end"),
    "a deadline is not looked at": ("return fields[1] and not fields[2] and now", "return false and now"),
    "a job that begins is never too late": ("if expires > 0 and now >= expires", "if false"),
    "a start frees no unique key": ("if ours and record[4] == 'started'", "if false"),
    "who is retried does not ask for its unique key": ("local holder = retake(id)", "local holder = nil"),
    "what is placed passes the gate": ("elseif rule.gated then", "elseif false then"),
    "a limit does not count what runs": ("(group_of(streams[letter]).pending or 0)", "0"),
    "a paused name comes in": ("if name then return 'job:' .. name end", ""),
    "a job stays in its room": ("redis.call('ZREM', rooms .. room, id)", ""),
}
"""What only jobs with a key, a unique key or a deadline, and queues with rules show."""

Plant = Callable[[str], None]


@pytest.fixture
def valkey(servers: SharedServers) -> str:
    """One server is enough to see what a script was changed to."""
    return servers.get(Kind.VALKEY).url


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """Change a script's text: `plant("name of a mutant")`."""
    read = scripts._read

    def start(name: str) -> None:
        old, new = (MUTANTS | KEEPING)[name]
        changed: list[str] = []

        def patched(file: str) -> str:
            text = read(file)
            changed.extend([file] * (old in text))
            return text.replace(old, new)

        monkeypatch.setattr(scripts, "_read", patched)
        scripts.script.cache_clear()
        for path in resources.files("millstream.protocol.scripts").iterdir():
            if path.name.endswith(".lua") and not path.name.startswith("_"):
                scripts.script(path.name.removesuffix(".lua"))
        assert changed, f"{name}: the text is no longer in the scripts"

    yield start
    monkeypatch.undo()
    scripts.script.cache_clear()


def test_every_pair_of_state_and_transition(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    coverage = Coverage()
    try_every_pair(url, coverage)
    with capsys.disabled():
        print(f"\n{sum(coverage.made.values())} moves, {sum(coverage.refused.values())} refused", end=" ")
    assert coverage.missing() == []
    assert set(coverage.made) == set(TABLE)


def test_random_sequences_are_as_the_model_says(url: str) -> None:
    coverage = Coverage()
    assert search(url, coverage, seed=1, seconds=5.0) is None
    assert coverage.steps > 40


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_illegal_transition_is_found(valkey: str, plant: Plant, name: str) -> None:
    plant(name)
    with pytest.raises(AssertionError):
        try_every_pair(valkey, Coverage())


def test_every_scene(url: str) -> None:
    coverage = Coverage()
    play_every_scene(url, coverage, thin=9)
    assert {"parked", "enqueue: held", "retry: held", "begin: expired", "take: let in"} <= set(+coverage.seen)


@pytest.mark.parametrize("name", KEEPING)
def test_a_planted_fault_of_what_jobs_hold_is_found(valkey: str, plant: Plant, name: str) -> None:
    plant(name)
    with pytest.raises(AssertionError):
        play_every_scene(valkey, Coverage(), thin=3)


def test_what_is_found_is_a_program_that_shows_it(valkey: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("a settle is not fenced")
    found: Found | None = None
    for seed in range(20):
        found = found or run_example_batch(valkey, Coverage(), seed, steps=10, shrink=False)
    assert found is not None
    machine = machine_on(valkey, Coverage())
    with pytest.raises(AssertionError):
        exec(found.program.replace("Machine()", "machine()"), {"machine": machine, "State": State, "Kind": Ends})
    for key in machine.link.execute("KEYS", "f*"):
        machine.link.execute("DEL", key)
    machine.link.close()


def test_every_state_and_transition_has_a_way() -> None:
    assert set(WAYS) == set(PLACES) == {None, *State}
    assert set(ATTEMPTS) == set(Transition)


def test_the_machine_is_made_for_a_server(url: str) -> None:
    machine = machine_on(url, Coverage())
    machine().teardown()
    machine.link.close()
