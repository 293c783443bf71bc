"""Commands as processes: with pipes, or on a terminal of their own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.support.supervised import ROOT

Cli = Callable[..., tuple[int, str, str]]
"""What the fixture ``cli`` is: runs a command in this process, returns exit code, stdout and stderr."""

CTRL_C = "\x03"


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command whose output can be read."""
    command = [sys.executable, "-m", "millstream", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        ours, theirs = os.openpty()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "60", **variables}
        command = [sys.executable, "-m", "millstream", *arguments]
        self.process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.descriptor = ours
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.descriptor)

    def read_until(self, text: str) -> None:
        while text not in self.text:
            self.text += os.read(self.descriptor, 4096).decode()

    def answer(self, text: str) -> None:
        """Type *text*; Ctrl-C by its signal, since this is not the command's controlling terminal."""
        if text == CTRL_C:
            self._interrupt()
        else:
            os.write(self.descriptor, text.encode())

    def _interrupt(self) -> None:
        # A signal that arrives between the prompt and the read behind it is noticed only with the next one.
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            if select.select([self.descriptor], [], [], 0.5)[0]:
                return

    def end(self) -> tuple[int, str]:
        """Everything up to the end, and the exit code."""
        while True:
            try:
                part = os.read(self.descriptor, 4096)
            except OSError:  # Linux says EIO when nobody has the other end open any more
                part = b""
            if not part:
                return self.process.wait(20), self.text
            self.text += part.decode()
