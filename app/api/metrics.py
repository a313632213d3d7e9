"""GET /metrics: Prometheus text, or JSON for those who ask for it."""

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import services_of
from app.api.documented import Responses, documented
from app.api.envelope import JsonResponse
from app.api.plain_route import PlainRoute
from app.schemas.response import MetricsAnswer

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

_ZERO = re.compile(r"q=0(?:\.0*)?")

router = APIRouter(tags=["metrics"], route_class=PlainRoute)

_BOTH: Responses = {
    200: {
        "model": MetricsAnswer,
        "description": "Prometheus text; JSON with `Accept: application/json`.",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "# TYPE requests_total counter\n"
                'requests_total{model="sentiment"} 12.0\n',
            }
        },
    }
}


@router.get("/metrics", **documented(MetricsAnswer, other=_BOTH))
async def metrics(request: Request) -> Response:
    """Requests, errors, latencies, batches, queues, tokens and memory, per model and version."""
    measured = services_of(request).metrics
    if wants_json(request.headers.get("accept", "")):
        return JsonResponse(measured.summary())
    return Response(measured.render(), media_type=PROMETHEUS_TEXT)


def wants_json(accept: str) -> bool:
    """`*/*` and the scrapers' own types mean text."""
    return wants("application/json", accept)


def wants(wanted: str, accept: str) -> bool:
    """Whether a media type is named."""
    for entry in accept.lower().replace(" ", "").split(","):
        media_type, *parameters = entry.split(";")
        is_refused = any(_ZERO.fullmatch(parameter) for parameter in parameters)
        if media_type == wanted and not is_refused:
            return True
    return False
