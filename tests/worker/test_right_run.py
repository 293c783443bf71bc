"""A kill, a cancellation or a hand-back is meant for one run, and never hits the next one."""

from __future__ import annotations

import json
import random
import subprocess
import sys

from tests.support.supervised import ROOT

RACES = 1_000


def test_a_thousand_races_hit_only_what_they_were_aimed_at() -> None:
    seed = random.randrange(2**32)
    command = [sys.executable, "-m", "tests.worker.races", str(RACES), str(seed)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, f"seed {seed}: {ran.stderr}"
    outcome = json.loads(ran.stdout)
    ended = outcome["ended"]
    assert outcome["faults"] == [], f"seed {seed}: {ended}"
    assert sum(ended.values()) == RACES
    # Both ends of every race were seen, else it was none.
    for kind in ("kill", "cancel", "hand-back"):
        assert ended.get(f"{kind} hit", 0) >= 20, ended
        assert ended.get(f"{kind} missed", 0) >= 20, ended
