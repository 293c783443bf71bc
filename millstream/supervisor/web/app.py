"""What is served under which path."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor.plan import Plan
from millstream.supervisor.web.exposition import CONTENT_TYPE, Exposition
from millstream.supervisor.web.facts import Facts
from millstream.supervisor.web.health import Report, healthy, ready


def make_app(plan: Plan, board: Scoreboard) -> Starlette:
    """The application. Each request is answered from memory and small files, in one go."""
    facts = Facts(plan.metrics)
    exposition = Exposition(plan, board, facts)

    async def metrics(_: Request) -> Response:
        return Response(exposition.text(), media_type=CONTENT_TYPE)

    async def healthz(_: Request) -> Response:
        return _answer(healthy(plan, board, facts.read()))

    async def readyz(_: Request) -> Response:
        return _answer(ready(plan, board))

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )


def _answer(report: Report) -> JSONResponse:
    return JSONResponse(
        report.to_dict(), status_code=200 if report.passed else 503, headers={"Cache-Control": "no-store"}
    )
