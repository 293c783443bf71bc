"""Runs random sequences of the machine's rules until a time is over, or one of them is not as the model says."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from millstream.protocol.states import Transition
from tests.fuzz.coverage import PLACES, Coverage
from tests.fuzz.machine import machine_on
from tests.fuzz.scenes import ENDS, PLAYS, SETTINGS

STEPS = 40
EXAMPLES = 25
HEADER = """from tests.fuzz.coverage import Coverage
from tests.fuzz.machine import machine_on
from tests.support import servers
from millstream.protocol.states import State
from millstream.protocol.transitions import Kind

server = servers.Server(servers.Kind.{name}).start()
Machine = machine_on(server.url, Coverage())
"""


@dataclass(frozen=True)
class Found:
    """A sequence that the server and the model see differently, as short as it could be made, and as Python."""

    seed: int
    reason: str
    program: str


def run_example_batch(url: str, coverage: Coverage, seed: int, steps: int = STEPS, shrink: bool = True) -> Found | None:
    """Some sequences, drawn by a seed; the first that fails, made as short as it can be, or None."""
    machine = machine_on(url, coverage)
    quiet = settings(
        max_examples=EXAMPLES,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],  # slow servers are no failure of a sequence
        print_blob=False,
    )
    try:
        with with_reporter(lambda _text: None):
            run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=quiet)
    except Exception as failure:  # whatever a rule, the model or the server raised is what is looked for
        return Found(seed, _reason(failure), _program(failure))
    finally:
        machine.link.close()
    return None


def try_every_pair(url: str, coverage: Coverage) -> None:
    """Bring a job into each state and try each transition on it; raises AssertionError where the model differs."""
    machine = machine_on(url, coverage)
    try:
        for place in PLACES:
            for transition in Transition:
                fresh = machine()
                try:
                    fresh.bring("j0", place)
                    fresh.attempt("j0", transition)
                finally:
                    fresh.teardown()
    finally:
        machine.link.close()


def play_every_scene(url: str, coverage: Coverage, thin: int = 1) -> None:
    """Each play with each kind of job, end and setting, or each *thin*-th. Raises AssertionError where they differ."""
    machine = machine_on(url, coverage)
    played = [(kind, play) for kind, plays in PLAYS.items() for play in plays]
    try:
        for setting, (kind, play), (end, delay) in islice(product(SETTINGS, played, ENDS), 0, None, thin):
            fresh = machine()
            try:
                setting(fresh)
                play(fresh, kind, end, delay)
                fresh.compare()
            except Exception as failure:
                failure.add_note(f"{setting.__name__}, {play.__name__}, {kind}, {end} {delay}")
                raise
            finally:
                fresh.teardown()
    finally:
        machine.link.close()


def search(
    url: str, coverage: Coverage, seed: int, seconds: float, tick: Callable[[float], None] = lambda _elapsed: None
) -> Found | None:
    """Batches with seeds from *seed* on, for so long; ``tick`` is told the seconds that have passed."""
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        tick(elapsed)
        if found := run_example_batch(url, coverage, seed):
            return found
        seed += 1
    return None


def _reason(failure: Exception) -> str:
    """What was raised, and by which line of the rules."""
    place = traceback.extract_tb(failure.__traceback__)[-1]
    return f"{type(failure).__name__}: {failure} ({Path(place.filename).name}:{place.lineno}: {place.line})"


def _program(failure: Exception) -> str:
    """The sequence as hypothesis wrote it down, without its heading."""
    notes = "\n".join(getattr(failure, "__notes__", []))
    written = re.search(r"^state = .*^state\.teardown\(\)", notes, re.MULTILINE | re.DOTALL)
    return re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", written[0] if written else notes)  # members of enums
