"""``millstream healthcheck``: asks the web child of the supervisor on this host, for containers without curl."""

from __future__ import annotations

import http.client
from typing import Any

import click
import orjson

from millstream.protocol.errors import Unavailable
from millstream.supervisor.cli.options import Globals, connection_options, output_options
from millstream.supervisor.cli.output import print_fields
from millstream.supervisor.cli.session import Session
from millstream.supervisor.config import Settings

TIMEOUT = 5.0
"""Seconds to wait for the answer."""


@click.command()
@click.option("--ready", is_flag=True, help="Ask whether it works, not only whether it is sane.")
@connection_options
@output_options
@click.pass_obj
def healthcheck(options: Globals, ready: bool) -> int:
    """Ask the supervisor on this host how it is.

    Exit code 0: well, or degraded. 1: unhealthy, or not ready. 69: nobody answers.
    """
    session = Session(options)
    address = _address(session.settings)
    _refuse_others(session.settings, address)
    code, report = _ask(address, "/readyz" if ready else "/healthz")
    reasons = "\n".join(reason["text"] for reason in report.get("reasons", ()))
    print_fields(report, session.output, shown={"status": report.get("status"), "reasons": reasons or None})
    return 0 if code == 200 else 1


def _address(settings: Settings) -> str:
    """Where the web child listens: as configured, or as it says itself where any port is fine."""
    if settings.web.bind == "off":
        raise Unavailable('nothing answers: web.bind is "off"')
    if settings.web.bind.rpartition(":")[2].strip("0"):
        return _local(settings.web.bind)
    from millstream.supervisor.web.folder import served_at

    location = settings.location
    try:
        return _local(served_at(settings.supervisor.name, location.url, location.prefix))
    except OSError:
        raise Unavailable(f"no supervisor {settings.supervisor.name!r} runs on this host and serves anything") from None


def _refuse_others(settings: Settings, address: str) -> None:
    """Another project's supervisor, that had the address first, says nothing about ours."""
    from millstream.supervisor.web.folder import serves_another

    location = settings.location
    if serves_another(address, settings.supervisor.name, location.url, location.prefix):
        raise Unavailable(
            f"what answers at {address} is the supervisor of another project: give this one an address of its own "
            "(web.bind), or see whether it runs"
        )


def _local(address: str) -> str:
    """An address that listens on all interfaces is asked on the loopback."""
    host, _, port = address.rpartition(":")
    loopback = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"{loopback.get(host, host)}:{port}"


def _ask(address: str, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        report = orjson.loads(answer.read())
        if not isinstance(report, dict) or "status" not in report:
            raise ValueError
        return answer.status, report
    except (http.client.HTTPException, ValueError):
        raise Unavailable(f"what answers at {address} is no supervisor: see web.bind") from None
    except OSError as error:
        raise Unavailable(f"nobody answers at {address}: {error}") from None
    finally:
        connection.close()
