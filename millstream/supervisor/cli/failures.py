"""What ends a command early: the one place that words errors and chooses exit codes."""

from __future__ import annotations

import os
import sys

import click

from millstream.protocol.errors import ConfigError, MillstreamError

FAILED = 1
USAGE = 2
UNREACHABLE = 69
INTERRUPTED = 130


def exit_code_of(error: BaseException) -> int:
    """Say on stderr what went wrong and return the exit code; re-raise what is a bug of ours."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show(sys.stderr)
        return error.exit_code
    if isinstance(error, MillstreamError):
        _say(error)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return _reader_left()
    if _is_redis_error(error):
        click.echo(f"millstream: Redis: {error}", err=True)
        return UNREACHABLE
    raise error


def _say(error: MillstreamError) -> None:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            click.echo(f"millstream: {problem}", err=True)
    else:
        click.echo(f"millstream: {error}", err=True)


def _reader_left() -> int:
    """``millstream jobs list | head``: the interpreter must not complain about the closed pipe at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _is_redis_error(error: BaseException) -> bool:
    # A redis error can only be on its way if redis is imported; importing it here would cost 100 ms.
    module = sys.modules.get("redis.exceptions")
    return module is not None and isinstance(error, module.RedisError)
