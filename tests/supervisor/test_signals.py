"""What the supervisor hears: in order, once, however many come at a time, and never asleep over any of it."""

from __future__ import annotations

import subprocess
import sys

from tests.support.supervised import ROOT

STORM = """
import os, signal, sys, time
from millstream.supervisor.signals import Signals

own = Signals()
own.install()
pid = os.getpid()

for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
    os.kill(pid, number)
assert [own.next(), own.next(), own.next(), own.next()] == [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, None]

own.sleep(0)
os.kill(pid, signal.SIGCHLD)
assert own.next() is None, "a death is no order"
begun = time.monotonic()
own.sleep(5)
assert time.monotonic() - begun < 1, "but it was not slept over, though it came before the sleep"
begun = time.monotonic()
own.sleep(0.2)
assert time.monotonic() - begun >= 0.2, "nor heard twice"

sys.setrecursionlimit(60)  # so that few that nest are too many
if os.fork() == 0:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGQUIT)
    os._exit(0)
heard = set()
while signal.SIGQUIT not in heard:
    own.sleep(10)
    while (number := own.next()) is not None:
        heard.add(number)
assert heard == {signal.SIGTERM, signal.SIGQUIT}
own.ignore()
os.kill(pid, signal.SIGTERM)
"""


def test_a_storm_of_signals_is_heard_and_harms_nothing() -> None:
    """In a process of its own, whose handlers they are."""
    done = subprocess.run([sys.executable, "-c", STORM], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
